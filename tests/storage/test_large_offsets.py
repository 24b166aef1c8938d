"""More than 2³¹ values in a shard work; more than that in one batch are refused, never wrapped."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.storage.convert import ROWS
from logitfuse.storage.errors import BadInput
from logitfuse.storage.gathering import gathering
from logitfuse.storage.offsets import MOST_VALUES, check_batches, list_offsets
from logitfuse.storage.schemas import ENCODE, FLOATS, IDS, SCHEMAS
from logitfuse.storage.shards import ShardWriter, read_batches, writing_rows
from logitfuse.tasks.capture import CaptureSettings
from logitfuse.tasks.corpus.settings import CorpusSettings

GROUP = 1 << 27


def test_offsets_keep_their_values_up_to_the_bound() -> None:
    offsets = np.array([0, 7, MOST_VALUES])
    assert list_offsets(offsets, "ids").to_pylist() == offsets.tolist()
    assert list_offsets(np.zeros(1, np.int64), "ids").to_pylist() == [0]


def test_offsets_that_would_wrap_are_refused() -> None:
    with pytest.raises(BadInput, match=r"'ids' has 2,147,483,648 values in one batch of 2 chunks.*max_chunk_bytes"):
        list_offsets(np.array([0, 5, MOST_VALUES + 1]), "ids")


def test_default_chunks_at_the_largest_k_stay_far_below() -> None:
    """A token has a byte at least; a start token and what follows the end token add a position each."""
    (most_k,) = [limit.le for limit in CaptureSettings.model_fields["k"].metadata if hasattr(limit, "le")]
    positions = CorpusSettings.model_fields["max_chunk_bytes"].default + 2
    assert ROWS * positions * most_k <= MOST_VALUES // 4


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 5), st.integers(9, 30))
def test_rows_are_gathered_into_groups_that_offsets_can_count(lengths: list[int], rows: int, most: int) -> None:
    groups: list[dict[str, list]] = []
    with gathering(groups.append, rows, most) as add:
        for number, length in enumerate(lengths):
            add({"number": number, "ids": np.zeros(length, np.int32), "hash": bytes(2)})
    assert [number for group in groups for number in group["number"]] == list(range(len(lengths)))
    for group in groups:
        assert 1 <= len(group["ids"]) <= rows and sum(map(len, group["ids"])) <= most
    if rows * 9 <= most:
        assert all(len(group["ids"]) == rows for group in groups[:-1]), "a group was cut for nothing"


def test_texts_count_by_their_longest_utf8() -> None:
    groups: list[dict[str, list]] = []
    with gathering(groups.append, 64, 40) as add:
        for text in ("aaaaa", "bbbbb", "c"):
            add({"text": text})
        with pytest.raises(BadInput, match="44 values"):
            add({"text": "d" * 11})
    assert [group["text"] for group in groups] == [["aaaaa", "bbbbb"], ["c"]]


@pytest.mark.parametrize(("rows", "most", "refused"), [(1, 4, None), (2, 8, None), (2, 7, 0), (3, 8, 0), (9, 14, None)])
def test_batches_that_offsets_cannot_count_are_refused(
    tmp_path: Path, rows: int, most: int, refused: int | None
) -> None:
    """Row groups of one row each, with 4, 4, 1, 4 and 1 values."""
    with writing_rows(tmp_path / "shard", ENCODE, rows=1) as add:
        for number, length in enumerate([4, 4, 1, 4, 1]):
            ids = np.zeros(length, np.int32)
            add({"doc_id": str(number), "chunk": 0, "text_hash": bytes(16), "last": True, "ids": ids, "ends": ids})
    metadata = pq.read_metadata(tmp_path / "shard")
    if refused is None:
        check_batches(metadata, rows, "shard", most)
    else:
        with pytest.raises(BadInput, match=f"shard: {rows} rows from row group {refused}"):
            check_batches(metadata, rows, "shard", most)


@pytest.mark.slow
def test_arrow_does_not_wrap_where_rows_are_given_as_they_are() -> None:
    """What `ShardWriter.write` is given without `gathering`: more than 32 bits count is told, not cut or mixed up."""
    few = pa.list_(pa.int8())  # the offsets are those of our columns, at a quarter of the memory
    rows = [np.zeros(2**26, np.int8)] * 33
    made = pa.array(rows, few)
    assert isinstance(made, pa.ChunkedArray) and [len(chunk) for chunk in made.chunks] == [31, 2]
    with pytest.raises(TypeError):
        pa.RecordBatch.from_arrays([made], schema=pa.schema([("ids", few)]))
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
        made.combine_chunks()


def test_no_schema_counts_a_shard_in_32_bits() -> None:
    """Offsets of Arrow's lists are per batch; no column of ours counts values across batches."""
    for schema in SCHEMAS.values():
        for field in schema.arrow:
            assert not pa.types.is_list(field.type) or field.type in (IDS, FLOATS), field


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_shard_holds_more_values_than_32_bits_count(tmp_path: Path) -> None:
    """17 row groups of 2²⁷ ids (9 GB, a few MB as they are alike): its last row is read back as it was written."""
    writer = ShardWriter(tmp_path / "large", ENCODE, {})
    ids = np.zeros(GROUP, np.int32)
    for number in range(17):
        ids[-1] = number
        column = pa.ListArray.from_arrays(list_offsets(np.array([0, GROUP]), "ids"), pa.array(ids), type=IDS)
        rest = {"doc_id": [f"d{number}"], "chunk": [0], "text_hash": [bytes(16)], "last": [True], "ends": [[]]}
        writer.write({**rest, "ids": column})
    writer.close()
    with pq.ParquetFile(tmp_path / "large") as file:
        groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        assert sum(group.column(4).num_values for group in groups) == 17 * GROUP > MOST_VALUES
    found = []
    for batch in read_batches(tmp_path / "large", ["doc_id", "ids"], rows=1):
        found.append((batch["doc_id"][0].as_py(), len(batch["ids"].values), batch["ids"].values[-1].as_py()))
    assert found == [(f"d{number}", GROUP, number) for number in range(17)]
