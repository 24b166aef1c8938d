"""Small corpora on disk, their documents, and why one is refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.documents import Document
from logitfuse.tasks.corpus.readers import read_documents
from logitfuse.tasks.corpus.settings import CorpusSettings

TEXTS = ["first\r\ntext", "", "zweiter Text: größer, 漢字 😀", "nul \x00 and \u2028 line", " spaces \n\n"]


def settings(source: Path | str, **changes: Any) -> CorpusSettings:
    return CorpusSettings(source=str(source), **{"held_out_share": 0.0, **changes})


def documents(source: Path | str, **changes: Any) -> list[Document]:
    return list(read_documents(settings(source, **changes)))


def rows(texts: list[str], **columns: list[Any]) -> list[dict[str, Any]]:
    return [{"text": text, **{name: column[i] for name, column in columns.items()}} for i, text in enumerate(texts)]


def write_jsonl(file: Path, content: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in content))
    return file


def write_parquet(file: Path, content: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), file)
    return file


def refusal(source: Path | str, **changes: Any) -> str:
    with pytest.raises(BadInput) as caught:
        documents(source, **changes)
    return str(caught.value)
