"""`logitfuse verify`: a healthy run passes; every kind of damage is found, named, and told how to redo."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from done_runs import done_run
from typer.testing import CliRunner

from logitfuse.flows.cli import app
from logitfuse.kernels.rounding import round_logprobs, round_mass
from logitfuse.storage.errors import BadInput
from logitfuse.storage.records import Record, to_bytes
from logitfuse.storage.schemas import SCHEMAS
from logitfuse.storage.shards import ShardWriter, stored_file
from logitfuse.tasks.convert import convert_units
from logitfuse.tasks.execute import do_units
from logitfuse.tasks.prepare import listing_path
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.chunks import OWN, Chunks, Lists
from logitfuse.tasks.verify.faults import Fault
from logitfuse.tasks.verify.standing import StandingRun
from logitfuse.tasks.verify.text import falling_ends
from logitfuse.tasks.verify.verifier import Verifier

pytestmark = pytest.mark.models
LLAMA, MPT, SHARD = "tiny-llama", "tiny-mpt", 1
PAPER = {
    "encode": {"special_tokens": "special"},
    "capture": {"k": 4, "raw_logits": True, "past_end": True, "max_length": 60},
    "map": {"strategy": "exact"},
    "align": {"strategy": "dtw", "fallback": "current_token", "collision": "first", "values": "logits"},
    "fuse": {
        "rule": "avg_ce", "options": {"precision": "bf16"}, "granularity": "block", "block_tokens": 48,
        "score": "nats_per_token",
    },
}  # fmt: skip


def make(content: dict[str, Any]) -> dict[str, Any]:
    """Do all stages that need no training; return the recipe."""
    run = done_run(content, ["encode", "check", "adapt", "capture", "map", "align", "fuse", "headroom"])
    list(do_units(run, [Unit("evaluate", LLAMA), Unit("evaluate", MPT)]))
    return content


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("healthy")
    content = paper_models.recipe_content(folder, folder / "models", documents=48)
    content["corpus"] |= {"documents_per_shard": 24}
    return make(content | {"fuse": {"rule": "weighted"}})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("published")
    content = paper_models.recipe_content(folder, folder / "models", documents=12) | PAPER
    content["target"] |= {"start": "none"}
    content["sources"][0] |= {"start": "none"}
    content["corpus"] |= {"published_split": 60}
    return make(content)


@pytest.fixture
def content(healthy: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return copied(healthy, tmp_path)


def copied(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the recipe of a copy of the run, to be damaged."""
    shutil.copytree(content["execution"]["folder"], folder / "runs")
    return content | {"execution": content["execution"] | {"folder": str(folder / "runs")}}


def verified(content: dict[str, Any], stages: list[str] = ORDER, source: str | None = None) -> Verifier:
    verifier = Verifier(StandingRun(parse_recipe(content, "test")), "my.yaml")
    for stage in stages:
        verifier.stage(stage, source)
    return verifier


def faults(content: dict[str, Any], stages: list[str] = ORDER) -> list[Fault]:
    return verified(content, stages).faults


@pytest.mark.parametrize("name", ["healthy", "published"])
def test_a_healthy_run_has_no_fault(name: str, request: pytest.FixtureRequest) -> None:
    content = request.getfixturevalue(name)
    verifier = Verifier(StandingRun(parse_recipe(content, "test")), "my.yaml")
    found = {stage: verifier.stage(stage) for stage in ORDER}
    assert verifier.faults == []
    assert all(found[stage].rows for stage in SCHEMAS)
    assert all(found[stage].missing == 0 for stage in ORDER[:9])
    assert found["evaluate"].shards == 2 and found["evaluate"].missing == 1
    assert verifier.stale == []


def unit_record(run: Run, unit: Unit) -> Record:
    return run.shards[unit.needed_shard] if unit.stage == "prepare" else run.record(unit)


def file_of(run: Run, record: Record) -> Path:
    return run.store.local(f"{record.place}/{record.files[0].name}")


