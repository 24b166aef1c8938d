"""The plan of steps: packed rows within their budget, any step at once, nothing skipped and nothing read twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.tasks.training import plan as plan_module
from logitfuse.tasks.training.best_fit import best_fit
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


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 50))
def test_best_fit_fills_rows(lengths, budget):
    rows = best_fit(lengths, budget)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    filled = [sum(lengths[number] for number in row) for row in rows]
    assert all(size <= budget or len(row) == 1 for size, row in zip(filled, rows, strict=True))
    smallest = sorted(filled)[:2]
    assert len(rows) < 2 or sum(smallest) > budget  # no two rows would fit into one


def test_best_fit_takes_the_fullest_row_that_fits():
    assert best_fit([5, 4, 7, 3, 1], 10) == [[2, 3], [0, 1, 4]]
    assert best_fit([12, 10, 2], 10) == [[0], [1], [2]]
    assert best_fit([], 10) == []


@given(corpora(), st.integers(0, 2**31 - 1), st.integers(1, 3), st.integers(1, 5))
def test_packed_rows_hold_every_sequence_once_per_epoch(corpus, seed, epochs, processes):
    lengths, groups = corpus
    plan = StepPlan(lengths, groups, settings_of(seed=seed, epochs=epochs), packed=True)
    seen = []
    for step in range(len(plan)):
        shares = [plan.micro_batches(step, rank, processes) for rank in range(processes)]
        assert len({len(share) for share in shares}) == 1
        rows = [row for share in shares for row in share if len(row)]
        assert all(lengths[row].sum() <= 30 or len(row) == 1 for row in rows)
        assert sorted(np.concatenate(rows)) == sorted(plan.step(step))
        seen.append(plan.step(step))
    assert np.array_equal(np.bincount(np.concatenate(seen)), np.full(len(lengths), epochs))


def eager_steps(lengths, groups, settings) -> list[list[int]]:
    """All epochs' orders one after another, cut greedily: what the plan must be without holding them."""
    order = [int(w) for epoch in range(settings.epochs) for w in epoch_order(groups, settings, epoch)]
    steps: list[list[int]] = [[]]
    for window in order:
        full = (
            len(steps[-1]) == settings.sequences_per_step
            if settings.sequences_per_step
            else sum(lengths[steps[-1]]) + lengths[window] > settings.tokens_per_step
        )
        if full and steps[-1]:
            steps.append([])
        steps[-1].append(window)
    return steps[: settings.max_steps]


@given(
    corpora(),
    st.integers(1, 4),
    st.one_of(st.none(), st.integers(1, 9)),
    st.one_of(st.none(), st.integers(1, 9)),
    st.integers(1, 90),
)
def test_steps_are_those_of_all_epochs_in_one(corpus, epochs, sequences, most, tokens):
    lengths, groups = corpus
    settings = settings_of(epochs=epochs, sequences_per_step=sequences, max_steps=most, tokens_per_step=tokens)
    plan = StepPlan(lengths, groups, settings)
    wanted = eager_steps(lengths, groups, settings)
    assert [sorted(plan.step(step).tolist()) for step in range(len(plan))] == [sorted(step) for step in wanted]
    firsts = np.cumsum([0, *map(len, wanted)])[:-1]
    assert [plan.epoch(step) for step in range(len(plan))] == [first // len(lengths) for first in firsts]


@given(corpora(), st.booleans(), st.data())
def test_resuming_anywhere_with_any_processes_skips_and_repeats_nothing(corpus, packed, data):
    """Killed at any step, also of a later epoch, and gone on with by another number of processes each time."""
    lengths, groups = corpus
    settings, done, seen = settings_of(epochs=3), 0, []
    total = len(StepPlan(lengths, groups, settings))
    while done < total:
        plan = StepPlan(lengths, groups, settings, packed=packed)  # a new process knows the step's number alone
        processes, until = data.draw(st.integers(1, 4)), data.draw(st.integers(done + 1, total))
        for step in range(done, until):
            seen += [row for rank in range(processes) for row in plan.micro_batches(step, rank, processes)]
        done = until
    assert np.array_equal(np.bincount(np.concatenate(seen)), np.full(len(lengths), 3))


def test_packed_steps_never_change():
    """A run resumes by this plan: other rows would be other rounding, other steps would skip and repeat sequences."""
    lengths = (np.arange(24, dtype=np.int32) * 7) % 23 + 1
    groups = np.repeat(np.arange(8), 3).astype(np.int32)
    plan = StepPlan(lengths, groups, settings_of(epochs=2, tokens_per_step=90), packed=True)
    rows = [[row.tolist() for row in plan.micro_batches(step, 1, 2)] for step in (0, len(plan) - 1)]
    assert rows == [[[22, 21, 0], [14]], [[12, 14], []]]


def test_any_step_is_as_near_as_the_first(monkeypatch):
    """Opening a plan at its last step puts as many epochs in order as at its first, and holds two of them."""
    counted = []
    order = plan_module.epoch_order
    monkeypatch.setattr(plan_module, "epoch_order", lambda *all_: counted.append(all_[2]) or order(*all_))
    lengths, groups = np.full(60, 7, np.int32), np.repeat(np.arange(12), 5).astype(np.int32)
    found = {}
    for at in (0, -1):
        counted.clear()
        plan = StepPlan(lengths, groups, settings_of(epochs=9))
        plan.step(range(len(plan))[at])
        found[at] = len(counted)
        assert len(plan._orders) == 2
    assert found[-1] <= found[0] == 10


@pytest.mark.parametrize("packed", [False, True])
def test_a_million_documents_need_little_memory(packed):
    """About 1.8 B tokens: 16 bytes a sequence for the index, and two epochs' order."""
    lengths = np.random.default_rng(0).integers(1, 2049, 100_000).astype(np.int32)
    plan = StepPlan(lengths, (np.arange(100_000) // 64).astype(np.int32), TrainSettings(epochs=4), packed=packed)
    held = sum(order.nbytes for order in plan._orders.values()) + plan._borders.nbytes
    assert held < 10 * len(lengths)
    share = plan.micro_batches(len(plan) // 2, 3, 8)
    if packed:
        assert sum(map(len, share)) and all(lengths[row].sum() <= 8192 for row in share)
