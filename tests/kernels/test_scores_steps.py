"""Scores over identical bytes, the causal steps and the spans, against loops over prefixes of the text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.fusion.evidence import causal_steps, span_scores
from logitfuse.kernels.fusion.passages import passages
from logitfuse.kernels.positions import consumed_bytes, inputs_and_labels, positions
from logitfuse.kernels.scores import Scored, ScoredChunks, nats_over_identical_bytes, scored_chunks, shared_steps

seeds = st.integers(0, 100_000)


def random_ends(rng: np.random.Generator, size: int, unknown: float = 0.2) -> np.ndarray:
    """Ends of a tokenisation of `size` bytes: some tokens without text, some ends unknown, the last one known."""
    if size == 0:
        return np.zeros(0, np.int32)
    inner = np.sort(rng.integers(0 if rng.random() < 0.3 else 1, size, rng.integers(0, size)))
    ends = np.append(inner, size).astype(np.int32)
    ends[:-1][rng.random(len(ends) - 1) < unknown] = -1
    return ends


def random_source(rng: np.random.Generator, size: int) -> tuple[np.ndarray, int, np.ndarray]:
    """Return ends, the first position, and gold log-probabilities, perhaps of too few tokens or the end token's too."""
    ends, first = random_ends(rng, size), int(rng.integers(0, 2))
    _, count = positions(len(ends), start=first == 0, end=bool(rng.random() < 0.5))
    if rng.random() < 0.2:
        count = int(rng.integers(0, count + 1))
    return ends, first, -rng.integers(1, 100, count).astype(np.float32)


def scored_one(ends: np.ndarray, first: int, gold: np.ndarray) -> Scored:
    count = max(min(len(gold), len(ends) - first), 0)
    begins = consumed_bytes(ends, first, count)
    return Scored(begins, ends[first : first + count].astype(np.int64), -gold[:count].astype(np.float64))


def flat(sources: list[tuple[np.ndarray, int, np.ndarray]]) -> ScoredChunks:
    ends, firsts, gold = zip(*sources, strict=True)
    offsets = [np.concatenate([[0], np.cumsum([len(part) for part in parts])]) for parts in (ends, gold)]
    joined = [np.concatenate(parts) for parts in (ends, gold)]
    return scored_chunks(joined[0], offsets[0], joined[1], offsets[1], np.array(firsts, np.int32))


def reference(sources: list[Scored]) -> tuple[list[float], int]:
    """Sum what lies between the first and the last byte that every source knows as a border."""
    if any(len(source.ends) == 0 for source in sources):
        return [0.0] * len(sources), 0
    borders = [{b for b in [*source.begins[:1], *source.ends] if b >= 0} for source in sources]
    shared = set.intersection(*borders)
    if len(shared) < 2:
        return [0.0] * len(sources), 0
    low, high, sums = min(shared), max(shared), []
    for source in sources:
        first = min(i for i, b in enumerate(source.begins) if b == low)
        last = max(i for i, b in enumerate(source.ends) if b == high)
        sums.append(float(source.nats[first : last + 1].sum()))
    return sums, high - low


@given(seeds)
def test_totals_are_the_sums_between_the_outermost_shared_borders(seed: int) -> None:
    rng = np.random.default_rng(seed)
    S, C = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    sizes = rng.integers(0, 9, C)
    chunks = [[random_source(rng, size) for size in sizes] for _ in range(S)]
    nats_SC, bytes_C = shared_steps([flat(source) for source in chunks]).totals()
    for c in range(C):
        ones = [scored_one(*chunks[s][c]) for s in range(S)]
        wanted, size = reference(ones)
        assert (nats_SC[:, c].tolist(), bytes_C[c]) == (wanted, size)
        found, found_size = nats_over_identical_bytes(ones)
        assert (found.tolist(), found_size) == (wanted, size)


def known_until(source: Scored, low: int, byte: int) -> float:
    """Nats of a source's text from `low` up to `byte`, both its own borders."""
    if byte <= low:
        return 0.0
    first = min(i for i, b in enumerate(source.begins) if b == low)
    return float(source.nats[first : max(i for i, b in enumerate(source.ends) if b == byte) + 1].sum())


