"""What each stage's shards are checked for, and beside which other shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from logitfuse.storage.compact import most_kept
from logitfuse.storage.records import Record
from logitfuse.storage.schemas import ALIGN, CAPTURE, ENCODE, EVALUATE, FUSE, MAP, PREPARE, StageSchema
from logitfuse.storage.shards import undamaged
from logitfuse.tasks.arms import teachers_of
from logitfuse.tasks.fuse import ROWS_AT_ONCE, Fuser, reading
from logitfuse.tasks.fuse_blocks import Block, Packer
from logitfuse.tasks.fuse_documents import CAPTURED, PREPARED, TARGET, Documents
from logitfuse.tasks.fuse_shuffled import fused_documents
from logitfuse.tasks.models.source import Source
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.aligned import Aligned, Mapped
from logitfuse.tasks.verify.captured import Captured, Rules
from logitfuse.tasks.verify.chunks import Content
from logitfuse.tasks.verify.fused import Blocks, Fused
from logitfuse.tasks.verify.reader import Reader
from logitfuse.tasks.verify.rounded import Precision
from logitfuse.tasks.verify.sparse import SparseRows
from logitfuse.tasks.verify.text import EncodedText, PreparedText, ScoredText

MAP_ROWS = 16_384  # source ids that are read at a time


@dataclass(frozen=True)
class Beside:
    """Shards of the same text, one after the other, and the columns that are read of them."""

    records: tuple[Record, ...]
    columns: tuple[str, ...]
    split: str | None = None  # only chunks of this split


@dataclass(frozen=True)
class Plan:
    """How one shard is checked."""

    schema: StageSchema
    content: Content
    beside: dict[str, Beside] = field(default_factory=dict)
    rows: int = 64  # read at a time


Sound = Callable[[Record], bool]  # whether a record's files are the ones that were written


def plan(run: Run, unit: Unit, sound: Sound) -> Plan | None:
    """Return how a unit's shard is checked, None where it is no shard: then its files' checksums say all."""
    made = PLANS.get(unit.stage) if unit != Unit("prepare") else None  # the list of bad documents
    return made(run, unit, sound) if made else None


def _prepare(run: Run, unit: Unit, sound: Sound) -> Plan:
    return Plan(PREPARE, PreparedText())


def _encode(run: Run, unit: Unit, sound: Sound) -> Plan:
    size = run.tokenizers[unit.needed_source].vocabulary.size
    beside = {"prepare": Beside((run.prepared(unit.needed_shard),), ("text", "last"))}
    return Plan(ENCODE, EncodedText(size), beside)


def _capture(run: Run, unit: Unit, sound: Sound) -> Plan:
    source = run.teachers[unit.needed_source]
    encoded = run.record(Unit("encode", source.tokenizer_label, unit.shard))
    precision = Precision(compact=once_compact(run, run.record(unit)) is not None)
    rules = Rules(captured_reader(run, source), run.recipe.capture, source.head_width, precision)
    return Plan(CAPTURE, Captured(rules), {"encode": Beside((encoded,), ("last", "ids"))})


def _map(run: Run, unit: Unit, sound: Sound) -> Plan:
    widths = (s.head_width for s in run.teachers.values() if s.tokenizer_label == unit.source)
    return Plan(MAP, Mapped(max(widths), run.target.vocabulary.size), rows=MAP_ROWS)


def _align(run: Run, unit: Unit, sound: Sound) -> Plan:
    settings, logits = run.recipe.align, run.recipe.align.values == "logits"
    rows = SparseRows(run.target.vocabulary.size, best_first=settings.collision == "add", rounded=not logits)
    content = Aligned(_target_reader(run), rows, logits=logits, fallback=settings.fallback != "mask")
    captured = run.record(Unit("capture", unit.source, unit.shard))
    return Plan(
        ALIGN, content, {"encode": _target_tokens(run, unit), "capture": Beside((captured,), ("first", "tail"))}
    )


def _fuse(run: Run, unit: Unit, sound: Sound) -> Plan:
    settings, align = run.recipe.fuse, run.recipe.align
    logits, sources = align.values == "logits", len(teachers_of(run, unit.source))
    rows = SparseRows(
        run.target.vocabulary.size,
        best_first=align.collision == "add",
        rounded=not logits,
        roundings=2,
        bf16=logits or settings.options.get("precision") == "bf16",
    )
    if settings.granularity == "block":
        return Plan(FUSE, Blocks(rows, sources, unit.part, packed_again(run, unit, sound)))
    prepared = Beside((run.prepared(unit.needed_shard),), ("split", "domain"))
    content = Fused(rows, sources, _target_reader(run))
    return Plan(FUSE, content, {"prepare": prepared, "encode": _target_tokens(run, unit)})


def _evaluate(run: Run, unit: Unit, sound: Sound) -> Plan:
    split = run.recipe.evaluate.split
    records = tuple(record for record in run.shards if record.counts["splits"].get(split))
    return Plan(EVALUATE, ScoredText(), {"prepare": Beside(records, ("text", "split", "domain"), split)})


PLANS: dict[str, Callable[[Run, Unit, Sound], Plan]] = {
    "prepare": _prepare,
    "encode": _encode,
    "capture": _capture,
    "map": _map,
    "align": _align,
    "fuse": _fuse,
    "evaluate": _evaluate,
}


def captured_reader(run: Run, source: Source) -> Reader:
    """Return how stage capture has a source read its chunks."""
    settings = run.recipe.capture
    longest = min(source.context, settings.max_length or source.context)
    return Reader(source.start_id, source.end_id, settings.past_end, longest)


def once_compact(run: Run, captured: Record) -> int | None:
    """Return the tokens a position for which a captured shard's steps were chosen, if it is or once was compact."""
    path = run.store.file(captured, captured.files[0])
    with undamaged(path):
        most = most_kept(pq.read_schema(path), captured.label)
    return run.recipe.capture.most if most is None and "converted_from" in captured.made else most


