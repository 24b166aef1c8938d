"""Copies of a run whose shards are changed, and what `logitfuse verify` finds in them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from logitfuse.storage.records import Record, to_bytes
from logitfuse.storage.schemas import SCHEMAS
from logitfuse.storage.shards import ShardWriter, stored_file
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.faults import Fault
from logitfuse.tasks.verify.standing import StandingRun
from logitfuse.tasks.verify.verifier import Verifier

LLAMA, MPT, SHARD = "tiny-llama", "tiny-mpt", 1
CAPTURE = Unit("capture", MPT, SHARD)
Row = dict[str, Any]
Edit = Callable[[Row], Any]


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


def unit_record(run: Run, unit: Unit) -> Record:
    return run.shards[unit.needed_shard] if unit.stage == "prepare" else run.record(unit)


def file_of(run: Run, record: Record) -> Path:
    return run.store.local(f"{record.place}/{record.files[0].name}")


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


def another_rank(row: Row) -> None:
    row["gold_rank"][1] = 2 if row["gold_rank"][1] != 2 else 3