Row = dict[str, Any]
Edit = Callable[[Row], Any]


def edited(content: dict[str, Any], unit: Unit, edit: Callable[[list[Row]], Any]) -> None:
    """Change a shard's rows and vouch for the new bytes in its record, so that only its content can tell."""
    run = StandingRun(parse_recipe(content, "test"))
    record = unit_record(run, unit)
    path, schema = file_of(run, record), SCHEMAS[unit.stage]
    rows = pq.read_table(path).to_pylist()
    edit(rows)
    writer = ShardWriter(path, schema, {"stage": schema.stage, "version": str(schema.version)})
    writer.write({name: [row[name] for row in rows] for name in schema.arrow.names})
    writer.close()
    sign(run, record, path)


def sign(run: Run, record: Record, path: Path) -> None:
    changed = record.model_copy(update={"files": [stored_file(path, record.files[0].name)]})
    run.store.local(f"{record.place}/{record.file_name}").write_bytes(to_bytes(changed))


def put(column: str, value: Any, at: int = 1) -> Edit:
    """Return an edit that sets one value of a list column."""

    def edit(row: Row) -> None:
        row[column][at] = value

    return edit


def cut(*columns: str, by: int = 1) -> Edit:
    """Return an edit that takes the last values of list columns away."""

    def edit(row: Row) -> None:
        for column in columns:
            row[column] = row[column][:-by]

    return edit


def swap(column: str, first: int = 0, second: int = 1) -> Edit:
    def edit(row: Row) -> None:
        row[column][first], row[column][second] = row[column][second], row[column][first]

    return edit


def change(column: str, value: Any) -> Edit:
    def edit(row: Row) -> None:
        row[column] = value(row[column])

    return edit


CAPTURE = Unit("capture", MPT, SHARD)
ENTRIES = ("ids", "logprobs")
ALL_OF_A_POSITION = ("tail", "gold_logprob", "gold_rank")


def one_position_less(row: Row) -> None:
    cut("counts", *ALL_OF_A_POSITION)(row)
    cut(*ENTRIES, by=4)(row)


def another_rank(row: Row) -> None:
    row["gold_rank"][1] = 2 if row["gold_rank"][1] != 2 else 3


