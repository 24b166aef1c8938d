"""Damaged files and records, rows of another text, shards that changed places, blocks that no packing gives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from damaged_runs import CAPTURE, LLAMA, MPT, Row, copied, edited, faults, file_of, put, sign, swap, verified

from logitfuse.storage.checksums import checksum_bytes
from logitfuse.storage.errors import MadeByNewer, ShardCorrupt
from logitfuse.storage.keys import canonical_json
from logitfuse.storage.records import to_bytes
from logitfuse.tasks.execute import do_units
from logitfuse.tasks.prepare import listing_path
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.standing import StandingRun
from logitfuse.tasks.verify.verifier import Verifier

pytestmark = pytest.mark.models


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


def test_ids_of_another_model_are_not_aligned(content: dict[str, Any]) -> None:
    def edit(rows: list[Row]) -> None:
        next(row for row in rows if row["ids"])["ids"][0] = 10**6

    edited(content, Unit("capture", MPT, 0), edit)
    with pytest.raises(ShardCorrupt, match=f"outside the head of '{MPT}'.*--redo"):
        list(do_units(Run(parse_recipe(content, "test")), [Unit("align", MPT, 0)]))


def test_what_a_newer_version_made_is_not_told_to_be_deleted(content: dict[str, Any]) -> None:
    run = StandingRun(parse_recipe(content, "test"))
    for path in (run.record(CAPTURE).path, listing_path(run.recipe.corpus)):
        file = run.store.local(path)
        newer = json.loads(file.read_bytes())["record"] | {"format": 2}
        file.write_bytes(canonical_json({"record": newer, "checksum": checksum_bytes(canonical_json(newer))}) + b"\n")
        with pytest.raises(MadeByNewer, match="Upgrade logitfuse"):
            faults(content, [path.partition("/")[0]])


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
