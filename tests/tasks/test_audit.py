"""`logitfuse audit`: what was captured passes; damage, another model, precision or start token is told from noise."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from logitfuse.flows.cli import app
from logitfuse.storage.errors import BadInput
from logitfuse.storage.records import to_bytes
from logitfuse.storage.schemas import CAPTURE
from logitfuse.storage.shards import ShardWriter, stored_file
from logitfuse.tasks.audit.auditor import Auditor
from logitfuse.tasks.audit.findings import SourceAudit, advice
from logitfuse.tasks.audit.measures import Differences
from logitfuse.tasks.audit.readings import stored_reading
from logitfuse.tasks.audit.rounding import Rounding
from logitfuse.tasks.audit.sample import choose, covered, shares, spread
from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.execute import do_prepare, do_units
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.standing import StandingRun

pytestmark = pytest.mark.models
LLAMA, MPT, ALL = "tiny-llama", "tiny-mpt", 1000
Content = dict[str, Any]


def made(content: Content) -> Content:
    """Capture what a recipe asks for; return the recipe."""
    run = Run(parse_recipe(content, "test"))
    claim_folder(run.recipe)
    do_prepare(run)
    for stage in ("encode", "capture"):
        list(do_units(run, run.units(stage)))
    return content


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Content:
    return made(paper_models.recipe_content(tmp_path_factory.mktemp("captured"), models, documents=24))


@pytest.fixture
def content(captured: Content, tmp_path: Path) -> Content:
    shutil.copytree(captured["execution"]["folder"], tmp_path / "runs")
    return captured | {"execution": captured["execution"] | {"folder": str(tmp_path / "runs")}}


def audited(content: Content, source: str = MPT, documents: int = ALL, seed: int = 0) -> SourceAudit:
    auditor = Auditor(StandingRun(parse_recipe(content, "test")), "my.yaml", documents, seed)
    assert source in auditor.sources()
    return auditor.source(source)


def with_source(content: Content, **settings: Any) -> Content:
    return content | {"sources": [content["sources"][0] | settings]}


def shard_of(content: Content, shard: int) -> Path:
    run = Run(parse_recipe(content, "test"))
    record = run.record(Unit("capture", MPT, shard))
    return run.store.local(f"{record.place}/{record.files[0].name}")


def sign(content: Content, shard: int) -> None:
    """Vouch for a shard's bytes in its record, so that only its content can tell."""
    run = StandingRun(parse_recipe(content, "test"))
    record = run.record(Unit("capture", MPT, shard))
    path = run.store.local(f"{record.place}/{record.files[0].name}")
    record = record.model_copy(update={"files": [stored_file(path, record.files[0].name)]})
    run.store.local(f"{record.place}/{record.file_name}").write_bytes(to_bytes(record))


def passed_off(other: Content, content: Content) -> None:
    """Put what one recipe captured where another one's captures lie."""
    for shard in Run(parse_recipe(content, "test")).shard_numbers:
        shutil.copyfile(shard_of(other, shard), shard_of(content, shard))
        sign(content, shard)


def edited(content: Content, shard: int, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = shard_of(content, shard)
    rows = pq.read_table(path).to_pylist()
    edit(rows)
    writer = ShardWriter(path, CAPTURE, {"stage": "capture", "version": str(CAPTURE.version)})
    writer.write({name: [row[name] for row in rows] for name in CAPTURE.arrow.names})
    writer.close()
    sign(content, shard)


def longest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: len(row["tail"]))


@pytest.mark.parametrize("source", [LLAMA, MPT])
def test_what_was_captured_is_as_captured(captured: Content, source: str) -> None:
    found = audited(captured, source)
    assert found.reasons == [] and found.verdict == "as captured"
    assert (found.standing, found.wanted, len(found.shards)) == (3, 3, 3)
    assert found.stored.positions == found.control.positions > 1000
    assert found.stored.kept.count == found.control.kept.count == 4 * found.stored.positions
    facts = found.facts()
    assert facts["stored"]["same_best"] > 0.999 and facts["stored"]["same_set"] > 0.999
    assert 0 < found.stored.kept.rms <= 1.1 * found.stored.kept.rounding_rms
    assert facts["stored"]["kl_mean"] < 2e-6 and facts["control"]["kept"]["max"] < 1e-3
    nats = found.per_token()
    assert nats["stored"] == pytest.approx(nats["live"], rel=1e-3) == pytest.approx(nats["again"], rel=1e-3)
    assert set(found.domains) == {"prose", "mixed"}


