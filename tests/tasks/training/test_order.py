"""Which sequences a step reads: every row once per epoch, the same for any number of processes."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.positions import NO_LABEL
from logitfuse.storage.errors import BadInput, ShardCorrupt, ShardMismatch
from logitfuse.tasks.training import data
from logitfuse.tasks.training.batch import collate
from logitfuse.tasks.training.data import FusedRows
from logitfuse.tasks.training.plan import StepPlan, epoch_order
from logitfuse.tasks.training.settings import TrainSettings


def settings_of(**changes) -> TrainSettings:
    return TrainSettings(**{"tokens_per_step": 50, "micro_batch_tokens": 30, "shuffle_rows": 6, **changes})


@st.composite
def corpora(draw):
    """Lengths of sequences and the row group of each."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=12))
    groups = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    lengths = draw(st.lists(st.integers(1, 40), min_size=len(groups), max_size=len(groups)))
    return np.array(lengths, np.int32), groups


@given(corpora(), st.integers(0, 2**31 - 1), st.integers(1, 3), st.integers(1, 4))
def test_every_sequence_once_per_epoch_for_any_number_of_processes(corpus, seed, epochs, processes):
    lengths, groups = corpus
    plan = StepPlan(lengths, groups, settings_of(seed=seed, epochs=epochs))
    seen = []
    for step in range(len(plan)):
        batches = [plan.micro_batches(step, rank, processes) for rank in range(processes)]
        assert len({len(share) for share in batches}) == 1
        for batch in (batch for share in batches for batch in share if len(batch)):
            assert len(batch) * lengths[batch].max() <= 30 or len(batch) == 1
        mine = np.concatenate([batch for share in batches for batch in share])
        assert sorted(mine) == sorted(plan.step(step))
        assert plan.tokens(step) == lengths[mine].sum() and (plan.tokens(step) <= 50 or len(mine) == 1)
        seen.append(plan.step(step))
    assert np.array_equal(np.bincount(np.concatenate(seen)), np.full(len(lengths), epochs))


@given(corpora(), st.integers(0, 2**31 - 1), st.integers(0, 5))
def test_a_pool_needs_few_row_groups(corpus, seed, epoch):
    _, groups = corpus
    settings = settings_of(seed=seed)
    order = epoch_order(groups, settings, epoch)
    assert np.array_equal(np.sort(order), np.arange(len(groups)))
    changes = [np.flatnonzero(groups[order] == group) for group in range(groups.max() + 1)]
    assert all(np.ptp(places) < settings.shuffle_rows + 5 for places in changes)


def test_order_is_fixed_by_seed_and_epoch():
    """These numbers may never change: a half-trained run would skip and repeat rows on resuming."""
    groups = np.repeat(np.arange(4), 3).astype(np.int32)
    order = lambda seed, epoch: epoch_order(groups, settings_of(seed=seed), epoch).tolist()  # noqa: E731
    assert order(42, 0) == [0, 1, 2, 7, 8, 6, 5, 9, 4, 10, 11, 3]
    assert order(42, 1) == [3, 5, 8, 6, 4, 7, 9, 1, 11, 10, 2, 0]
    assert order(43, 0) == [0, 3, 4, 2, 1, 5, 10, 8, 7, 11, 6, 9]


def test_sequences_per_step_and_most_steps():
    lengths, groups = np.full(10, 7, np.int32), np.zeros(10, np.int32)
    plan = StepPlan(lengths, groups, settings_of(sequences_per_step=4, epochs=2))
    assert [len(plan.step(step)) for step in range(len(plan))] == [4, 4, 4, 4, 4]
    assert [plan.epoch(step) for step in range(len(plan))] == [0, 0, 0, 1, 1]
    assert len(StepPlan(lengths, groups, settings_of(sequences_per_step=4, epochs=2, max_steps=3))) == 3


def rows_of(shards) -> list[dict]:
    rows = [row for shard in shards for row in pq.read_table(shard.path).to_pylist()]
    return [row for row in rows if row["split"] == "train"]


def open_rows(shards, **options) -> FusedRows:
    return FusedRows([shard.path for shard in shards], 16, vocabulary=97, **options)