@given(seeds)
def test_causal_steps_add_up_to_what_each_position_has_read(seed: int) -> None:
    rng = np.random.default_rng(seed)
    S, C = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    sizes, begins = rng.integers(0, 9, C), rng.random(C) < 0.4
    begins[0] = True
    chunks = [[random_source(rng, size) for size in sizes] for _ in range(S)]
    consumed = [
        consumed_bytes(e := random_ends(rng, size), f := int(rng.integers(0, 2)), max(len(e) - f, 0)) for size in sizes
    ]
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in consumed])])
    shared = shared_steps([flat(source) for source in chunks])
    steps = causal_steps(shared, offsets, np.concatenate(consumed), begins)
    before, before_bytes, found, found_bytes = np.zeros(S), 0, np.zeros(S), 0
    fresh = True
    for c in range(C):
        if begins[c]:
            before, before_bytes, found, found_bytes, fresh = np.zeros(S), 0, np.zeros(S), 0, True
        ones = [scored_one(*chunks[s][c]) for s in range(S)]
        borders = shared.bytes[shared.offsets[c] : shared.offsets[c + 1]]
        read = -1
        for t in range(offsets[c], offsets[c + 1]):
            read = max(read, consumed[c][t - offsets[c]])
            reached = [b for b in borders if b <= read]
            found, found_bytes = found + steps.nats[:, t], found_bytes + steps.bytes[t]
            low = borders[0] if len(borders) else 0
            wanted = [known_until(one, low, max(reached, default=-1)) for one in ones]
            np.testing.assert_array_equal(found, before + wanted)
            assert found_bytes == before_bytes + max(max(reached, default=low) - low, 0)
            assert steps.begins[t] == fresh
            fresh = False
        nats, size = reference(ones)
        before, before_bytes = before + nats, before_bytes + size


@given(seeds)
def test_a_span_is_scored_by_the_text_between_the_borders_around_the_position(seed: int) -> None:
    rng = np.random.default_rng(seed)
    S, size = int(rng.integers(1, 4)), int(rng.integers(1, 12))
    source, ends = [random_source(rng, size) for _ in range(S)], random_ends(rng, size)
    text = ScoredChunks(np.array([0, len(ends)]), np.zeros(1, np.int64), ends.astype(np.int64), np.zeros(len(ends)))
    shared = shared_steps([flat([one]) for one in source], text)
    consumed = consumed_bytes(ends, 0, len(ends) + 1)
    found = span_scores(shared, np.array([0, len(consumed)]), consumed, np.full((S, len(consumed)), 7.0))
    ones = [scored_one(*one) for one in source]
    borders, read = set(shared.bytes), -1
    assert borders <= {0, *ends}
    for t, byte in enumerate(consumed):
        read = max(read, byte)
        low, high = (
            max((b for b in borders if b <= read), default=None),
            min((b for b in borders if b > read), default=None),
        )
        for s, one in enumerate(ones):
            if low is None or high is None:
                assert found[s, t] == 7.0
                continue
            first = min(borders)
            wanted = (known_until(one, first, high) - known_until(one, first, low)) / (high - low)
            assert np.isclose(found[s, t], wanted)


@given(seeds, st.booleans())
def test_passages_are_the_positions_of_each_chunk(seed: int, past_end: bool) -> None:
    rng = np.random.default_rng(seed)
    lengths, last = rng.integers(0, 4, 4), rng.random(4) < 0.6
    start, end = (int(x) if rng.random() < 0.6 else None for x in (90, 91))
    ids = [rng.integers(0, 50, n).astype(np.int32) for n in lengths]
    ends = [random_ends(rng, n)[:n] for n in lengths]
    ends = [np.concatenate([np.full(n - len(e), -1, np.int32), e]) for n, e in zip(lengths, ends, strict=True)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    found = passages(offsets, np.concatenate(ids), np.concatenate(ends), last, start=start, end=end, past_end=past_end)
    for c in range(4):
        closing = end if last[c] else None
        inputs, labels = inputs_and_labels(ids[c], start=start, end=closing, past_end=past_end)
        part = slice(found.offsets[c], found.offsets[c + 1])
        assert found.inputs[part].tolist() == inputs.tolist()
        assert found.labels[part].tolist() == labels.tolist()
        first = 0 if start is not None else 1
        assert found.consumed[part].tolist() == consumed_bytes(ends[c], first, len(inputs)).tolist()