@pytest.mark.slow
def test_nats_are_those_that_capture_counted(captured: Content) -> None:
    run = Run(parse_recipe(captured, "test"))
    found = audited(captured)
    records = [run.record(Unit("capture", MPT, shard)) for shard in run.shard_numbers]
    chunks = sum(record.counts["chunks"] for record in records)
    if chunks == found.chunks:  # one chunk of each document is looked at
        assert found.stored.nats == pytest.approx(sum(record.counts["nats"] for record in records))
    assert 0 < found.stored.nats <= sum(record.counts["nats"] for record in records) * (1 + 1e-6)


BFLOAT16 = ("topp", "cold sample", "compact", "published", "many")
KEPT: dict[str, Content] = {
    "topp": {"mode": "topp", "k": 6, "top_p": 0.5, "temperature": 0.1},
    "sampled": {"mode": "sampled", "k": 3, "draws": 8},
    "cold sample": {"mode": "sampled", "k": 2, "draws": 16, "temperature": 0.2},
    "cold": {"temperature": 0.2},
    "compact": {"codec": "compact"},
    "compact cold": {"codec": "compact", "mode": "topp", "k": 12, "top_p": 0.9, "temperature": 0.1},
    "published": {"raw_logits": True, "past_end": True, "max_length": 60},
    "sorted": {"batching": "sorted"},
    "many": {"k": 300},
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Content:
    content = paper_models.recipe_content(tmp_path_factory.mktemp("encoded"), models, documents=6)
    content |= {"include_target": False}
    run = Run(parse_recipe(content, "test"))
    claim_folder(run.recipe)
    do_prepare(run)
    list(do_units(run, run.units("encode")))
    return content


ALWAYS = [("compact cold", "float32")]
SLOWLY = [*((m, "float32") for m in KEPT), *((m, "bfloat16") for m in BFLOAT16)]


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [*ALWAYS, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOWLY if case not in ALWAYS)],
)
def test_every_mode_passes_and_another_temperature_does_not(
    mode: str, dtype: str, encoded: Content, tmp_path: Path
) -> None:
    shutil.copytree(encoded["execution"]["folder"], tmp_path / "runs")
    content = with_source(encoded, dtype=dtype) | {"capture": encoded["capture"] | KEPT[mode]}
    content |= {"execution": encoded["execution"] | {"folder": str(tmp_path / "runs")}}
    found = audited(made(content))
    assert found.reasons == [], found.facts()
    assert bool(found.drawn) == ("sample" in mode)
    if mode != "published":  # which knows no temperature
        temperature = content["capture"].get("temperature", 1.0) * 1.1
        warmer = content | {"capture": content["capture"] | {"temperature": temperature}}
        made(warmer)
        passed_off(content, warmer)
        assert audited(warmer).verdict == "differs"


@pytest.mark.parametrize("column", ["logprobs", pytest.param("gold_logprob", marks=pytest.mark.slow)])
def test_one_tampered_value_is_found_with_its_shard(content: Content, column: str) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        row = longest(rows)
        row[column][9] += 0.25

    edited(content, 1, edit)
    found = audited(content)
    what = "kept tokens" if column == "logprobs" else "tokens that follow"
    assert any(f"log-probabilities of {what} differ by" in reason for reason in found.reasons)
    assert found.odd_shards == [1]
    told = advice(found, "my.yaml")
    assert "Only shard 1 of those" in told
    assert f"logitfuse stage capture my.yaml --source {MPT} --shards 1 --redo" in told
    assert audited(content, LLAMA).verdict == "as captured"


@pytest.mark.slow
def test_slightly_scaled_logprobs_are_found(content: Content) -> None:
    """Each value within its own rounding's reach; all of them together are not."""

    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["logprobs"] = [value * (1 + 2.0**-9) for value in row["logprobs"]]

    for shard in range(3):
        edited(content, shard, edit)
    found = audited(content)
    assert any("root mean square" in reason for reason in found.reasons)
    assert found.odd_shards == []  # all are


