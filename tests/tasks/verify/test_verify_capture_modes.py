"""Every mode and form of capture: a healthy one has no fault, wrong values in it are found."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import paper_models
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damaged_runs import CAPTURE, Edit, Row, another_rank, change, copied, cut, edited, faults, file_of, put, sign
from done_runs import done_run

from logitfuse.kernels.rounding import round_logprobs, round_mass
from logitfuse.tasks.convert import convert_units
from logitfuse.tasks.execute import do_units
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.verify.standing import StandingRun
from logitfuse.tasks.verify.verifier import Verifier

pytestmark = pytest.mark.models


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


def of(modes: Iterable[str], *slowly: str) -> list[Any]:
    """Return modes as parameters, some of them as slow ones."""
    return [pytest.param(mode, marks=pytest.mark.slow) if mode in slowly else mode for mode in modes]


@pytest.mark.parametrize("mode", of(MODES, "sampled", "warm", "compact", "compact topp"))
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


@pytest.mark.parametrize("mode", of(IN_MODES, "topp", "warm"))
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
