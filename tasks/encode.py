"""Stage encode: the text as each tokenizer's ids, with the byte at which every token ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from logitfuse.storage.schemas import ENCODE
from logitfuse.storage.settings import Settings
from logitfuse.storage.shards import Rows, read_batches, verified_path, writing_rows
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.models.source import Source
from logitfuse.tasks.models.vocabulary import encode_texts
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run


class EncodeSettings(Settings):
    """How text becomes tokens."""

    model_config = {"title": "Encode"}

    special_tokens: Literal["text", "special"] = Field(
        "text",
        title="Spelled-out special tokens",
        description="What a text that spells out a special token, such as `</s>`, means. text: text, like all else. "
        "special: that token, as the published code reads it.",
    )


COLUMNS = ["doc_id", "chunk", "text_hash", "text", "last"]


def units(run: Run) -> list[Unit]:
    """One unit per tokenizer and shard."""
    return [Unit("encode", label, shard) for label in run.tokenizers for shard in run.shard_numbers]


def work(run: Run, unit: Unit) -> Work:
    """Describe the encoding of one shard by one tokenizer."""
    source = run.tokenizers[unit.needed_source]
    prepared, settings = run.prepared(unit.needed_shard), run.recipe.encode

    def compute(path: Path, progress: Progress) -> Counts:
        return encode_shard(verified_path(run.store, prepared), prepared, source, settings, path, progress)

    return Work(
        stage="encode",
        place=f"encode/{unit.source}",
        name=unit.part,
        shard=unit.shard,
        compute=compute,
        settings=settings,
        inputs=(prepared,),
        fingerprints={"tokenizer": source.vocabulary.fingerprint},
    )


def encode_shard(
    text: Path, prepared: Record, source: Source, settings: EncodeSettings, path: Path, progress: Progress
) -> Counts:
    """Tokenise every chunk of one shard; return what was counted."""
    total, done = prepared.counts["chunks"], 0
    tokens = unknown = 0
    specials = settings.special_tokens == "special"
    with writing_rows(path, ENCODE) as add:
        for batch in read_batches(text, COLUMNS):
            rows = Rows(batch)
            texts = batch.column("text").to_pylist()
            encoded = encode_texts(source.tokenizer, source.vocabulary, texts, specials=specials)
            for row, (ids, ends) in enumerate(encoded):
                add({**rows.identity(row), "last": rows.value("last", row), "ids": ids, "ends": ends})
                tokens += len(ids)
                unknown += int((ends < 0).sum())
            done += len(rows)
            progress(done, total)
    return {"chunks": done, "tokens": tokens, "tokens_without_byte_end": unknown}
