"""Stage headroom on a tiny run, against a loop over the shards that knows nothing of the stage's code."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pyarrow.parquet as pq
import pytest
from done_runs import done_run

from logitfuse.flows.headroom import headroom_table, show_headroom
from logitfuse.kernels.headroom import Tally, TokenClass, fused_classes
from logitfuse.storage.shards import verified_path
from logitfuse.tasks.execute import do_unit
from logitfuse.tasks.headroom import read_headroom, validation_shards, why_not
from logitfuse.tasks.headroom_table import ALL, FUSED, pick_rows, table_rows, warnings
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.reporting.cautions import cautions_of_headroom
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.models
TO_FUSE = ["encode", "check", "capture", "map", "align", "fuse"]


def made(folder: Path, models: Path, **changes: Any) -> Run:
    """Do all stages up to fuse."""
    content = paper_models.recipe_content(folder, models, 16)
    content["corpus"] |= {"held_out_share": 0.4, "test_share": 0.15}
    return done_run(content | changes, TO_FUSE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Run:
    run = made(tmp_path_factory.mktemp("headroom"), models)
    assert do_unit(run, Unit("headroom")).state == "done"
    return run


def table_of(run: Run, stage: str, source: str | None, shard: int) -> list[dict[str, Any]]:
    path = verified_path(run.store, run.record(Unit(stage, source, shard)))
    return pq.read_table(path).to_pylist()


def reference(run: Run) -> dict[tuple[str, str, str], list[tuple[float, float]]]:
    """Return for (split, domain, class) the (own, fused) nats of each validation position that has a target."""
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    labels = list(run.teachers)
    for shard in run.shard_numbers:
        tables = {
            "fuse": table_of(run, "fuse", None, shard),
            "capture": table_of(run, "capture", run.target.label, shard),
            "target": table_of(run, "encode", run.target.tokenizer_label, shard),
        }
        for label, source in run.teachers.items():
            tables[f"ends/{label}"] = table_of(run, "encode", source.tokenizer_label, shard)
            tables[f"align/{label}"] = table_of(run, "align", label, shard)
        for row, fused in enumerate(tables["fuse"]):
            if fused["split"] == "validation":
                chunk = {name: table[row] for name, table in tables.items()}
                add_chunk(found, chunk, labels, run.target.label)
    return found


def add_chunk(found: dict, chunk: dict[str, Any], labels: list[str], target: str) -> None:
    fused, captured = chunk["fuse"], chunk["capture"]
    k, start = len(captured["ids"]) // max(len(captured["tail"]), 1), 0
    target_ends = [*chunk["target"]["ends"], (chunk["target"]["ends"] or [0])[-1] + 1]
    for t, label in enumerate(fused["labels"]):
        stop = start + fused["counts"][t]
        probs = {i: math.exp(p) for i, p in zip(fused["ids"][start:stop], fused["logprobs"][start:stop], strict=True)}
        start = stop
        if not probs:
            continue
        winner = labels[fused["winner"][t]]
        others = [label for label in labels if label != target and chunk[f"align/{label}"]["source_position"][t] >= 0]
        winner = others[0] if winner == target and others else winner
        kind = "own"
        if winner != target:
            position = chunk[f"align/{winner}"]["source_position"][t]
            ends = chunk[f"ends/{winner}"]["ends"]
            after, here = [*ends, ends[-1] + 1][position], target_ends[t]
            kind = "same token" if after == here else "source longer" if after > here else "source shorter"
        q = dict(
            zip(
                captured["ids"][t * k : t * k + k],
                np.exp(captured["logprobs"][t * k : t * k + k]),
                strict=True,
            )
        )
        whole = sum(q.values()) + captured["tail"][t]
        gold = math.exp(captured["gold_logprob"][t])
        outside = max(1 - sum(p / whole for i, p in q.items() if i in probs), gold)
        mass = 1 - fused["mass"][t]
        nats = -math.log(probs[label] if label in probs else max(mass, 1e-300) * gold / outside)
        for domain in (ALL, fused["domain"]):
            for name in (ALL, kind):
                found.setdefault((fused["split"], domain, name), []).append((-captured["gold_logprob"][t], nats))


def test_every_number_is_that_of_a_loop_over_the_shards(run: Run) -> None:
    expected, facts = reference(run), read_headroom(run)
    rows = {(r["split"], r["domain"], r["class"]): r for r in pick_rows(facts["rows"], subject=FUSED) if r["taught"]}
    assert rows.keys() == expected.keys() and len(rows) > 4
    for key, pairs in expected.items():
        own, fused = np.array(pairs).T
        assert rows[key]["taught"] == len(pairs)
        np.testing.assert_allclose([rows[key]["student"], rows[key]["targets"]], [own.mean(), fused.mean()], rtol=1e-4)
    assert {r["split"] for r in facts["rows"]} == {"validation"}
    assert {name for record in run.shards for name, n in record.counts["splits"].items() if n} >= {"validation", "test"}
    assert {r["subject"] for r in facts["rows"]} == {FUSED, "tiny-mpt"}


def test_what_a_source_adds_does_not_hide_behind_the_target_models_share() -> None:
    same, longer, shorter, own, unserved = (
        TokenClass.SAME, TokenClass.LONGER, TokenClass.SHORTER, TokenClass.OWN, TokenClass.UNSERVED
    )  # fmt: skip
    classes = np.array(
        [
            [own, own, own, own, own, own],
            [same, unserved, unserved, shorter, shorter, same],
            [longer, longer, unserved, longer, longer, longer],
        ],
        np.int8,
    )
    found = fused_classes(classes, np.array([0, 0, 0, 1, 2, -1], np.int32))
    assert found.dtype == np.int8 and found.tolist() == [same, longer, own, shorter, longer, unserved]
    assert fused_classes(classes[:1, :2], np.array([0, -1], np.int32)).tolist() == [own, unserved]


def test_it_costs_nothing_the_second_time_and_says_the_same(run: Run) -> None:
    outcome = do_unit(run, Unit("headroom"))
    facts = read_headroom(run)
    assert outcome.state == "kept"
    assert outcome.record.counts["worse_than_target"] == facts["warnings"]
    assert outcome.record.counts["positions"] == facts["positions"] > 100


def test_another_residual_rule_is_another_measurement(run: Run) -> None:
    content = run.recipe.model_dump(mode="json")
    content["train"]["residual"] = "renormalise"
    other = Run(parse_recipe(content, "test"))
    assert do_unit(other, Unit("headroom")).state == "done"
    facts = read_headroom(other)
    (row,) = pick_rows(facts["rows"], subject=FUSED, domain=ALL, **{"class": ALL})
    assert row["ruled_out"] > 0.01
    assert row["difference"] is None and row["targets"] is None and row["student"] > 0
    assert "rule out the true token" in facts["warnings"][0]


def test_without_the_target_as_a_source_it_says_why_not(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path, models, include_target=False)
    assert do_unit(run, Unit("headroom")).state == "done"
    facts = read_headroom(run)
    assert not facts["measured"] and "include_target" in facts["why_not"] and facts["rows"] == []
    show_headroom(facts)
    assert "cannot be measured" in capsys.readouterr().err


def test_test_text_is_left_for_the_last_comparison_even_where_nothing_else_is_held_out(
    tmp_path: Path, models: Path
) -> None:
    content = paper_models.recipe_content(tmp_path, models)
    parts = tmp_path / "parts"
    parts.mkdir()
    for split in ("train", "test"):
        rows = [json.dumps({"id": f"{split}-{n}", "text": f"{split} text, number {n}"}) for n in range(6)]
        (parts / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    content["corpus"] |= {"source": str(parts), "held_out_share": 0.4}
    run = done_run(content, [])
    assert "only test text is held out" in (why_not(run) or "") and validation_shards(run) == []
    content |= {"name": "as-told", "corpus": {**content["corpus"], "test_split": None}}
    assert why_not(done_run(content, [])) is None
    content |= {"name": "nothing", "corpus": {**content["corpus"], "held_out_share": 0.0}}
    assert "Raise corpus.held_out_share" in (why_not(done_run(content, [])) or "")


@pytest.mark.slow
def test_packed_blocks_are_measured_as_the_documents_they_were_made_from(tmp_path: Path, models: Path) -> None:
    """The mean of all sources is the same however rows are packed, so every number must be."""
    mean = {"rule": "weighted", "options": {"temperature": "inf"}}
    found = {}
    for name, fuse in (("documents", mean), ("blocks", {**mean, "granularity": "block", "block_tokens": 50})):
        changes = copy.deepcopy(paper_models.recipe_content(tmp_path, models, 16))
        target = {**changes["target"], "start": "none", "end": "eos"}
        capture = {**changes["capture"], "past_end": True}
        run = made(tmp_path, models, name=name, target=target, capture=capture, fuse=fuse)
        do_unit(run, Unit("headroom"))
        found[name] = {key_of(row): row for row in read_headroom(run)["rows"] if row["taught"]}
    assert found["documents"].keys() == found["blocks"].keys()
    for key, row in found["documents"].items():
        assert found["blocks"][key]["taught"] == row["taught"]
        for name in ("student", "targets", "ruled_out"):
            assert row[name] is not None
            np.testing.assert_allclose(found["blocks"][key][name], row[name], atol=1e-6)


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    return row["split"], row["subject"], row["domain"], row["class"]


def row_of(
    domain: str, kind: str, student: float, targets: float, ruled_out: float = 0.0, taught: int = 400
) -> dict[str, Any]:
    difference, compared = targets - student, round(taught * (1 - ruled_out))
    return {
        "split": "test", "subject": FUSED, "domain": domain, "class": kind, "positions": 500, "taught": taught,
        "compared": compared, "student": student, "targets": None if ruled_out else targets,
        "difference": None if ruled_out else difference, "ruled_out": ruled_out,
        "elsewhere": difference if compared else None,
    }  # fmt: skip


def test_worse_targets_are_warned_of_and_better_ones_are_not() -> None:
    good = [row_of(ALL, ALL, 3.0, 2.8), row_of("law", ALL, 2.0, 1.9), row_of(ALL, "source longer", 4.0, 4.1)]
    assert warnings(good) == []
    bad = [row_of(ALL, ALL, 3.0, 3.1), row_of("law", ALL, 2.0, 2.2), row_of(ALL, "source shorter", 2.4, 5.0)]
    said = warnings(bad)
    assert len(said) == 3 and "worse than the target model itself" in said[0]
    assert "law (+0.20)" in said[1] and "source shorter (+2.60)" in said[2]
    table = headroom_table(bad)
    assert table.row_count == 3 and "test" in str(table.title)
    words = [*("same token", "longer", "shorter", "own"), *("taught", "change", "ruled out")]
    assert [word for word in words if word not in str(table.caption).lower()] == [], "the caption says what they mean"
    facts = {"headroom": {"measured": True, "warnings": said}}
    assert cautions_of_headroom(facts) == said
    assert cautions_of_headroom({}) == []
    json.dumps(bad, allow_nan=False)


def test_ruling_out_true_tokens_is_worse_whatever_is_gained_elsewhere() -> None:
    rows = [row_of(ALL, ALL, 3.0, 2.7, 0.28), row_of("law", ALL, 2.0, 2.2), row_of("code", ALL, 2.0, 1.0, 1.0)]
    said = warnings(rows)
    assert len(said) == 2 and "worse than the target model itself: they rule out the true token at 28.0%" in said[0]
    assert "law (+0.20), code (100.0% ruled out)" in said[1]
    shown = cells_of(headroom_table(rows), "change", "targets", "ruled out")
    assert shown == [
        ("[red]∞[/red]", "∞", "[red]28.0%[/red]"),
        ("[red]+0.200[/red]", "2.200", ""),
        ("[red]∞[/red]", "∞", "[red]100%[/red]"),
    ]
    accident = [row_of(ALL, ALL, 3.0, 2.7, 0.0003, taught=10_000)]
    assert warnings(accident) == [] and cells_of(headroom_table(accident), "change", "ruled out") == [
        ("∞ (-0.300 elsewhere)", "<0.1%")
    ]
    assert len(warnings([row_of(ALL, ALL, 3.0, 3.1, 0.0003, taught=10_000)])) == 1


def cells_of(table: Any, *headers: str) -> list[tuple[str, ...]]:
    return list(zip(*(list(c.cells) for h in headers for c in table.columns if c.header == h), strict=True))


def test_a_handful_of_positions_is_not_judged() -> None:
    """What counts is how many positions are taught, not how many there are."""
    few = [
        row_of("law", ALL, 2.0, 4.0, taught=99), row_of(ALL, "source shorter", 2.0, 4.0, taught=3),
        row_of("code", ALL, 2.0, 4.0, 0.5, taught=60), row_of("docs", ALL, 2.0, 1.9, 0.001, taught=100),
    ]  # fmt: skip
    assert warnings([row_of(ALL, ALL, 3.0, 2.9), *few]) == []
    (said,) = warnings([row_of(ALL, ALL, 3.0, 5.0, taught=37), *few])
    assert "not known" in said and "only 37 positions" in said


def test_a_ruled_out_position_counts_for_the_student_and_makes_the_targets_infinite() -> None:
    tally = Tally()
    own, nats = np.array([1.0, 2.0, 6.0, 9.0]), np.array([0.5, 1.5, np.inf, np.nan])
    tally.add(("test", FUSED, "law"), np.full(4, TokenClass.SAME, np.int8), own, nats)
    row = table_rows(tally)[0]
    assert (row["positions"], row["taught"], row["compared"]) == (4, 3, 2)
    assert row["student"] == 3.0 and row["targets"] is None and row["difference"] is None
    assert row["ruled_out"] == pytest.approx(1 / 3) and row["elsewhere"] == pytest.approx(-0.5)
    json.dumps(row, allow_nan=False)
