"""What a verification finds: faults, each with the shard, the document, and the command that redoes the shard."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitfuse.tasks.unit import Unit


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one result; `chunks` of its chunks have it, of which the first is named."""

    unit: Unit
    where: str  # the file, relative to the run's folder
    what: str
    redo: str  # a command
    document: str | None = None
    chunk: int | None = None
    chunks: int = 0

    def __str__(self) -> str:
        more = f" (and {self.chunks - 1:,} more of its chunks)" if self.chunks > 1 else ""
        place = f", document {self.document!r}" if self.document is not None else ""
        place += f", chunk {self.chunk}{more}" if self.chunk is not None else ""
        return f"{self.where}{place}: {self.what}. Redo it: {self.redo}"

    def facts(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass
class ShardFaults:
    """Collects the faults of one result, each kind once: memory does not grow with what is wrong."""

    unit: Unit
    where: str
    redo: str
    _found: dict[str, Fault] = field(default_factory=dict)

    def whole(self, what: str) -> None:
        """Note a fault of the result as a whole."""
        self._found.setdefault(what, Fault(self.unit, self.where, what, self.redo))

    def rows(self, what: str, batch: pa.RecordBatch, rows: NDArray[np.int64]) -> None:
        """Note a fault of some rows of a batch; a vocabulary map's rows are source ids instead of chunks."""
        if not len(rows):
            return
        known = self._found.get(what)
        if known is None:
            named = "doc_id" in batch.schema.names
            first = batch.column("doc_id" if named else "source_id")[int(rows[0])].as_py()
            document = first if named else f"source id {first}"
            chunk = batch.column("chunk")[int(rows[0])].as_py() if named else None
            known = Fault(self.unit, self.where, what, self.redo, document, chunk)
        values = {name: getattr(known, name) for name in known.__dataclass_fields__}
        self._found[what] = Fault(**(values | {"chunks": known.chunks + len(rows)}))

    @property
    def faults(self) -> list[Fault]:
        return list(self._found.values())


def redo_command(recipe: str, unit: Unit) -> str:
    """Return the command that makes a result again; prepare reads the whole corpus, so it has no shards to choose.

    `recipe`: the words that name it, as a shell wants them, with their --set.
    """
    chosen = f" --source {shlex.quote(unit.source)}" if unit.source else ""
    chosen += f" --shards {unit.shard}" if unit.shard is not None and unit.stage != "prepare" else ""
    return f"logitfuse stage {unit.stage} {recipe}{chosen} --redo"


@dataclass(frozen=True)
class StageFacts:
    """One stage: how many results stand, how many are wanted but missing, their rows and bytes, and their faults."""

    stage: str
    shards: int
    missing: int
    rows: int
    bytes: int
    faults: int
    stale: int | None  # standing results that no setting asks for any more, None where that cannot be told


@dataclass(frozen=True)
class Verification:
    """All that was found."""

    stages: Sequence[StageFacts]
    faults: Sequence[Fault]
    stale: Sequence[str]  # paths of records

    def facts(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "stages": [asdict(stage) for stage in self.stages],
            "faults": [fault.facts() for fault in self.faults],
            "stale": list(self.stale),
        }
