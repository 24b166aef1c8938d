"""Which held-out chunks are scored."""

from pathlib import Path

import pytest

from logitfuse.storage.keys import result_key
from logitfuse.tasks.corpus.documents import Document
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.evaluate import EvaluateSettings, held_out_texts
from logitfuse.tasks.prepare import Portion, write_portion


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Two shards of six documents of two domains, each of four chunks; every third one is for training."""
    paths = []
    for shard in range(2):
        portion = Portion()
        for n in range(6):
            text = "\n\n".join(f"paragraph {part} of document {n} of shard {shard}" for part in range(4))
            split = "train" if n % 3 == 2 else "validation"
            portion.add(Document(f"{shard}-{n}", text, "ab"[n % 2], split), "")
        paths.append(tmp_path / f"{shard}.parquet")
        write_portion(portion, 64, paths[-1])
    return paths


def scored(shards: list[Path], **settings: int) -> list[tuple[str, int]]:
    return [(row["doc_id"], row["chunk"]) for row in held_out_texts(shards, EvaluateSettings(**settings))]


def test_all_held_out_chunks_by_default(shards: list[Path]) -> None:
    found = scored(shards)
    assert {name for name, _ in found} == {f"{shard}-{n}" for shard in (0, 1) for n in (0, 1, 3, 4)}
    assert len(found) == 8 * 4


def test_a_document_s_first_chunks_alone(shards: list[Path]) -> None:
    assert scored(shards, chunks_per_document=2) == [(name, chunk) for name, chunk in scored(shards) if chunk < 2]


def test_the_first_documents_of_each_domain_over_all_shards(shards: list[Path]) -> None:
    names = list(dict.fromkeys(name for name, _ in scored(shards, documents_per_domain=3)))
    assert names == ["0-0", "0-1", "0-3", "0-4", "1-0", "1-1"]
    assert scored(shards, documents_per_domain=1, chunks_per_document=1) == [("0-0", 0), ("0-1", 0)]


def test_what_is_not_asked_for_changes_no_key() -> None:
    given = EvaluateSettings(chunks_per_document=None, documents_per_domain=None)
    assert result_key("evaluate", given, []) == result_key("evaluate", EvaluateSettings(), [])
    assert result_key("evaluate", EvaluateSettings(chunks_per_document=1), []) != result_key("evaluate", given, [])
    assert result_key("prepare", CorpusSettings(test_share=0.1), []) != result_key("prepare", CorpusSettings(), [])