def _target_reader(run: Run) -> Reader:
    return Reader(run.target.start_id, run.target.end_id, run.recipe.capture.past_end)


def _target_tokens(run: Run, unit: Unit) -> Beside:
    return Beside((run.record(Unit("encode", run.target.tokenizer_label, unit.shard)),), ("last", "ids"))


def packed_again(run: Run, unit: Unit, sound: Sound) -> Iterator[Block] | None:
    """Pack a shard's documents into blocks as stage fuse does; None where what it reads is damaged."""
    recipe, shard, how = run.recipe, unit.shard, reading(run, unit)
    records: dict[str, tuple[Record, list[str]]] = {
        "prepare": (run.prepared(unit.needed_shard), PREPARED),
        "encode": (run.record(Unit("encode", run.target.tokenizer_label, shard)), TARGET),
    }
    for label, source in teachers_of(run, unit.source).items():
        records[f"encode/{label}"] = (run.record(Unit("encode", source.tokenizer_label, shard)), ["ends"])
        records[f"capture/{label}"] = (run.record(Unit("capture", label, shard)), CAPTURED)
        records[f"align/{label}"] = (run.record(Unit("align", label, shard)), how.aligned)
    if not all(sound(record) for record, _ in records.values()):
        return None
    files = {name: (run.store.file(record, record.files[0]), columns) for name, (record, columns) in records.items()}
    documents = fused_documents(files, how, ROWS_AT_ONCE)
    return _blocks(Packer(recipe.fuse.block_tokens), Fuser(recipe.fuse, how), documents)


def _blocks(packer: Packer, fuser: Fuser, documents: Iterator[Documents]) -> Iterator[Block]:
    for group in documents:
        yield from packer.add(group, fuser.scores(group))
    yield from packer.rest()
