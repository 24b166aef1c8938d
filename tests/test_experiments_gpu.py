"""The studies on a machine that has little: pieces that come one by one, minutes that end, packages that are absent."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_models import WORDS, tiny_model

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "experiments_gpu.py"
# What a machine may lack; the packages that read packaged models and text only fetch.
BLOCKED = "prefect", "datasets", "rapidfuzz", "gguf", "typer"
WITHOUT = f"""
import runpy, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
sys.modules.update(dict.fromkeys({BLOCKED!r}))
import threading
from logitfuse.tasks import train
from logitfuse.tasks.training.trainer import Trainer
train.run_training = lambda config, **_: Trainer(config, threading.Event(), lambda line: None).train()
sys.argv = {[str(SCRIPT)]!r} + sys.argv[1:]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


def script(*arguments: str, cwd: Path, blocked: bool = False) -> subprocess.CompletedProcess[str]:
    begin = ["-c", WITHOUT] if blocked else [str(SCRIPT)]
    return subprocess.run([sys.executable, *begin, *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two tiny models, three variants and one seed."""
    found, rng = tmp_path_factory.mktemp("gpu"), random.Random(0)
    models = [tiny_model(found / name, size, seed=size) for name, size in (("first", 300), ("second", 340))]
    rows = [{"id": f"d{n}", "text": " ".join(rng.choices(WORDS, k=rng.randint(15, 40)))} for n in range(40)]
    (found / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "target": {"model": str(models[0]), "dtype": "float32"},
        "sources": [{"model": str(models[1]), "dtype": "float32"}],
        "corpus": {"source": str(found / "corpus.jsonl"), "id_column": "id", "held_out_share": 0.2, "test_share": 0.2,
                   "max_documents": 40},
        "check": {"nats_per_byte": None},
        "capture": {"k": 4, "tokens_per_batch": 512},
        "train": {"dtype": "fp32", "sequence_length": 128, "tokens_per_step": 256, "max_steps": 2},
        "execution": {"min_free_gb": 0, "device": "cpu", "evaluate_every_steps": 0},
    }  # fmt: skip
    (found / "base.yaml").write_text(yaml.safe_dump(recipe))
    variants = {"base": {"model": "target"}, "clm": {"set": {"train.clm_weight": 1.0}}, "fused": {}}
    contrasts = [{"of": "fused", "against": "clm", "primary": True}]
    study = {"name": "tiny", "recipe": "base.yaml", "variants": variants, "contrasts": contrasts}
    (found / "tiny.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return found


@pytest.mark.slow
def test_a_study_needs_neither_prefect_nor_what_only_other_strategies_need(folder: Path) -> None:
    done = script("run", "--child", "--study", "tiny.yaml", "--locked", cwd=folder, blocked=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny: 3 runs done, 0 stood, 0 failed" in done.stdout
    results = script("run", "--study", "tiny.yaml", "--locked", "--json", "out.json", cwd=folder)
    assert results.returncode == 0, results.stdout + results.stderr
    assert "0 runs done, 3 stood" in results.stdout and "everything is done" in results.stdout
    content = json.loads((folder / "out.json").read_text())
    assert content["primary"]["seeds"] == 1 and content["studies"]["tiny"]["missing"] == []
    assert "cores" in content["studies"]["tiny"]["hardware"]


@pytest.mark.slow
def test_what_needs_rapidfuzz_is_refused_before_the_work(folder: Path) -> None:
    study = yaml.safe_load((folder / "tiny.yaml").read_text())
    study["variants"]["dtw"] = {"set": {"align.strategy": "dtw"}}
    (folder / "dtw.yaml").write_text(yaml.safe_dump(study))
    done = script("run", "--child", "--study", "dtw.yaml", "--folder", "other", cwd=folder, blocked=True)
    assert done.returncode == 2 and "variant dtw needs rapidfuzz" in done.stderr and not (folder / "other").exists()


@pytest.mark.slow
def test_minutes_end_and_the_next_call_goes_on(folder: Path) -> None:
    long = ["run", "--study", "tiny.yaml", "--folder", "long", "--json", "long.json"]
    long += ["--set", "train.epochs=100000", "--set", "train.max_steps=100000"]
    first = script(*long, "--minutes", "1", cwd=folder)
    assert first.returncode == 75, first.stdout + first.stderr
    assert "the minutes are over: stopping" in first.stdout and "the same command goes on" in first.stdout
    if "saved step" not in first.stdout:
        pytest.skip("this machine did not come to training within the minute")
    assert "it did not stop in time" not in first.stdout
    assert json.loads((folder / "long.json").read_text())["studies"]["tiny"]["missing"]
    second = script(*long, "--minutes", "1", cwd=folder)
    assert second.returncode == 75 and "resuming after step" in second.stdout


def test_pieces_come_one_by_one_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        from pieces import join, pack
    finally:
        sys.path.remove(str(SCRIPT.parent))
    from logitfuse.storage.errors import BadInput, ShardCorrupt

    model, parts, into = tmp_path / "model", tmp_path / "parts", tmp_path / "into"
    model.mkdir()
    data = random.Random(0).randbytes(100_000)
    (model / "weights").write_bytes(data)
    (tmp_path / "text.jsonl").write_text("one\n")
    packed = pack([(model, "models/one"), (tmp_path / "text.jsonl", "text/t.jsonl")], parts, 30_000)
    assert len(packed) == 4 and all((parts / piece["name"]).stat().st_size <= 30_000 for piece in packed)
    missing = [piece["name"] for piece in packed]
    with pytest.raises(BadInput, match=r"no pack\.json"):
        join(tmp_path / "nothing", into)
    for number, piece in enumerate(reversed(packed)):
        arriving = tmp_path / f"call{number}"
        arriving.mkdir()
        os.link(parts / piece["name"], arriving / piece["name"])
        if number == 0:
            os.link(parts / "pack.json", arriving / "pack.json")
        missing.remove(piece["name"])
        assert join(arriving, into) == missing
    assert (into / "models/one/weights").read_bytes() == data and (into / "text/t.jsonl").read_text() == "one\n"
    assert join(parts, into) == [] and not (into / ".pieces").exists()
    (parts / "pack.002").write_bytes(bytes(30_000))
    with pytest.raises(ShardCorrupt, match=r"pack\.002 is not as it was packed"):
        join(parts, tmp_path / "again")