@pytest.mark.parametrize("cached_rows", [1, 8, 1000])
def test_windows_are_the_rows_cut_at_the_sequence_length(shards, cached_rows):
    rows = open_rows(shards, cached_rows=cached_rows)
    wanted = [
        (row["doc_id"], row["inputs"][start : start + 16], row["labels"][start : start + 16], row, start)
        for row in rows_of(shards)
        for start in range(0, len(row["inputs"]), 16)
    ]
    assert rows.lengths.tolist() == [len(inputs) for _, inputs, *_ in wanted]
    order = np.random.default_rng(0).permutation(len(wanted))
    for window, example in zip(order, rows.read(order), strict=True):
        doc_id, inputs, labels, row, start = wanted[window]
        assert (example.doc_id, example.inputs.tolist(), example.labels.tolist()) == (doc_id, inputs, labels)
        before, kept = sum(row["counts"][:start]), sum(row["counts"][start : start + 16])
        assert example.ids.tolist() == row["ids"][before : before + kept]
        assert example.logprobs.tolist() == row["logprobs"][before : before + kept]
        assert example.mass.tolist() == row["mass"][start : start + 16]


def test_a_read_loads_each_row_group_once(shards, monkeypatch):
    rows = open_rows(shards, cached_rows=1)
    loads = []
    load = data._load
    monkeypatch.setattr(data, "_load", lambda table, where, vocabulary: loads.append(where) or load(table, where, 97))
    rows.read(np.random.default_rng(1).permutation(len(rows.lengths)))
    assert len(loads) == len(set(loads)) == len(set(rows.groups.tolist()))


def test_collate_places_every_entry(shards):
    examples = open_rows(shards).read(np.arange(9))
    batch = collate(examples)
    longest = max(len(e.inputs) for e in examples)
    assert batch.inputs_BT.shape == (9, longest) and batch.targets.ids_NK.shape[1] == 3
    for row, example in enumerate(examples):
        length = len(example.inputs)
        assert batch.inputs_BT[row, :length].tolist() == example.inputs.tolist()
        assert batch.labels_BT[row].tolist() == example.labels.tolist() + [NO_LABEL] * (longest - length)
        assert batch.mask_BT[row].tolist() == [1] * length + [0] * (longest - length)
        ends = np.cumsum(example.counts)
        for t in range(longest):
            place, count = row * longest + t, example.counts[t] if t < length else 0
            probs = batch.targets.probs_NK[place]
            assert batch.targets.served_N[place] == (count > 0) and (probs > 0).sum() == count
            if count:
                kept = slice(ends[t] - count, ends[t])
                assert batch.targets.ids_NK[place, :count].tolist() == example.ids[kept].tolist()
                np.testing.assert_allclose(probs[:count], np.exp(example.logprobs[kept]), rtol=1e-5)
                assert probs.sum() + batch.targets.tail_N[place] == pytest.approx(1, abs=1e-6)


def test_nothing_is_a_batch_without_labels():
    batch = collate([])
    assert batch.labels_BT.tolist() == [[NO_LABEL]] and batch.documents == ()
    assert not batch.targets.served_N.any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"counts": [1]}, ShardCorrupt, "lengths"),
        ({"labels": [5, 96, 97]}, ShardMismatch, "'labels' holds token 97"),
        ({"labels": [5, 96, -1]}, ShardMismatch, "least -1"),
        ({"inputs": [5, 96, -100]}, ShardMismatch, "least -100"),
        ({"mass": [0.5, 0.0, 0.0]}, ShardCorrupt, "doc-1"),
        ({"logprobs": [float("nan")]}, ShardCorrupt, "doc-1"),
        ({"split": "held_out"}, BadInput, "no row of split"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, shard_writer, change, error, message):
    row = shard_writer.row(1, 3) | {"counts": [1, 0, 0], "ids": [4], "logprobs": [-0.1], "mass": [0.9048, 0.0, 0.0]}
    shard = shard_writer.write(tmp_path / "bad.parquet", [row | change])
    with pytest.raises(error, match=message):
        collate(open_rows([shard]).read(np.arange(1)))
