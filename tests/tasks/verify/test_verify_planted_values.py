"""Wrong values in a shard whose record vouches for them are found, named, and told how to redo."""

from typing import Any

import pytest
from damaged_runs import CAPTURE, LLAMA, MPT, SHARD, Edit, Row, another_rank, change, cut, edited, faults, put, swap

from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.standing import StandingRun

pytestmark = pytest.mark.models


ENTRIES = ("ids", "logprobs")
ALL_OF_A_POSITION = ("tail", "gold_logprob", "gold_rank")


def one_position_less(row: Row) -> None:
    cut("counts", *ALL_OF_A_POSITION)(row)
    cut(*ENTRIES, by=4)(row)


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