# What is changed, one chunk each, and the words that must name it.
PLANTED: dict[str, tuple[Unit, list[tuple[Edit, str]]]] = {
    "encode": (
        Unit("encode", MPT, SHARD),
        [
            (put("ids", 10**6), "ids outside 0 to"),
            (put("ids", -1), "ids outside 0 to"),
            (swap("ends"), "ends fall"),
            (put("ends", 10**6, -1), "beyond the end of the text"),
            (cut("ends"), "ids and ends differ in length"),
            (change("last", lambda last: not last), "last is not what prepare says"),
        ],
    ),
    "capture": (
        CAPTURE,
        [
            (one_position_less, "it has not the positions that its tokens give"),
            (cut("ids"), "ids are not as many as counts says"),
            (put("counts", 3), "counts are not 4, as capture's settings say"),
            (cut("counts"), "counts is not one a position"),
            (change("draws", lambda _: [0]), "draws are not empty"),
            (cut("tail"), "it has not the positions"),
            (cut("gold_rank"), "gold_rank is not one a position"),
            (change("logits", lambda _: [1.0]), "logits are not empty"),
            (change("first", lambda _: 1), "first is not 0"),
            (put("ids", 50432), "ids outside 0 to 50431"),
            (lambda row: put("ids", row["ids"][0])(row), "a token is kept twice"),
            (put("logprobs", 0.5, 0), "above 0"),
            (put("logprobs", float("nan"), 0), "not finite"),
            (lambda row: (swap("logprobs", 0, 3)(row), swap("ids", 0, 3)(row)), "not best first"),
            (change("logprobs", lambda p: [p[0] * (1 + 2**-14), *p[1:]]), "logprobs have more digits"),
            (change("tail", lambda tail: [tail[0] * (1 + 2**-14), *tail[1:]]), "tail has more digits"),
            (change("gold_logprob", lambda gold: [gold[0] * (1 + 2**-14), *gold[1:]]), "gold_logprob has more digits"),
            (change("tail", lambda tail: [tail[0] * 0.9, *tail[1:]]), "do not add up to 1"),
            (put("gold_logprob", 0.25), "gold_logprob is not finite, or above 0"),
            (put("gold_logprob", float("nan")), "does not stand exactly where a token follows"),
            (put("gold_rank", 33), "gold_rank outside 0 to 32"),
            (another_rank, "the token that follows is not where gold_rank says"),
        ],
    ),
    "align": (
        Unit("align", LLAMA, SHARD),
        [
            (put("source_position", 10**6, 0), "none that was captured"),
            (put("source_position", -1, 0), "what serves a position and what it holds do not agree"),
            (change("counts", lambda counts: [counts[0] + 1, *counts[1:]]), "not as many as counts says"),
            (put("counts", -1, 0), "counts below 0"),
            (cut("mass"), "mass is not one a position"),
            (cut("source_position"), "source_position is not one a position"),
            (put("ids", 32000, 0), "ids outside 0 to 31999"),
            (lambda row: put("ids", row["ids"][0])(row), "an id stands twice"),
            (lambda row: (swap("logprobs")(row), swap("ids")(row)), "not best first"),
            (change("mass", lambda mass: [mass[0] * 0.9, *mass[1:]]), "mass is not the sum"),
            (put("mass", 1.5, 0), "mass below 0 or above 1"),
        ],
    ),
    "fuse": (
        Unit("fuse", None, SHARD),
        [
            (put("inputs", 7), "inputs are not the tokens of its text"),
            (put("labels", 7), "labels are not the tokens of its text"),
            (put("labels", 32000), "labels outside 0 to 31999"),
            (put("winner", 2), "winner is none of the sources"),
            (put("weights", 1.5, 0), "weights outside 0 to 1"),
            (cut("scores"), "scores are not one for each of the 2 sources"),
            (put("scores", float("inf"), 0), "scores are infinite"),
            (put("mass", -0.5, 0), "mass below 0 or above 1"),
            (change("split", lambda _: "other"), "split is not what prepare says"),
            (put("logprobs", -2.0**-9, -1), "mass is not the sum"),
        ],
    ),
    "evaluate": (
        Unit("evaluate", MPT),
        [
            (put("nats", -1.0), "nats are not finite, or below 0"),
            (cut("nats"), "ends and nats differ in length"),
            (change("bytes", lambda size: size + 1), "bytes is not the length of its text"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("stage", PLANTED)
def test_planted_values_are_found_and_named(content: dict[str, Any], stage: str) -> None:
    unit, planted = PLANTED[stage]
    run = StandingRun(parse_recipe(content, "test"))
    unit = Unit("encode", run.teachers[MPT].tokenizer_label, SHARD) if stage == "encode" else unit
    changed: list[tuple[str, int]] = []

    def edit(rows: list[Row]) -> None:
        long = [row for row in rows if len(row.get("ids", row.get("nats", []))) > 8 and served(row)]
        for row, (change_row, _) in zip(long, planted, strict=False):
            change_row(row)
            changed.append((row["doc_id"], row["chunk"]))

    edited(content, unit, edit)
    assert len(changed) == len(planted)
    found = faults(content, [stage])
    for place, (_, words) in zip(changed, planted, strict=True):
        named = [f for f in found if words in f.what]
        assert named, (words, [f.what for f in found])
        assert named[0].chunks > 1 or (named[0].document, named[0].chunk) == place
    assert {(f.document, f.chunk) for f in found if f.document} <= set(changed)
    shard = "" if unit.shard is None else f" --shards {SHARD}"
    source = f" --source {unit.source}" if unit.source else ""
    assert {f.redo for f in found} == {f"logitfuse stage {stage} my.yaml{source}{shard} --redo"}
    assert {f.unit for f in found} == {unit}


def served(row: Row) -> bool:
    """Whether a row of align or fuse begins with positions that have several entries."""
    return "counts" not in row or min(row["counts"][:2]) > 1


MODES: dict[str, dict[str, Any]] = {
    "topp": {"mode": "topp", "k": 6, "top_p": 0.5, "temperature": 0.1},  # a random model is sure of nothing else
    "sampled": {"mode": "sampled", "k": 3, "draws": 8},
    "warm": {"temperature": 2.0},
    "compact": {"codec": "compact"},
    "compact topp": {"mode": "topp", "k": 6, "top_p": 0.5, "temperature": 0.1, "codec": "compact"},
    "compact sample": {"mode": "sampled", "k": 2, "draws": 16, "temperature": 1.5, "codec": "compact"},
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("modes")
    content = paper_models.recipe_content(folder, folder / "models", documents=16) | {"include_target": False}
    done_run(content, ["encode"])
    return content


def captured(content: dict[str, Any], mode: str) -> dict[str, Any]:
    content = content | {"capture": content["capture"] | MODES[mode]}
    run = Run(parse_recipe(content, "test"))
    list(do_units(run, run.units("capture")))
    return content


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_healthy_in_either_form(encoded: dict[str, Any], mode: str, tmp_path: Path) -> None:
    content = captured(copied(encoded, tmp_path), mode)
    assert faults(content, ["capture"]) == []
    run, other = Run(parse_recipe(content, "test")), "plain" if "codec" in MODES[mode] else "compact"
    assert {done.state for done in convert_units(run, other)} == {"converted"}
    content["capture"] |= {"codec": other}
    verifier = Verifier(StandingRun(parse_recipe(content, "test")), "my.yaml")
    facts = verifier.stage("capture")
    assert verifier.faults == [] and facts.shards == 2 and facts.rows > 16


def places(row: Row) -> list[slice]:
    """Return where the tokens of each position lie."""
    ends = np.cumsum(row["counts"])
    return [slice(int(end - count), int(end)) for end, count in zip(ends, row["counts"], strict=True)]


def chosen(row: Row, test: Callable[[Row, int, slice], bool]) -> tuple[int, slice]:
    return next((p, place) for p, place in enumerate(places(row)) if test(row, p, place))


def too_few(row: Row) -> None:
    p, place = chosen(row, lambda row, p, place: 1 < row["counts"][p] < 6)
    row["tail"][p] = float(round_mass(row["tail"][p] + np.exp(row["logprobs"][place.stop - 1])))
    row["counts"][p] -= 1
    del row["ids"][place.stop - 1], row["logprobs"][place.stop - 1]


def too_many(row: Row) -> None:
    p, place = chosen(row, lambda row, p, place: row["counts"][p] < 6 and 0 not in row["ids"][place])
    less = float(round_logprobs(min(row["logprobs"][place.stop - 1], np.log(row["tail"][p])) - 3))
    row["tail"][p] = float(round_mass(row["tail"][p] - np.exp(less)))
    row["counts"][p] += 1
    row["ids"].insert(place.stop, 0)
    row["logprobs"].insert(place.stop, less)


def drawn(column: str, change: Callable[[Any], Any]) -> Edit:
    """Return an edit of a drawn token of the first position whose draws are of several tokens."""

    def edit(row: Row) -> None:
        _, place = chosen(row, lambda row, p, place: sum(draws > 0 for draws in row["draws"][place]) > 2)
        at = next(n for n in range(place.start, place.stop) if row["draws"][n])
        row[column][at] = change(row[column][at])

    return edit


IN_MODES: dict[str, list[tuple[Edit, str]]] = {
    "topp": [
        (put("counts", 0, 0), "counts are not 1 to 6"),
        (too_few, "kept tokens do not reach capture.top_p"),
        (too_many, "more tokens are kept than reach capture.top_p"),
    ],
    "sampled": [
        (put("counts", 12, 0), "counts are not 3 to 11"),
        (cut("draws"), "draws are not as many as counts says"),
        (drawn("draws", lambda draws: draws + 1), "draws do not add up to 8"),
        (drawn("draws", lambda draws: 0), "tokens kept for certain are not capture.k"),
        (drawn("draws", lambda draws: -draws), "draws below 0"),
        (drawn("logprobs", lambda p: float(round_logprobs(p - 0.1))), "not in proportion to their draws"),
        (put("tail", 0.25, 0), "tail is not 0"),
    ],
    "warm": [
        (put("gold_rank", 33), "gold_rank outside"),
        (another_rank, "not where gold_rank says"),
        (change("tail", lambda tail: [tail[0] * 0.5, *tail[1:]]), "do not add up to 1"),
    ],
}


@pytest.mark.parametrize("mode", IN_MODES)
def test_planted_values_of_a_mode(encoded: dict[str, Any], mode: str, tmp_path: Path) -> None:
    content, planted = captured(copied(encoded, tmp_path), mode), IN_MODES[mode]
    changed: list[tuple[str, int]] = []

    def edit(rows: list[Row]) -> None:
        long = [row for row in rows if len(row["tail"]) > 8]
        for row, (change_row, _) in zip(long, planted, strict=False):
            change_row(row)
            changed.append((row["doc_id"], row["chunk"]))

    edited(content, CAPTURE, edit)
    assert len(changed) == len(planted)
    found = faults(content, ["capture"])
    for place, (_, words) in zip(changed, planted, strict=True):
        assert any(words in f.what and (f.chunks > 1 or (f.document, f.chunk) == place) for f in found), (words, found)
    assert {(f.document, f.chunk) for f in found} <= set(changed)


def test_a_damaged_compact_shard(encoded: dict[str, Any], tmp_path: Path) -> None:
    content = captured(copied(encoded, tmp_path), "compact")
    run = StandingRun(parse_recipe(content, "test"))
    record = run.record(CAPTURE)
    path = file_of(run, record)
    whole = pq.read_table(path)

    def rewritten(column: str, edit: Callable[[list[int]], Any], **metadata: str) -> list[str]:
        rows = whole.column(column).to_pylist()
        edit(next(row for row in rows if len(row) > 8))
        number = whole.schema.get_field_index(column)
        table = whole.set_column(number, whole.schema.field(column), pa.array(rows, whole.schema.field(column).type))
        known = {key.decode(): value.decode() for key, value in whole.schema.metadata.items()}
        pq.write_table(table.replace_schema_metadata(known | {f"logitfuse.{k}": v for k, v in metadata.items()}), path)
        sign(run, record, path)
        return [f.what for f in faults(content, ["capture"])]

    found = rewritten("steps", lambda steps: put_in(steps, 0, 1))
    assert any("do not add up to 1" in what for what in found)
    (what,) = rewritten("counts", lambda counts: put_in(counts, 1, counts[1] + 1))
    assert "cannot be read" in what
    (what,) = rewritten("counts", len, codec="compact-9")
    assert "its form is not known" in what


def put_in(values: list[int], at: int, value: int) -> None:
    values[at] = value


PREPARED: list[tuple[Edit, str]] = [
    (change("text", lambda text: "X" + text[1:]), "text_hash is not the hash of its text"),
    (change("byte_end", lambda end: end + 1), "byte_end - byte_start is not the length"),
    (change("chunk", lambda chunk: chunk + 5), "it does not follow the chunk before it"),
]


def test_prepared_text(content: dict[str, Any]) -> None:
    def edit(rows: list[Row]) -> None:
        firsts = [row for row in rows if row["chunk"] == 0 and row["text"]]
        for row, (change_row, _) in zip(firsts[::2], PREPARED, strict=False):
            change_row(row)
        for row in rows:
            row["doc_id"] = row["doc_id"] if row["doc_id"] != firsts[7]["doc_id"] else firsts[6]["doc_id"]
        rows[-1]["last"] = False

    edited(content, Unit("prepare", None, SHARD), edit)
    found = faults(content, ["prepare"])
    named = " | ".join(f.what for f in found)
    for words in (*(words for _, words in PREPARED), "its document stands twice", "does not end in the shard"):
        assert words in named
    assert {f.redo for f in found} == {"logitfuse stage prepare my.yaml --redo"}


def test_the_vocabulary_map(content: dict[str, Any]) -> None:
    run = StandingRun(parse_recipe(content, "test"))
    label = run.teachers[MPT].tokenizer_label
    planted = {
        100: (put("weights", 0.5, 0), "weights do not add up to 1"),
        101: (put("weights", float("nan"), 0), "weights are not finite"),
        102: (put("target_ids", 32000, 0), "target_ids outside 0 to 31999"),
        103: (cut("weights"), "target_ids and weights differ in length"),
        104: (change("how", lambda _: "guessed"), "how is no way that is known"),
        105: (change("how", lambda _: "unmapped"), "how and the number of target_ids do not agree"),
        106: (change("distance", lambda _: -2), "distance below -1"),
        107: (change("source_id", lambda _: 7), "source ids are not 0, 1, 2"),
    }

    def edit(rows: list[Row]) -> None:
        for number, (change_row, _) in planted.items():
            change_row(rows[number])
        rows.pop()

    edited(content, Unit("map", label), edit)
    found = {f.what: f for f in faults(content, ["map"])}
    for number, (_, words) in planted.items():
        (fault,) = [f for what, f in found.items() if words in what]
        assert fault.document in (f"source id {number}", "source id 7"), fault
    assert any("50,431 of 50,432 source ids" in what for what in found)
    assert f"logitfuse stage map my.yaml --source {label} --redo" in {f.redo for f in found.values()}


def test_rows_of_another_text_are_found_by_every_join(content: dict[str, Any]) -> None:
    def other_hash(rows: list[Row]) -> None:
        rows[5]["text_hash"] = b"0" * 16

    def swapped(rows: list[Row]) -> None:
        rows[0], rows[-1] = rows[-1], rows[0]

    planted: dict[Unit, tuple[Callable[[list[Row]], Any], str]] = {
        Unit("capture", MPT, 0): (other_hash, "its text_hash is not that of encode/"),
        Unit("capture", MPT, 1): (swapped, "its doc_id is not that of encode/"),
        Unit("capture", LLAMA, 0): (lambda rows: rows.pop(), "holds more chunks than it does"),
        Unit("capture", LLAMA, 1): (lambda rows: rows.append(dict(rows[-1])), "ends before it"),
    }
    for unit, (edit, _) in planted.items():
        edited(content, unit, edit)
    found = faults(content, ["capture"])
    for unit, (_, words) in planted.items():
        assert any(words in f.what for f in found if f.unit == unit), found


def test_two_shards_swapped_with_their_records(content: dict[str, Any]) -> None:
    """Each is whole by itself; only the text that it should be made from tells."""
    run = StandingRun(parse_recipe(content, "test"))
    records = [run.record(Unit("capture", MPT, shard)) for shard in (0, 1)]
    paths = [file_of(run, record) for record in records]
    data = [path.read_bytes() for path in paths]
    for record, path, other in zip(records, paths, reversed(data), strict=True):
        path.write_bytes(other)
        sign(run, record, path)
    found = faults(content, ["capture"])
    assert {(f.unit.shard, f.document is not None) for f in found if "its doc_id is not that of" in f.what} == {
        (0, True),
        (1, True),
    }


def test_damaged_files_and_records(content: dict[str, Any]) -> None:
    run = StandingRun(parse_recipe(content, "test"))

    def file(*unit: Any) -> Path:
        return file_of(run, run.record(Unit(*unit)))

    flipped = file("capture", MPT, 0)
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    short = file("capture", LLAMA, 1)
    short.write_bytes(short.read_bytes()[:-1])
    first, second = file("align", MPT, 0), file("align", MPT, 1)
    first.write_bytes(second.read_bytes())
    file("align", LLAMA, 1).unlink()
    garbage = run.record(Unit("fuse", None, 0))
    file_of(run, garbage).write_bytes(b"PAR1 this is no Parquet file PAR1")
    (file("headroom")).write_text("{}")
    found = faults(content)
    kinds = ("checksum", "bytes, its record", "missing")
    assert {(str(f.unit), words) for f in found for words in kinds if words in f.what} == {
        (f"capture/{MPT}/part-00000", "checksum"),
        (f"capture/{LLAMA}/part-00001", "bytes, its record"),
        (f"align/{MPT}/part-00000", "bytes, its record"),
        (f"align/{LLAMA}/part-00001", "missing"),
        ("fuse/part-00000", "bytes, its record"),
        ("headroom", "bytes, its record"),
    }  # fmt: skip
    assert len(found) == 6
    sign(run, garbage, file_of(run, garbage))
    assert ["cannot be read as Parquet" in f.what for f in faults(content, ["fuse"]) if f.unit.shard == 0] == [True]
    for unit in dict.fromkeys(f.unit for f in found):
        list(do_units(Run(parse_recipe(content, "test")), [unit], redo=True))
    assert faults(content) == []


def test_records_are_checked_too(content: dict[str, Any]) -> None:
    run = StandingRun(parse_recipe(content, "test"))
    damaged = run.record(Unit("fuse", None, 0))
    path = run.store.local(f"{damaged.place}/{damaged.file_name}")
    path.write_bytes(path.read_bytes().replace(b'"chunks"', b'"chinks"'))
    other = run.record(Unit("fuse", None, 1))
    told = other.model_copy(update={"inputs": other.inputs[1:], "counts": other.counts | {"positions": 1}})
    run.store.local(f"{other.place}/{other.file_name}").write_bytes(to_bytes(told))
    verifier = verified(content)
    assert {(f.unit.shard, f.what) for f in verifier.faults if f.unit.stage == "fuse"} == {
        (0, "the record is damaged"),
        (1, "its record's inputs is not that of the work it stands for"),
    }
    (fault,) = [f for f in verifier.faults if f.unit.shard == 0]
    assert fault.redo == f"rm {path} && logitfuse stage fuse my.yaml --shards 0 --redo"


def test_a_wrong_count_and_another_version(content: dict[str, Any]) -> None:
    run = StandingRun(parse_recipe(content, "test"))
    record = run.record(CAPTURE)
    told = record.model_copy(update={"counts": record.counts | {"positions": 1}})
    run.store.local(f"{record.place}/{record.file_name}").write_bytes(to_bytes(told))
    (fault,) = faults(content, ["capture"])
    assert "positions, its record says 1" in fault.what
    path = file_of(run, record)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"logitfuse.stage": "capture", "logitfuse.version": "1"}), path)
    sign(run, told, path)
    (fault,) = faults(content, ["capture"])
    assert "says it is capture version 1, wanted version" in fault.what
    pq.write_table(table.drop_columns(["tail"]), path)
    sign(run, told, path)
    assert any("its columns are not those of stage capture" in f.what for f in faults(content, ["capture"]))


def test_a_damaged_list_of_shards_hides_what_depends_on_it(content: dict[str, Any]) -> None:
    run = StandingRun(parse_recipe(content, "test"))
    path = run.store.local(listing_path(run.recipe.corpus))
    path.write_bytes(path.read_bytes()[:-20])
    verifier = Verifier(StandingRun(parse_recipe(content, "test")), "my.yaml")
    found = [verifier.stage(stage) for stage in ORDER]
    assert [f.what for f in verifier.faults] == ["the record is damaged"]
    assert found[0].stale is None and found[1].stale is None and found[1].missing == 1


@pytest.mark.slow
def test_packed_blocks(published: dict[str, Any], tmp_path: Path) -> None:
    def edit(rows: list[Row]) -> None:
        swap("inputs", 3, 4)(rows[0])
        swap("labels", 2, 3)(rows[0])
        rows[1]["text_hash"] = b"0" * 16
        rows.pop()

    content = copied(published, tmp_path)
    edited(content, Unit("fuse", None, 0), edit)
    found = {f.what: f for f in faults(content, ["fuse"])}
    assert found["it is not the block that packing its documents gives"].chunks == 2
    assert "packing its documents gives more blocks" in found
    run = StandingRun(parse_recipe(content, "test"))
    edited(content, Unit("capture", MPT, 0), lambda rows: swap("logits")(next(r for r in rows if len(r["ids"]) > 8)))
    edited(
        content,
        Unit("capture", LLAMA, 0),
        lambda rows: put("logits", float("nan"))(rows[-1] if rows[-1]["ids"] else rows[0]),
    )
    assert sum("logits are not finite, or not best first" in f.what for f in faults(content, ["capture"])) == 2
    assert run.recipe.capture.raw_logits


def test_what_is_no_longer_wanted_is_stale(content: dict[str, Any]) -> None:
    verifier = Verifier(StandingRun(parse_recipe(content | {"fuse": {"rule": "avg_ce"}}, "test")), "my.yaml")
    found = {stage: verifier.stage(stage) for stage in ORDER}
    assert verifier.faults == []
    assert (found["fuse"].stale, found["fuse"].missing, found["fuse"].shards) == (2, 2, 0)
    assert found["capture"].stale == 0
    assert sum(path.startswith("fuse/") for path in verifier.stale) == 2


@pytest.fixture
def recipe(content: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(content))
    yield path


def test_the_command(recipe: Path, content: dict[str, Any], tmp_path: Path) -> None:
    arguments = ["verify", str(recipe), "--json", str(tmp_path / "found.json")]
    healthy = CliRunner().invoke(app, arguments)
    assert healthy.exit_code == 0, healthy.output
    for words in ("capture: 4 read", "no fault", "What was verified", "0 faults."):
        assert words in healthy.output
    edited(content, CAPTURE, lambda rows: put("logprobs", 0.5, 0)(rows[-1] if rows[-1]["ids"] else rows[0]))
    broken = CliRunner().invoke(app, [*arguments, "--stage", "capture", "--source", MPT])
    assert broken.exit_code == 1, broken.output
    shown = " ".join(broken.output.split())
    assert "FAULT capture/tiny-mpt/part-00001, document 'doc-" in shown
    assert f"logitfuse stage capture {recipe} --source tiny-mpt --shards 1 --redo" in shown
    facts = json.loads((tmp_path / "found.json").read_text())
    assert facts["stages"][0]["shards"] == 2 and facts["faults"][0]["unit"]["stage"] == "capture"
    assert CliRunner().invoke(app, [*arguments, "--stage", "encode"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--stage", "captur"], "Did you mean 'capture'"), (["--source", "gpt5"], "no such source")],
)
def test_mistakes(recipe: Path, arguments: list[str], words: str) -> None:
    answer = CliRunner().invoke(app, ["verify", str(recipe), *arguments])
    assert words in str(answer.exception)


def test_nothing_to_verify(content: dict[str, Any], tmp_path: Path) -> None:
    empty = content | {"execution": content["execution"] | {"folder": str(tmp_path / "nowhere")}}
    with pytest.raises(BadInput, match="nothing to verify"):
        verified(empty)


def test_lists_are_checked_without_a_loop_over_tokens() -> None:
    """The flat form of slices and of empty lists."""
    array = pa.array([[1, 2], [], [3], [4, 5, 6]], pa.list_(pa.int32()))
    lists = Chunks.of({OWN: pa.record_batch({"ids": array}).slice(1, 3)}).lists("ids")
    assert lists.offsets.tolist() == [0, 0, 1, 4] and lists.values.tolist() == [3, 4, 5, 6]
    assert lists.any(lists.values == 5).tolist() == [False, False, True]
    ends = Lists(np.array([0, 3, 5, 5]), np.array([4, -1, 2, 7, 1], np.int32))
    assert falling_ends(ends).tolist() == [True, True, False]
