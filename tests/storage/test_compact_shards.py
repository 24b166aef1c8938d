"""Compact capture shards: what comes back is what was stored, up to what the codec says it loses."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.sparse import to_half_precision
from logitfuse.storage.compact import COMPACT, decode_batch, encode_batch, read_compact_batches
from logitfuse.storage.convert import is_compact, to_compact, to_plain
from logitfuse.storage.errors import BadInput, ShardCorrupt
from logitfuse.storage.schemas import CAPTURE
from logitfuse.storage.shards import ShardWriter, read_batches, writing_rows

EXACT = ["doc_id", "chunk", "text_hash", "first", "ids", "gold_rank", "logits"]


def row(number: int, positions: int, k: int, rng: np.random.Generator, *, logits: bool = False) -> dict:
    """One chunk as a capture keeps it; its last position has no gold token, some positions leave nothing out."""
    logits_PV = rng.normal(0, 3, (positions, 700))
    logprobs_PV = logits_PV - np.log(np.exp(logits_PV).sum(axis=1, keepdims=True))
    order_PV = np.argsort(-logprobs_PV, axis=1)
    rank_P = np.minimum(rng.geometric(0.1, positions) - 1, 699)
    gold_P = to_half_precision(logprobs_PV[np.arange(positions), order_PV[np.arange(positions), rank_P]])
    kept_PK = np.take_along_axis(logprobs_PV, order_PV[:, :k], axis=1)
    tail_P = np.where(rng.random(positions) < 0.1, 0, 1 - np.exp(kept_PK).sum(axis=1)).clip(0).astype(np.float32)
    if positions:
        gold_P[-1], rank_P[-1] = np.nan, 32
    return {
        "doc_id": f"d{number}", "chunk": 0, "text_hash": bytes([number]) * 16, "first": number % 2,
        "ids": order_PV[:, :k].ravel().astype(np.int32), "logprobs": to_half_precision(kept_PK).ravel(),
        "tail": tail_P, "gold_logprob": gold_P, "gold_rank": np.minimum(rank_P, 32).astype(np.int32),
        "logits": np.float32(np.float16(kept_PK)).ravel() if logits else np.zeros(0, np.float32),
    }  # fmt: skip


def write_plain(path: Path, lengths: list[int], k: int, *, logits: bool = False) -> Path:
    rng = np.random.default_rng(k)
    with writing_rows(path, CAPTURE) as add:
        for number, positions in enumerate(lengths):
            add(row(number, positions, k, rng, logits=logits))
    return path


def assert_close(read: pa.Table, stored: pa.Table, k: int) -> None:
    assert read.schema.names == stored.schema.names
    for name in EXACT:
        assert read[name].to_pylist() == stored[name].to_pylist(), name
    values = {n: [t[n].combine_chunks().flatten().to_numpy() for t in (read, stored)] for n in stored.schema.names[4:]}
    for name in ("logprobs", "gold_logprob"):
        assert np.nanmax(np.abs(np.subtract(*values[name])), initial=0) <= 1 / 32 * 1.01, name
        assert np.array_equal(*map(np.isnan, values[name]))
    assert np.array_equal(values["tail"][0] == 0, values["tail"][1] == 0)
    np.testing.assert_allclose(*values["tail"], rtol=1 / 32 * 1.02)
    rank, gold = values["gold_rank"][0], values["gold_logprob"]
    np.testing.assert_array_equal(gold[0][rank >= min(k, 32)], gold[1][rank >= min(k, 32)])


@pytest.mark.parametrize("k", [1, 10, 64])
@pytest.mark.parametrize("logits", [False, True])
def test_shards_come_back(tmp_path: Path, k: int, logits: bool) -> None:
    plain = write_plain(tmp_path / "plain", [7, 0, 1, 30, 12], k, logits=logits)
    assert to_compact(plain, tmp_path / "compact", k, rows=2) == 5
    assert (is_compact(plain), is_compact(tmp_path / "compact")) == (False, True)
    assert to_plain(tmp_path / "compact", tmp_path / "again") == 5
    again = pq.read_table(tmp_path / "again")
    assert_close(again, pq.read_table(plain), k)
    # What was rounded once stays: compact again, it is the same, byte for byte.
    to_compact(tmp_path / "again", tmp_path / "once-more", k, rows=2)
    assert (tmp_path / "once-more").read_bytes() == (tmp_path / "compact").read_bytes()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.sampled_from([1, 3, 40]), st.integers(0, 99))
def test_any_batch_comes_back(lengths: list[int], k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [row(number, positions, k, rng) for number, positions in enumerate(lengths)]
    batch = pa.RecordBatch.from_pydict({n: [r[n] for r in rows] for n in CAPTURE.arrow.names}, schema=CAPTURE.arrow)
    whole = decode_batch(encode_batch(batch, k), k)
    whole.validate(full=True)
    assert_close(pa.table(whole), pa.table(batch), k)
    part = batch[1:]  # a slice's lists do not begin at 0
    if part.num_rows:
        assert_close(pa.table(decode_batch(encode_batch(part, k), k)), pa.table(part), k)


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
def test_batches_are_those_of_a_plain_shard(tmp_path: Path, rows: int) -> None:
    plain = write_plain(tmp_path / "plain", [3, 5, 0, 2, 8, 1, 4], 4)
    to_compact(plain, tmp_path / "compact", 4, rows=2)
    columns = ["doc_id", "ids", "gold_rank"]
    found = list(read_compact_batches(tmp_path / "compact", columns, rows))
    wanted = list(read_batches(plain, columns, rows))
    assert [batch.to_pylist() for batch in found] == [batch.to_pylist() for batch in wanted]


def test_an_empty_shard_stays_one(tmp_path: Path) -> None:
    to_compact(write_plain(tmp_path / "plain", [], 4), tmp_path / "compact", 4)
    assert list(read_compact_batches(tmp_path / "compact", None)) == []


def test_a_wrong_k_is_refused(tmp_path: Path) -> None:
    plain = write_plain(tmp_path / "plain", [3], 10)
    with pytest.raises(BadInput, match=r"'d0'.*k = 4"):
        to_compact(plain, tmp_path / "compact", 4)


def test_a_compact_shard_is_not_made_compact(tmp_path: Path) -> None:
    to_compact(write_plain(tmp_path / "plain", [3], 4), tmp_path / "compact", 4)
    with pytest.raises(BadInput, match="already"):
        to_compact(tmp_path / "compact", tmp_path / "twice", 4)


def test_unknown_codecs_and_plain_shards_are_refused_by_name(tmp_path: Path) -> None:
    ShardWriter(tmp_path / "later", COMPACT, {"codec": "compact-9", "k": "4"}).close()
    with pytest.raises(ShardCorrupt, match=r"compact-9.*knows compact-1"):
        list(read_compact_batches(tmp_path / "later", None))
    with pytest.raises(ShardCorrupt, match="not a compact"):
        list(read_compact_batches(write_plain(tmp_path / "plain", [3], 4), None))
