"""Compact capture shards: what comes back is what was stored, up to what the codec says it loses."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.rounding import round_logprobs, round_mass
from logitfuse.storage.capture_rows import writing_capture
from logitfuse.storage.compact import COMPACT, decode_batch, encode_batch
from logitfuse.storage.convert import is_compact, to_compact, to_plain
from logitfuse.storage.errors import BadInput, ShardCorrupt
from logitfuse.storage.schemas import CAPTURE
from logitfuse.storage.shards import ShardWriter, read_batches, rows_together, writing_rows

EXACT = ["doc_id", "chunk", "text_hash", "first", "counts", "ids", "draws", "gold_rank", "logits"]
LISTS = CAPTURE.arrow.names[4:]
MODES = ["topk", "topp", "sampled", "tempered"]
V = 700


def row(
    number: int, positions: int, k: int, rng: np.random.Generator, mode: str = "topk", logits: bool = False
) -> dict:
    """One chunk as a capture keeps it; its last position has no gold token, some positions leave nothing out."""
    logits_PV = rng.normal(0, 3, (positions, V))
    logprobs_PV = logits_PV - np.log(np.exp(logits_PV).sum(axis=1, keepdims=True))
    order_PV = np.argsort(-logprobs_PV, axis=1)
    rank_P = np.minimum(rng.geometric(0.1, positions) - 1, V - 1)
    gold_P = round_logprobs(logprobs_PV[np.arange(positions), order_PV[np.arange(positions), rank_P]])
    if mode == "tempered":
        logprobs_PV = logits_PV / 2 - np.log(np.exp(logits_PV / 2).sum(axis=1, keepdims=True))
    counts_P = rng.integers(1, k + 1, positions) if mode in ("topp", "sampled") else np.full(positions, k)
    kept_PK = np.take_along_axis(logprobs_PV, order_PV[:, :k], axis=1)
    there_PK = np.arange(k) < counts_P[:, None]
    tail_P = 1 - np.exp(kept_PK, where=there_PK, out=np.zeros_like(kept_PK)).sum(axis=1)
    if mode == "sampled":  # what is drawn is not at its own logarithm, and all mass is given out
        kept_PK, tail_P = -np.sort(rng.gamma(2, 2, kept_PK.shape), axis=1), np.zeros(positions)
    tail_P = np.where(rng.random(positions) < 0.1, 0, tail_P).clip(0)
    if positions:
        gold_P[-1], rank_P[-1] = np.nan, 32
    return {
        "doc_id": f"d{number}", "chunk": 0, "text_hash": bytes([number]) * 16, "first": number % 2,
        "counts": counts_P.astype(np.int32), "ids": order_PV[:, :k][there_PK].astype(np.int32),
        "logprobs": round_logprobs(kept_PK[there_PK]), "tail": round_mass(tail_P),
        "draws": rng.integers(0, 4, counts_P.sum(), np.int32) if mode == "sampled" else np.zeros(0, np.int32),
        "gold_logprob": gold_P, "gold_rank": np.minimum(rank_P, 32).astype(np.int32),
        "logits": np.float32(np.float16(kept_PK[there_PK])) if logits else np.zeros(0, np.float32),
    }  # fmt: skip


def chunks(lengths: list[int], k: int, mode: str = "topk", logits: bool = False) -> list[dict]:
    rng = np.random.default_rng(k)
    return [row(number, positions, k, rng, mode, logits) for number, positions in enumerate(lengths)]


def write_plain(path: Path, lengths: list[int], k: int, mode: str = "topk", logits: bool = False) -> Path:
    with writing_rows(path, CAPTURE) as add:
        for chunk in chunks(lengths, k, mode, logits):
            add(chunk)
    return path


def assert_close(read: pa.Table, stored: pa.Table, mode: str = "topk") -> None:
    assert read.schema.names == stored.schema.names
    for name in EXACT:
        assert read[name].to_pylist() == stored[name].to_pylist(), name
    values = {n: [t[n].combine_chunks().flatten().to_numpy() for t in (read, stored)] for n in LISTS}
    for name in ("logprobs", "gold_logprob"):
        assert np.nanmax(np.abs(np.subtract(*values[name])), initial=0) <= 1 / 32 * 1.01, name
        assert np.array_equal(*map(np.isnan, values[name]))
    assert np.array_equal(values["tail"][0] == 0, values["tail"][1] == 0)
    np.testing.assert_allclose(*values["tail"], rtol=1 / 32 * 1.02)
    elsewhere_P = values["gold_rank"][0] >= np.minimum(values["counts"][0], 32)
    exact_P = elsewhere_P if mode in ("topk", "topp") else np.zeros(0, np.intp)
    np.testing.assert_array_equal(values["gold_logprob"][0][exact_P], values["gold_logprob"][1][exact_P])


@pytest.mark.parametrize("k", [1, 10, 64])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("logits", [False, True])
def test_shards_come_back(tmp_path: Path, k: int, mode: str, logits: bool) -> None:
    plain = write_plain(tmp_path / "plain", [7, 0, 1, 30, 12], k, mode, logits)
    assert to_compact(plain, tmp_path / "compact", k, rows=2) == 5
    assert (is_compact(plain), is_compact(tmp_path / "compact")) == (False, True)
    assert to_plain(tmp_path / "compact", tmp_path / "again") == 5
    again = pq.read_table(tmp_path / "again")
    assert_close(again, pq.read_table(plain), mode)
    # What was rounded once stays: compact again, it is the same, byte for byte.
    to_compact(tmp_path / "again", tmp_path / "once-more", k, rows=2)
    assert (tmp_path / "once-more").read_bytes() == (tmp_path / "compact").read_bytes()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.sampled_from([1, 3, 40]), st.sampled_from(MODES))
def test_any_batch_comes_back(lengths: list[int], k: int, mode: str) -> None:
    rows = chunks(lengths, k, mode)
    batch = pa.RecordBatch.from_pydict({n: [r[n] for r in rows] for n in CAPTURE.arrow.names}, schema=CAPTURE.arrow)
    whole = decode_batch(encode_batch(batch, k), k)
    whole.validate(full=True)
    assert_close(pa.table(whole), pa.table(batch), mode)
    part = batch[1:]  # a slice's lists do not begin at 0
    if part.num_rows:
        assert_close(pa.table(decode_batch(encode_batch(part, k), k)), pa.table(part), mode)


@pytest.mark.parametrize("mode", ["sampled", "tempered"])
def test_gold_tokens_are_stored_where_what_is_kept_does_not_tell_them(tmp_path: Path, mode: str) -> None:
    to_compact(write_plain(tmp_path / "plain", [9, 40], 10, mode), tmp_path / "compact", 10)
    wanted, found = (pq.read_table(tmp_path / name) for name in ("plain", "compact"))
    np.testing.assert_array_equal(*(t[n].combine_chunks().flatten().to_numpy()
                                    for t, n in ((wanted, "gold_logprob"), (found, "gold_stored"))))  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_capture_is_written_compact_at_once(tmp_path: Path, mode: str) -> None:
    lengths = [7, 0, 1, 30, 12]
    to_compact(write_plain(tmp_path / "plain", lengths, 10, mode), tmp_path / "compact", 10, rows=2)
    for codec in ("plain", "compact"):
        with writing_capture(tmp_path / "direct", codec, 10, rows=64 if codec == "plain" else 2) as add:
            for chunk in chunks(lengths, 10, mode):
                add(chunk)
        assert (tmp_path / "direct").read_bytes() == (tmp_path / codec).read_bytes()


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
@pytest.mark.parametrize(
    "columns", [None, ["doc_id", "ids", "gold_rank"], ["gold_logprob", "doc_id"], ["tail"], ["logprobs"], ["draws"]]
)
def test_batches_are_those_of_a_plain_shard(tmp_path: Path, rows: int, columns: list[str] | None) -> None:
    to_compact(write_plain(tmp_path / "given", [3, 5, 0, 2, 8, 1, 4], 4), tmp_path / "compact", 4, rows=2)
    to_plain(tmp_path / "compact", tmp_path / "plain")
    found, wanted = (list(read_batches(tmp_path / name, columns, rows)) for name in ("compact", "plain"))
    assert [batch.schema.names for batch in found] == [batch.schema.names for batch in wanted]
    assert [str(batch.to_pylist()) for batch in found] == [str(batch.to_pylist()) for batch in wanted]


def test_rows_of_both_forms_are_read_together(tmp_path: Path) -> None:
    to_compact(write_plain(tmp_path / "plain", [3, 5, 0, 2], 4), tmp_path / "compact", 4, rows=3)
    shards = {name: (tmp_path / name, ["ids"]) for name in ("plain", "compact")}
    for views, number in rows_together(shards, rows=2):
        assert views["plain"].values("ids", number).tolist() == views["compact"].values("ids", number).tolist()


def test_an_empty_shard_stays_one(tmp_path: Path) -> None:
    to_compact(write_plain(tmp_path / "plain", [], 4), tmp_path / "compact", 4)
    assert list(read_batches(tmp_path / "compact", None)) == []


def test_a_wrong_k_is_refused(tmp_path: Path) -> None:
    plain = write_plain(tmp_path / "plain", [3], 10)
    with pytest.raises(BadInput, match=r"'d0'.*k = 4"):
        to_compact(plain, tmp_path / "compact", 4)


def test_a_compact_shard_is_not_made_compact(tmp_path: Path) -> None:
    to_compact(write_plain(tmp_path / "plain", [3], 4), tmp_path / "compact", 4)
    with pytest.raises(BadInput, match="already"):
        to_compact(tmp_path / "compact", tmp_path / "twice", 4)


def test_an_unknown_codec_is_refused_by_name(tmp_path: Path) -> None:
    ShardWriter(tmp_path / "later", COMPACT, {"codec": "compact-9", "k": "4"}).close()
    with pytest.raises(ShardCorrupt, match=r"compact-9.*knows compact-1"):
        list(read_batches(tmp_path / "later", None))


def test_a_shard_without_its_gold_tokens_is_refused(tmp_path: Path) -> None:
    rows = chunks([30], 4)
    batch = pa.RecordBatch.from_pydict({n: [r[n] for r in rows] for n in CAPTURE.arrow.names}, schema=CAPTURE.arrow)
    coded = encode_batch(batch, 4)
    fewer = pa.array([coded.column("gold_stored")[0].as_py()[1:]], COMPACT.arrow.field("gold_stored").type)
    damaged = coded.set_column(coded.schema.get_field_index("gold_stored"), "gold_stored", fewer)
    with pytest.raises(ShardCorrupt, match="gold"):
        decode_batch(damaged, 4)
