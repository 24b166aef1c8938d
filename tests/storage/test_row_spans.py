"""Rows out of the middle of shards are those that reading all of them gives, whatever the row groups."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logitfuse.storage.capture_rows import writing_capture
from logitfuse.storage.errors import ShardMismatch
from logitfuse.storage.row_spans import read_span

ROWS = 11


def chunk(number: int) -> dict[str, Any]:
    """One captured chunk of `number` positions that keep two tokens each."""
    ids = np.arange(2 * number, dtype=np.int32) + 10 * number
    return {
        "doc_id": f"d{number // 3}", "chunk": number % 3, "text_hash": bytes([number]) * 16, "first": 0,
        "counts": np.full(number, 2, np.int32), "ids": ids,
        "logprobs": np.tile(np.float32([-0.5, -1.5]), number), "draws": np.zeros(0, np.int32),
        "tail": np.full(number, 0.25, np.float32), "gold_logprob": np.full(number, -3, np.float32),
        "gold_rank": np.full(number, 5, np.int32), "logits": np.zeros(0, np.float32),
    }  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[str]]]:
    """The same chunks in both forms, in row groups of other sizes."""
    folder = tmp_path_factory.mktemp("spans")
    for codec, rows in (("plain", 4), ("compact", 3)):
        with writing_capture(folder / codec, codec, 2, rows) as add:
            for number in range(ROWS):
                add(chunk(number))
    return {codec: (folder / codec, ["ids", "counts"]) for codec in ("plain", "compact")}


@pytest.mark.parametrize(("start", "stop"), [(0, ROWS), (0, 1), (3, 4), (2, 9), (4, 8), (ROWS - 1, ROWS)])
def test_a_span_is_the_rows_that_were_written(shards: dict[str, tuple[Path, list[str]]], start: int, stop: int) -> None:
    for batch in read_span(shards, start, stop).values():
        wanted = [chunk(number) for number in range(start, stop)]
        assert batch.column("doc_id").to_pylist() == [row["doc_id"] for row in wanted]
        assert batch.column("ids").to_pylist() == [row["ids"].tolist() for row in wanted]


def test_rows_of_other_text_and_rows_that_are_not_there_are_refused(
    shards: dict[str, tuple[Path, list[str]]], tmp_path: Path
) -> None:
    with writing_capture(tmp_path / "other", "plain", 2, 4) as add:
        for number in range(1, ROWS):
            add(chunk(number))
    together = {"plain": shards["plain"], "other": (tmp_path / "other", ["ids"])}
    with pytest.raises(ShardMismatch, match="not made from the same text"):
        read_span(together, 0, 2)
    with pytest.raises(ShardMismatch, match="no rows 10 to 11"):
        read_span(together, ROWS - 1, ROWS)
