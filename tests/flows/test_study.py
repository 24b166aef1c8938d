"""Studies of tiny models: what is shared is made once, a killed study goes on, the locked split tells of every look."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from logitfuse.flows.cli import app
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.engine import silent
from logitfuse.tasks.results import results
from logitfuse.tasks.study.facts import study_facts
from logitfuse.tasks.study.page import write_page
from logitfuse.tasks.study.plan import plan
from logitfuse.tasks.study.reading import read_study, shipped_studies
from logitfuse.tasks.study.results_file import add_study, read_results
from logitfuse.tasks.study.session import Session
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.usefixtures("in_this_process")
TEXT = "the quick brown fox jumps over a lazy dog while naïve Zürich cats sleep in 2023 said Anna"
WORDS = TEXT.split()


class Watching:
    """Notes which stages had something to do."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.said: list[str] = []

    @contextmanager
    def stage(self, run: Any, stage: str, units: Sequence[Unit]) -> Iterator[Callable[[Unit], Any]]:
        self.stages.append(stage)
        yield lambda unit: silent

    def say(self, line: str) -> None:
        self.said.append(line)


def study_content(folder: Path, models: list[Path]) -> dict[str, Any]:
    """A study of three variants and two seeds over the tiny models; writes its corpus and base recipe too."""
    rng = random.Random(0)
    rows = [
        {"id": f"d{n}", "text": " ".join(rng.choices(WORDS, k=rng.randint(15, 40))), "domain": ["a", "b"][n % 2]}
        for n in range(40)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = models
    recipe = {
        "target": {"model": str(first), "dtype": "float32"},
        "sources": [{"model": str(second), "dtype": "float32", "name": "other"}],
        "corpus": {
            "source": "corpus.jsonl", "id_column": "id", "held_out_share": 0.2, "test_share": 0.2,
            "documents_per_shard": 20, "max_documents": 40,
        },
        "check": {"nats_per_byte": None},
        "capture": {"k": 4, "tokens_per_batch": 512},
        "train": {"learning_rate": 1e-3, "dtype": "fp32", "sequence_length": 128, "tokens_per_step": 256},
        "execution": {"folder": "runs", "min_free_gb": 0, "device": "cpu", "evaluate_every_steps": 0},
    }  # fmt: skip
    (folder / "base.yaml").write_text(yaml.safe_dump(recipe))
    return {
        "name": "small",
        "recipe": "base.yaml",
        "set": {"train.max_steps": 2},
        "seeds": [1, 2],
        "variants": {
            "base": {"model": "target"},
            "other": {"model": "other"},
            "room": {"train": False, "set": {"fuse.rule": "avg_ce"}},
            "clm": {"set": {"train.clm_weight": 1.0}},
            "fused": {"set": {"train": {"clm_weight": 0.5}}},
            "clm-half": {"set": {"train.clm_weight": 1.0}, "times_tokens": 0.5, "seeds": [1]},
        },
        "contrasts": [{"of": "fused", "against": "clm", "primary": True}, {"of": "clm", "against": "base"}],
        "token_curve": {"plain": ["clm-half", "clm"], "of": "fused"},
        "plain": "clm",
        "references": ["other"],
    }


def opened(folder: Path, content: dict[str, Any]) -> Session:
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    session = Session(*read_study(str(folder / "study.yaml")))
    session.check()
    return session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found, before = tmp_path_factory.mktemp("study"), Path.cwd()
    os.chdir(found)
    yield found
    os.chdir(before)


@pytest.fixture(scope="module")
def content(folder: Path, tiny_models: list[Path]) -> dict[str, Any]:
    return study_content(folder, tiny_models)


@pytest.fixture(scope="module")
def first(folder: Path, content: dict[str, Any]) -> Watching:
    """What the first time of the whole study had to do."""
    watch = Watching()
    found = opened(folder, content).do(watch)
    assert found.failed == {} and found.done == 8 and found.kept == 0
    return watch


def test_what_variants_share_is_made_once(folder: Path, first: Watching) -> None:
    for stage, times in (("prepare", 1), ("capture", 1), ("align", 1), ("fuse", 2), ("train", 5), ("evaluate", 7)):
        assert first.stages.count(stage) == times, stage
    records = list((folder / "runs/small/capture").glob("*/*.json"))
    assert len(records) == 2 * 2  # models × shards
    assert [line.split("] ")[1] for line in first.said] == [
        "base", "other", "room", "clm, seed 1", "fused, seed 1", "clm-half, seed 1",
        "clm, seed 2", "fused, seed 2",
    ]  # fmt: skip


def test_a_second_time_does_nothing_and_only_one_variant_does_only_its_own(
    folder: Path, content: dict[str, Any], first: Watching
) -> None:
    watch, began = Watching(), time.monotonic()
    found = opened(folder, content).do(watch)
    assert (found.kept, found.done, watch.stages) == (8, 0, [])
    assert time.monotonic() - began < 60
    more = content["variants"] | {"mixed": {"set": {"train.clm_weight": 0.2}, "seeds": [1]}, "no": {}}
    session = opened(folder, content | {"variants": more})
    assert session.do(watch, only=["mixed"]).done == 1 and watch.stages == ["train", "evaluate"]
    assert study_facts(session)["missing"] == ["no, seed 1", "no, seed 2"]


def test_seeds_are_paired_and_numbers_are_the_run_s_own(folder: Path, content: dict[str, Any], first: Watching) -> None:
    session = opened(folder, content)
    facts = study_facts(session)
    by_name = {(run["variant"], run["seed"]): run for run in facts["runs"]}
    assert set(by_name) == {(job.variant, job.seed) for job in session.jobs}
    assert 0 < by_name["clm-half", 1]["tokens"] < by_name["clm", 1]["tokens"]
    for seed in (1, 2):
        clm, fused = by_name["clm", seed], by_name["fused", seed]
        assert clm["tokens"] == fused["tokens"] and clm["steps"] == 2
        order = [_tokens_by_step(session, name, seed) for name in ("clm", "fused")]
        assert order[0] == order[1]
    assert by_name["clm", 1]["nats_per_byte"] != by_name["clm", 2]["nats_per_byte"]
    (contrast, other) = facts["contrasts"]
    expected = [
        by_name["fused", s]["nats_per_byte"]["mean"] - by_name["clm", s]["nats_per_byte"]["mean"] for s in (1, 2)
    ]
    assert contrast["by_seed"] == pytest.approx(expected) and contrast["seeds"] == [1, 2]
    assert contrast["low"] <= contrast["delta"] <= contrast["high"] and "p_holm" not in contrast
    assert other["p_holm"] == other["p"]  # one secondary contrast: nothing to adjust
    assert {row["variant"] for row in facts["headroom"]} == {"room", "fused"}, "clm learns from no targets"
    assert all(run["seconds"]["evaluate"] > 0 for run in facts["runs"] if run["model"])
    assert facts["token_multiple"]["plain"][0]["variant"] == "clm-half"
    run = session.opened.run(next(job for job in session.jobs if str(job) == "fused, seed 2"))
    own = {row.domain: row.nats_per_byte for row in results(run) if row.model == "fused"}
    assert own == pytest.approx(by_name["fused", 2]["nats_per_byte"], abs=1e-4)


def _tokens_by_step(session: Session, variant: str, seed: int) -> list[int]:
    from logitfuse.tasks.train import metrics_file
    from logitfuse.tasks.training.metrics import read_metrics

    run = session.opened.run(next(j for j in session.jobs if (j.variant, j.seed) == (variant, seed)))
    return [line["tokens"] for line in read_metrics(metrics_file(run, run.work(Unit("train", "fused"))))]


def test_the_locked_split_is_looked_at_once_and_a_second_look_is_told(
    folder: Path, content: dict[str, Any], first: Watching
) -> None:
    session, watch = opened(folder, content), Watching()
    assert study_facts(session)["locked"] is None
    assert len(session.look_at_locked(watch)) == 1 and watch.stages == ["evaluate"] * 5  # fused, clm × 2 seeds; base
    assert len(session.look_at_locked(watch)) == 1 and len(watch.stages) == 5
    facts = study_facts(opened(folder, content))
    assert facts["locked"]["caution"] is None and facts["locked"]["primary"]["seeds"] == 2
    assert facts["locked"]["contrasts"][0]["documents"] == sum(facts["text"]["documents"]["test"].values())
    add_study(folder / "results.json", facts)
    primary = read_results(folder / "results.json")["primary"]
    assert set(primary) == {"delta", "low", "high", "seeds", "tokens"} and primary["tokens"] > 0

    changed = content["variants"] | {"fused": {"set": {"train.clm_weight": 0.3}}}
    other = opened(folder, content | {"variants": changed})
    with pytest.raises(BadInput, match="not done yet: fused, seed 1"):
        other.look_at_locked(watch)
    contrasts = [*content["contrasts"], {"of": "fused", "against": "base"}]
    other = opened(folder, content | {"contrasts": contrasts})
    assert study_facts(other)["locked"] is None  # these contrasts were not declared when it was looked at
    assert len(other.look_at_locked(watch)) == 2 and len(watch.stages) == 5
    again = study_facts(other)
    assert "looked at 2 times" in again["locked"]["caution"]
    assert "looked at 2 times" in study_facts(opened(folder, content))["locked"]["caution"]


def test_the_page_is_made_from_the_file_alone(folder: Path, content: dict[str, Any], first: Watching) -> None:
    file, words = folder / "page.json", folder / "words.md"
    add_study(file, study_facts(opened(folder, content)))
    words.write_text("<!-- first -->\nWhat we asked.\n\n<!-- small -->\nWhat we learnt.\n")
    made = write_page(file, folder / "page.md", words)
    text = (folder / "page.md").read_text()
    assert {path.suffix for path in made} == {".md", ".svg"} and all(path.stat().st_size for path in made)
    assert len(made) == 5  # contrasts, losses, tokens, headroom
    assert not any("mathdefault" in path.read_text() for path in made), "matplotlib's markup, which SVG shows raw"
    for part in ("What we asked.", "What we learnt.", "fused − clm", "`train.clm_weight=0.5`", "page/small-losses.svg"):
        assert part in text
    before = {path: path.read_bytes() for path in made}
    write_page(file, folder / "page.md", words)
    assert {path: path.read_bytes() for path in made} == before
    words.write_text("<!-- smal -->\nWords about nothing.\n")
    with pytest.raises(BadInput, match="smal, which is no study"):
        write_page(file, folder / "page.md", words)


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path: Path, tiny_models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    content = study_content(tmp_path, tiny_models) | {"seeds": [1], "token_curve": None}
    del content["variants"]["clm-half"], content["variants"]["room"]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    command = [sys.executable, "-m", "logitfuse.flows.cli", "study", "study.yaml"]
    begun = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True)
    while not list(tmp_path.glob("runs/small/train/fused/metrics.*")) and begun.poll() is None:
        time.sleep(0.1)
    os.killpg(begun.pid, signal.SIGKILL)  # while it trains; pytest's own timeout ends a study that never gets there
    assert begun.wait() == -signal.SIGKILL
    stood = {path.name: path.read_bytes() for path in tmp_path.glob("runs/small/*/**/part-*.json")}
    monkeypatch.chdir(tmp_path)
    watch = Watching()
    found = opened(tmp_path, content).do(watch)
    assert found.failed == {} and found.kept == 2 and not {"capture", "align", "fuse"} & set(watch.stages)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("runs/small/*/**/part-*.json")} == stood
    assert CliRunner().invoke(app, ["study", "study.yaml", "--json", "out.json"]).exit_code == 0
    assert read_results(tmp_path / "out.json")["studies"]["small"]["missing"] == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"contrasts": [{"of": "fuzed", "against": "clm"}]}, "no variant is called 'fuzed'"),
        ({"seeds": [1, 1]}, "a seed is listed twice"),
        ({"lock": "validation"}, "lock the other split"),
        ({"variant": {}}, "Did you mean 'variants'"),
        ({"variants": {"a": {"set": {"train.clm_wait": 1}}}, "contrasts": [], "token_curve": None, "plain": "",
          "references": []}, "Did you mean 'clm_weight'"),
        ({"variants": {"a": {"set": {"corpus.seed": 3}}, "b": {}}, "contrasts": [], "token_curve": None, "plain": "",
          "references": []}, "another corpus"),
        ({"variants": {"a": {"set": {"sources.4.name": "x"}}}, "contrasts": [], "token_curve": None, "plain": "",
          "references": []}, "there are 1, counted from 0"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_done(
    folder: Path, content: dict[str, Any], changed: dict[str, Any], words: str
) -> None:
    (folder / "wrong.yaml").write_text(yaml.safe_dump(content | changed))
    with pytest.raises(BadInput, match=words):
        plan(*read_study(str(folder / "wrong.yaml")))


def test_scale_multiplies_documents_and_steps(folder: Path, content: dict[str, Any]) -> None:
    (folder / "scaled.yaml").write_text(yaml.safe_dump(content | {"set": {"train.max_steps": 20}}))
    jobs = {str(job): job.recipe for job in plan(*read_study(str(folder / "scaled.yaml")), scale=0.5)}
    assert jobs["clm, seed 1"].corpus.max_documents == 20 and jobs["clm, seed 1"].train.max_steps == 10
    assert jobs["clm-half, seed 1"].train.max_steps == 5 and jobs["clm, seed 2"].train.seed == 2


def test_studies_with_one_folder_share_their_runs(folder: Path, content: dict[str, Any]) -> None:
    (folder / "other.yaml").write_text(yaml.safe_dump(content | {"name": "other", "folder": "shared"}))
    study, base = read_study(str(folder / "other.yaml"))
    assert {job.recipe.name for job in plan(study, base)} == {"shared"} and study.name == "other"


def test_scale_multiplies_documents_of_each_domain_where_they_are_set(folder: Path, content: dict[str, Any]) -> None:
    changes = {"train.max_steps": 20, "corpus.documents_per_domain": 8}
    (folder / "scaled.yaml").write_text(yaml.safe_dump(content | {"set": changes}))
    corpus = plan(*read_study(str(folder / "scaled.yaml")), scale=0.5)[0].recipe.corpus
    assert corpus.documents_per_domain == 4 and corpus.max_documents == 40


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_valid(name: str) -> None:
    study, base = read_study(name)
    jobs = plan(study, base)
    assert {job.variant for job in jobs} == set(study.variants) and study.name == name
    assert plan(study, base, scale=0.1)
