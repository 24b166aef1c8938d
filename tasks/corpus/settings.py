"""What a user can say about the text: where it is, which columns to read, what is held out, how it is cut."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from logitfuse.storage.settings import Settings
from logitfuse.storage.urls import WITHOUT_SECRETS, check_url, is_url


class CorpusSettings(Settings):
    """The documents that every model reads, and how they become chunks and shards."""

    source: str = Field(
        default="package:demo",
        title="Source of the text",
        description="`package:demo`; a .jsonl, .jsonl.gz, .parquet or .txt file; a folder or a glob of such files; a "
        "folder written by `datasets.save_to_disk`; the id of a data set on the Hugging Face hub, such as "
        "`JeanKaddour/minipile`; or the URL of such a file, folder or glob, such as s3://bucket/corpus.jsonl.",
        json_schema_extra=WITHOUT_SECRETS,
    )
    revision: str | None = Field(
        default=None,
        title="Hub revision",
        description="Branch, tag or commit of a hub data set; empty means its main branch.",
    )
    subset: str | None = Field(
        default=None,
        title="Hub subset",
        description="Which subset (configuration) of a hub data set, if it has several.",
    )
    format: Literal["auto", "jsonl", "parquet", "text", "datasets"] = Field(
        default="auto",
        title="Format",
        description="How local files are read; `auto` goes by their endings. `datasets` is a folder of `save_to_disk` "
        "or a hub id.",
    )

    text_column: str = Field(default="text", title="Text column", description="Column that holds a document's text.")
    id_column: str | None = Field(
        default=None,
        title="Id column",
        description="Column whose values name the documents; they must differ. If empty, file name and row number do.",
    )
    domain_column: str | None = Field(
        default=None,
        title="Domain column",
        description="Column by which results are broken down. If empty, `domain` is used where there is such a column.",
    )

    train_split: str = Field(
        default="train", title="Training split", description="What the corpus calls its training split."
    )
    validation_split: str | None = Field(
        default="validation",
        title="Validation split",
        description="What it calls its validation split; empty: do not read it.",
    )
    test_split: str | None = Field(
        default="test", title="Test split", description="What it calls its test split; empty: do not read it."
    )
    held_out_share: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        title="Held-out share",
        description="Share of documents held out for validation where the corpus has no held-out split of its own.",
    )
    test_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Test share",
        description="Share of documents held out further, for a last, locked comparison, where the corpus has no test "
        "split of its own. They are other ones than those held out for validation, which it does not move.",
    )
    held_out_documents: int | None = Field(
        default=None,
        ge=1,
        title="Held-out documents",
        description="At most this many documents of each held-out split.",
    )
    seed: int = Field(
        default=0, title="Seed", description="Which documents are held out; each seed gives another choice."
    )
    near_duplicate_overlap: float | None = Field(
        default=0.2,
        gt=0,
        title="Near-duplicate overlap",
        description="Leave out training documents that share more than this part of their 13-word runs with held-out "
        "ones. Empty, or 1 and above: leave out exact duplicates only.",
    )

    max_documents: int | None = Field(
        default=None,
        ge=1,
        title="Documents",
        description="Read at most this many documents of the training split, or of a corpus without splits.",
    )
    domains: tuple[str, ...] = Field(
        default=(),
        title="Domains",
        description="Of the documents that are read, use those of these domains alone. Empty: of all.",
    )
    documents_per_domain: int | None = Field(
        default=None,
        ge=1,
        title="Documents per domain",
        description="Of them, use at most this many of each domain, the first ones. All of max_documents are read, so "
        "that a rare domain comes to its number.",
    )
    max_document_bytes: int | None = Field(
        default=None,
        ge=64,
        title="Document size",
        description="Use the first so many bytes of a document at most, up to a natural border, as if it ended there: "
        "a little of many documents instead of all of a few.",
    )
    max_chunk_bytes: int = Field(
        default=8192, ge=64, title="Chunk size", description="Longest chunk a document is cut into, in bytes of UTF-8."
    )
    published_split: int | None = Field(
        default=None,
        ge=1,
        title="Published split",
        description="Cut documents as the published code does, every so many ids of the longest tokenisation, decoded "
        "again (it used 2000). Lossy: text changes. Pieces become documents of their own and are not cut further. "
        "Empty: cut losslessly by bytes.",
    )
    on_bad_document: Literal["refuse", "quarantine"] = Field(
        default="refuse",
        title="Bad documents",
        description="What becomes of a row that cannot be a document: no JSON, no text, not UTF-8, an id that stands "
        "already. refuse: the run ends, and says which. quarantine: it is left out, counted and listed in a file. A "
        "file that cannot be read to its end is always refused.",
    )
    documents_per_shard: int = Field(
        default=2000, ge=1, title="Documents per shard", description="Documents whose chunks make up one shard."
    )

    @field_validator("source")
    @classmethod
    def _is_a_plain_url(cls, source: str) -> str:
        return check_url(source, "source") if is_url(source) else source

    @model_validator(mode="after")
    def _something_is_left(self) -> CorpusSettings:
        if self.held_out_share + self.test_share >= 1:
            raise ValueError("held_out_share and test_share together leave nothing to train on; lower one of them")
        return self