@pytest.mark.slow
def test_tails_ranks_and_ids_count(content: Content) -> None:
    def tails(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["tail"] = [value * 0.5 for value in row["tail"]]

    def ranks(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["gold_rank"] = [(rank + 1) % 32 for rank in row["gold_rank"]]

    def ids(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["ids"] = [(token + 1) % 50000 for token in row["ids"]]

    for edit, words in ((tails, "distributions diverge"), (ranks, "the rank of the token"), (ids, "the best token is")):
        run = content | {"execution": content["execution"] | {"folder": content["execution"]["folder"] + words[:8]}}
        shutil.copytree(content["execution"]["folder"], run["execution"]["folder"])
        for shard in range(3):
            edited(run, shard, edit)
        assert any(words in reason for reason in audited(run).reasons), words


@pytest.mark.slow
def test_another_precision(content: Content) -> None:
    other = made(with_source(content, dtype="bfloat16"))
    assert audited(other).verdict == "as captured"
    passed_off(other, content)
    found = audited(content)
    assert any("log-probabilities of kept tokens differ" in reason for reason in found.reasons)
    assert "another precision or start token" in advice(found, "my.yaml")


@pytest.mark.slow
def test_another_start_token(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    passed_off(made(with_source(content, start="none")), content)
    found = audited(content)
    assert found.chunks == 0 and found.verdict == "differs"
    assert any("another start token, end token or longest input" in reason for reason in found.reasons)
    run = Run(parse_recipe(content, "test"))
    run.teachers[MPT].__dict__["start_id"] = 11  # as many positions, after another token
    list(do_units(run, [Unit("capture", MPT, shard) for shard in run.shard_numbers]))
    for shard in run.shard_numbers:
        record = run.record(Unit("capture", MPT, shard))
        shutil.copyfile(run.store.local(f"{record.place}/{record.files[0].name}"), shard_of(content, shard))
        sign(content, shard)
    found = audited(content)
    assert any("log-probabilities of kept tokens differ" in reason for reason in found.reasons)


@pytest.mark.slow
def test_other_weights(content: Content, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "others" / MPT
    shutil.copytree(paper_models.tiny_mpt(models), folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.transformer.blocks[0].ffn.up_proj.weight.mul_(1.02)
    model.save_pretrained(folder)
    passed_off(made(with_source(content, model=str(folder))), content)
    found = audited(content)
    assert found.verdict == "differs"
    assert "other weights" in advice(found, "my.yaml")


def test_damaged_and_missing_shards(content: Content) -> None:
    path = shard_of(content, 0)
    run = Run(parse_recipe(content, "test"))
    missing = run.record(Unit("capture", MPT, 2))
    run.store.local(f"{missing.place}/{missing.file_name}").unlink()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = audited(content)
    assert (found.standing, found.wanted, list(found.shards)) == (2, 3, [1])
    assert [reason for reason in found.reasons if "part-00000: " in reason and "checksum" in reason] == found.reasons
    shard_of(content, 1)
    edited(content, 1, lambda rows: longest(rows)["ids"].pop())
    assert any("lists do not belong together" in reason for reason in audited(content).reasons)


@pytest.mark.slow
def test_the_sample(captured: Content) -> None:
    few, again, others = (audited(captured, documents=6, seed=seed) for seed in (0, 0, 1))
    assert few.facts() == again.facts() != others.facts()
    assert few.chunks == 6 and len(few.shards) == 3 and few.domains == Counter(prose=3, mixed=3)
    assert len(audited(captured, documents=1).shards) == 1
    run = Run(parse_recipe(captured, "test"))
    prepared = run.prepared(0)
    path = run.store.local(f"{prepared.place}/{prepared.files[0].name}")
    taken = Counter[str](mixed=100)
    chosen = choose(path, 3, taken, seed=0)
    assert len({doc for doc, _ in chosen}) == 3 and taken == Counter(mixed=100, prose=3)


def test_spreading() -> None:
    assert spread(range(10), 3) == [0, 4, 9] and spread([4, 7], 5) == [4, 7]
    assert shares(7, 3) == [2, 2, 3] and sum(shares(100, 7)) == 100
    ends = np.array([2, -1, 5, 9], np.int32)
    assert covered(ends, np.array([1, 2, 3, 4, 0]), started=True) == 9
    assert covered(ends, np.array([1, 2], np.int32), started=False) == 3


def test_differences() -> None:
    rng = np.random.default_rng(0)
    values, found, parts = rng.normal(0, 0.01, 5000), Differences(), Differences()
    found.add(values, np.full(5000, 0.02))
    for part in np.array_split(values, 7):
        one = Differences()
        one.add(part, np.full(len(part), 0.02))
        parts.join(one)
    assert (parts.bins == found.bins).all() and parts.rms == pytest.approx(found.rms)
    for share in (0.5, 0.99):
        assert found.quantile(share) == pytest.approx(np.quantile(np.abs(values), share), rel=0.05)
    assert found.highest == np.abs(values).max() and found.beyond == pytest.approx(found.highest - 0.02)
    assert Differences().quantile(0.5) == 0


def test_drawn_tokens_count_as_mass() -> None:
    stored = {
        "counts": np.array([3, 1], np.int32), "ids": np.array([5, 7, 9, 2], np.int32),
        "logprobs": np.log([0.5, 0.25, 0.125, 0.75]).astype(np.float32), "draws": np.array([0, 2, 0, 0], np.int32),
        "tail": np.array([0.125, 0.25], np.float32), "gold_logprob": np.zeros(2, np.float32),
        "gold_rank": np.zeros(2, np.int32),
    }  # fmt: skip
    reading = stored_reading(stored)
    assert reading.ids_PK.tolist() == [[5, 9], [2, 0]] and reading.there_PK.tolist() == [[True, True], [True, False]]
    assert reading.rest_P.tolist() == pytest.approx([0.375, 0.25])


def test_rounding_is_what_the_codec_does() -> None:
    from logitfuse.kernels.compact import finest_step, step_numbers, step_values
    from logitfuse.kernels.rounding import round_logprobs, round_mass

    logs = -np.exp(np.random.default_rng(1).uniform(-14, 3.5, 20000)).astype(np.float32)
    plain = round_logprobs(logs)
    assert (np.abs(plain - logs) <= Rounding().of_kept(plain) * 1.01).all()
    finest = finest_step(10)
    compact = step_values(step_numbers(plain, finest), finest)
    assert (np.abs(compact - logs) <= Rounding(10).of_kept(compact) * 1.01).all()
    mass = np.exp(logs)[np.exp(logs) > 1e-6]
    assert (np.abs(np.log(round_mass(mass) / mass)) <= Rounding().of_rest(mass) * 1.05).all()


@pytest.fixture
def recipe(content: Content, tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_command(recipe: Path, content: Content, tmp_path: Path) -> None:
    arguments = ["audit", str(recipe), "--documents", "9", "--json-file", str(tmp_path / "found.json")]
    healthy = CliRunner().invoke(app, arguments)
    assert healthy.exit_code == 0, healthy.output
    assert "tiny-mpt: as captured; 3 of 3 shards captured, 3 looked into, 9 chunks" in healthy.output
    facts = json.loads((tmp_path / "found.json").read_text())["sources"]
    assert [one["verdict"] for one in facts] == ["as captured", "as captured"]
    edited(content, 0, lambda rows: [row["logprobs"].__setitem__(0, -9.5) for row in rows if row["ids"]])
    broken = CliRunner().invoke(app, [*arguments, "--source", MPT])
    assert broken.exit_code == 1
    told = " ".join(broken.output.split())
    assert "tiny-mpt: differs" in told and f"logitfuse stage capture {recipe} --source tiny-mpt" in told
    assert json.loads((tmp_path / "found.json").read_text())["sources"][0]["shards"]["differing"] == [0]


def test_nothing_to_audit(content: Content, recipe: Path) -> None:
    with pytest.raises(BadInput, match="there is no such source"):
        Auditor(StandingRun(parse_recipe(content, "test")), "my.yaml", 4).sources("gpt5")
    with pytest.raises(BadInput, match="nothing is captured with these settings"):
        Auditor(StandingRun(parse_recipe(content | {"capture": {"k": 9}}, "test")), "my.yaml", 4).sources()
    answer = CliRunner().invoke(app, ["audit", str(recipe), "--set", "execution.folder=/tmp/not/there"])
    assert "nothing is captured" in str(answer.exception)
