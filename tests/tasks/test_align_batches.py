"""Aligning whole batches against one chunk at a time in plain loops, on random vocabularies, texts and captures."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.positions import consumed_bytes, inputs_and_labels, positions
from logitfuse.kernels.vocabulary_map import How, VocabularyMap
from logitfuse.storage.errors import BadInput
from logitfuse.storage.schemas import ALIGN, CAPTURE, ENCODE
from logitfuse.tasks.align import align_shard
from logitfuse.tasks.align_settings import AlignSettings, check_align_inputs, conditions
from logitfuse.tasks.aligner import Aligner, leaves_out_first_space
from logitfuse.tasks.capture import CaptureSettings
from logitfuse.tasks.engine import silent

K = 3
PIECES = {
    "source": ["<|end|>", "a", "b", "Ġa", "Ġb", "ab", "Ġ", "aĠ"],
    "target": ["<s>", "</s>", "▁", "a", "b", "▁a", "▁b", "abc", "▁ab"],
}
CHOICES: dict[str, list[dict[str, Any]]] = {
    "bytes": [
        {"min_probability": 0.0, "condition_on_target": "never"},
        {"condition_on_target": "never", "fallback": "next_token"},
        {"condition_on_target": "never", "collision": "first", "min_probability": 0.1},
        {},
        {"min_probability": 0.2},
    ],
    "dtw": [{"strategy": "dtw", "fallback": "current_token", "collision": "first", "values": "logits"}],
}
SETTINGS = [AlignSettings(**choice) for choices in CHOICES.values() for choice in choices]


@dataclass
class World:
    """Two models and a batch of chunks as they read them."""

    seed: int
    same: bool = False
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.source, self.target = self._model("source"), self._model("target")
        if self.same:
            self.source = self.target
        self.capture = CaptureSettings(k=K, past_end=bool(self.rng.integers(2)), max_length=self.rng.choice([None, 4]))
        size, width = len(self.source.vocabulary.pieces), len(self.target.vocabulary.pieces)
        fan = self.rng.integers(0, 4, size)
        weights = [self.rng.dirichlet(np.ones(n)) if n else [] for n in fan]
        ids = [self.rng.choice(width, n, replace=False) for n in fan]
        self.map = VocabularyMap(
            np.concatenate([[0], np.cumsum(fan)]), np.concatenate(ids).astype(np.int32),
            np.concatenate(weights).astype(np.float32), np.zeros(size, np.int32), np.full(size, How.EXACT, np.int8),
            self.rng.integers(0, 9, size).astype(np.float32) if self.rng.integers(3) else np.zeros(size, np.float32),
        )  # fmt: skip
        self.chunks = [self._chunk() for _ in range(self.rng.integers(1, 6))]

    def _model(self, name: str) -> Any:
        marker = {"source": "Ġ", "target": "▁"}[name]
        prefix = bool(self.rng.integers(2))
        return SimpleNamespace(
            vocabulary=SimpleNamespace(pieces=PIECES[name], marker=marker, fingerprint=name, dummy_prefix=prefix),
            start_id=0 if self.rng.integers(2) else None,
            end_id=1 if self.rng.integers(4) else None,
            head_width=len(PIECES[name]) + 2,
            tokenizer=SimpleNamespace(init_kwargs={"tokenizer_class": "GPT2Tokenizer"}),
        )

    def _chunk(self) -> dict[str, Any]:
        last, empty = bool(self.rng.integers(2)), self.rng.random() < 0.15
        source, target = (self._read(m, empty) for m in (self.source, self.target))
        source = target if self.same else source
        return {
            "source": source | {"last": last},
            "target": target | {"last": last},
            "capture": self._captured(self.source, source, last),
            "own": self._captured(self.target, target, last),
        }

    def _read(self, model: Any, empty: bool) -> dict[str, Any]:
        length = 0 if empty else int(self.rng.integers(1, 8))
        ends = np.sort(self.rng.integers(0, 9, length))
        ends[self.rng.random(length) < 0.15] = -1
        return {"ids": self.rng.integers(0, len(model.vocabulary.pieces), length), "ends": ends}

    def _captured(self, model: Any, read: dict[str, Any], last: bool) -> dict[str, Any]:
        end = model.end_id is not None and last
        start, past_end = model.start_id is not None, self.capture.past_end
        first, count = positions(len(read["ids"]), start=start, end=end, past_end=past_end)
        count = min(count, self.capture.max_length or count, int(self.rng.integers(3, 20)))
        probs = self.rng.dirichlet(np.ones(K + 1), count).astype(np.float32)
        ids = [self.rng.choice(model.head_width, K, replace=False) for _ in range(count)]
        return {
            "first": first,
            "counts": np.full(count, K),
            "draws": [],
            "ids": np.array(ids, int).ravel(),
            "logprobs": np.log(probs[:, :K]).ravel(),
            "tail": probs[:, K],
            "logits": self.rng.normal(0, 3, count * K).astype(np.float16).astype(np.float32),
        }

    def batches(self, chunks: range) -> dict[str, pa.RecordBatch]:
        found = {}
        for name, schema in {"source": ENCODE, "target": ENCODE, "capture": CAPTURE, "own": CAPTURE}.items():
            rows = [{"gold_logprob": [], "gold_rank": []} | self.chunks[c][name] | identity(c) for c in chunks]
            columns = [pa.array([row[f.name] for row in rows], f.type) for f in schema.arrow]
            found[name] = pa.RecordBatch.from_arrays(columns, schema=schema.arrow)
        return found

    def align(self, settings: AlignSettings, chunks: range) -> tuple[dict[str, pa.Array], dict[str, Any]]:
        aligner = Aligner(self.source, self.target, self.map, settings, self.capture)
        batches = self.batches(chunks)
        if not conditions(settings, True) or self.same:
            del batches["own"]
        return aligner.align(batches)


def identity(chunk: int) -> dict[str, Any]:
    return {"doc_id": f"doc-{chunk}", "chunk": 0, "text_hash": bytes([chunk]) * 16}


def served(world: World, chunk: dict[str, Any]) -> list[int]:
    """Return for each target position the number of the source position that serves it, by comparing bytes."""
    source, target = (_reading(world, chunk, name) for name in ("source", "target"))
    source = source[: len(chunk["capture"]["tail"])]
    found = []
    for t, (number, byte) in enumerate(target):
        if world.same:
            found.append(number if number in [p for p, _ in source] else -1)
            continue
        there = [p for p, b in source if b == byte and byte >= 0]
        prefixes = [m.vocabulary.dummy_prefix for m in (world.source, world.target)]
        begins = there and prefixes[0] != prefixes[1] and (there[-1], number)[prefixes[1]] == 0
        last_here = all(b != byte for _, b in target[t + 1 :])
        found.append(there[-1] if there and last_here and not begins else -1)
    return found


def _reading(world: World, chunk: dict[str, Any], name: str) -> list[tuple[int, int]]:
    model, read = getattr(world, name), chunk[name]
    end = model.end_id is not None and read["last"]
    first, count = positions(
        len(read["ids"]), start=model.start_id is not None, end=end, past_end=world.capture.past_end
    )
    return list(enumerate(consumed_bytes(np.array(read["ends"], np.int64), first, count).tolist(), start=first))


def rows_by_hand(world: World, settings: AlignSettings, chunk: dict[str, Any]) -> Iterator[dict[int, float]]:
    """Yield the distribution at each target position as a dictionary."""
    model, read, capture = world.target, chunk["target"], chunk["capture"]
    end = model.end_id if read["last"] else None
    _, labels = inputs_and_labels(
        np.array(read["ids"], np.int32), start=model.start_id, end=end, past_end=world.capture.past_end
    )
    for t, number in enumerate(served(world, chunk)):
        found: dict[int, float] = {}
        if number < 0:
            yield {int(labels[t]): 1.0} if settings.fallback == "next_token" and labels[t] >= 0 else {}
            continue
        p = number - capture["first"]
        probs = np.exp(np.array(capture["logprobs"][p * K : (p + 1) * K], np.float64))
        for s, probability in zip(capture["ids"][p * K :], probs / (probs.sum() + capture["tail"][p]), strict=False):
            for y, weight in weights_by_hand(world, settings, chunk, s, t):
                if settings.collision == "add" or y not in found:
                    found[y] = found.get(y, 0.0) + probability * weight
        least = min(settings.min_probability, max(found.values(), default=0.0))
        yield {y: p for y, p in found.items() if p > 0 and p >= least}


def weights_by_hand(
    world: World, settings: AlignSettings, chunk: dict[str, Any], s: int, t: int
) -> list[tuple[int, float]]:
    if s >= world.map.source_size:
        return []
    row = slice(world.map.offsets[s], world.map.offsets[s + 1])
    pairs = list(zip(world.map.target_ids[row].tolist(), world.map.weights[row].astype(float), strict=True))
    own = chunk["own"]
    if settings.condition_on_target == "never" or world.same or len(pairs) < 2 or t >= len(own["tail"]):
        return pairs
    kept = dict(zip(own["ids"][t * K : (t + 1) * K], np.exp(own["logprobs"][t * K : (t + 1) * K]), strict=True))
    if not any(y in kept for y, _ in pairs):
        return pairs
    habits = habits_by_hand(world)
    left = 1 - sum(habits[y] for y in kept)
    rest = own["tail"][t] / left if left > 1e-9 else 0.0
    ratio = {y: q / habits[y] for y, q in kept.items() if habits[y] > 0}
    weighted = [(y, w * ratio.get(y, rest)) for y, w in pairs]
    total = sum(w for _, w in weighted)
    return [(y, w / total * sum(v for _, v in pairs)) for y, w in weighted] if total else pairs


def habits_by_hand(world: World) -> list[float]:
    """Return how often the target writes each of its ids, by all rows of the map; evenly if nothing was counted."""
    found = [0.0] * world.target.head_width
    for s, times in enumerate(world.map.times.tolist()):
        row = slice(world.map.offsets[s], world.map.offsets[s + 1])
        for y, weight in zip(world.map.target_ids[row], world.map.weights[row], strict=True):
            found[y] += times * float(weight)
    return [p / sum(found) for p in found] if sum(found) else [1 / len(found)] * len(found)


@pytest.mark.parametrize("choice", CHOICES["bytes"], ids=str)
@given(seed=st.integers(0, 1_000_000), same=st.booleans())
def test_a_batch_is_its_chunks_one_at_a_time(choice: dict[str, Any], seed: int, same: bool) -> None:
    world, settings = World(seed, same), AlignSettings(**choice)
    columns, counts = world.align(settings, range(len(world.chunks)))
    tally = dict.fromkeys(("positions", "served", "not_served", "unmapped"), 0)
    for c, chunk in enumerate(world.chunks):
        row = {name: column[c].as_py() for name, column in columns.items()}
        numbers = served(world, chunk)
        start = 0
        for t, wanted in enumerate(rows_by_hand(world, settings, chunk)):
            span = slice(start, start := start + row["counts"][t])
            ids = row["ids"][span]
            assert sorted(ids) == sorted(wanted) and row["logits"] == []
            np.testing.assert_allclose(row["logprobs"][span], np.log([wanted[y] for y in ids]), atol=8e-3)
            assert row["mass"][t] == pytest.approx(sum(wanted.values()), abs=1e-6)
            assert row["source_position"][t] == (numbers[t] if wanted else -1)
            tally["positions"] += 1
            tally["not_served" if numbers[t] < 0 else "served" if wanted else "unmapped"] += 1
        assert len(row["counts"]) == len(numbers) and len(row["ids"]) == start
    assert counts.items() >= tally.items() and counts["chunks"] == len(world.chunks)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.strategy}-{s.fallback}-{s.values}")
@given(seed=st.integers(0, 1_000_000))
def test_which_chunks_share_a_batch_changes_nothing(settings: AlignSettings, seed: int) -> None:
    world = World(seed)
    whole, _ = world.align(settings, range(len(world.chunks)))
    for c in range(len(world.chunks)):
        alone, _ = world.align(settings, range(c, c + 1))
        assert all(column[c : c + 1].equals(alone[name]) for name, column in whole.items())


@given(seed=st.integers(0, 1_000_000))
def test_one_hot_rows_and_logits_are_written_as_the_published_code_has_them(seed: int) -> None:
    world = World(seed)
    columns, counts = world.align(SETTINGS[-1], range(len(world.chunks)))
    row_of = {name: column.to_pylist() for name, column in columns.items()}
    one_hot = 0
    for c, chunk in enumerate(world.chunks):
        read, model = chunk["target"], world.target
        inputs, _ = inputs_and_labels(
            np.array(read["ids"], np.int32), start=model.start_id, end=model.end_id if read["last"] else None,
            past_end=world.capture.past_end,
        )  # fmt: skip
        start = 0
        for t, count in enumerate(row_of["counts"][c]):
            span = slice(start, start := start + count)
            logits, logprobs = row_of["logits"][c][span], np.array(row_of["logprobs"][c][span])
            if count:
                wanted = logits - np.log(np.exp(logits).sum())
                np.testing.assert_allclose(logprobs, wanted, atol=1e-5)
            assert row_of["mass"][c][t] == float(count > 0)
            if row_of["source_position"][c][t] < 0 and count:
                assert (row_of["ids"][c][span], logits) == ([inputs[t]], [1.0])
                one_hot += 1
    assert one_hot == counts["not_served"]


def test_a_shard_is_written_whole_and_counted(tmp_path: Path) -> None:
    world = World(5)
    paths = {name: tmp_path / f"{name}.parquet" for name in ("target", "source", "capture")}
    batches = world.batches(range(len(world.chunks)))
    for name, path in paths.items():
        pq.write_table(pa.Table.from_batches([batches[name]]), path)
    aligner = Aligner(world.source, world.target, world.map, AlignSettings(), world.capture)
    counts = align_shard(aligner, paths, len(world.chunks), tmp_path / "align.parquet", silent)
    table = pq.read_table(tmp_path / "align.parquet")
    assert table.schema.equals(ALIGN.arrow)
    assert counts["positions"] == counts["served"] + counts["not_served"] + counts["unmapped"]
    assert counts["positions"] == sum(len(row) for row in table["counts"].to_pylist())
    columns, _ = world.align(AlignSettings(), range(len(world.chunks)))
    assert all(table[name].combine_chunks().equals(column) for name, column in columns.items())


def test_what_does_not_go_together_is_refused() -> None:
    for choice, message in [
        ({"strategy": "dwt"}, "Did you mean 'dtw'"),
        ({"options": {"first_marker": "no"}}, "'offsets' has no option"),
        ({"strategy": "dtw", "options": {"first_marker": "perhaps"}}, "cannot be 'perhaps'"),
        ({"values": "logits"}, "set collision to 'first'"),
        ({"values": "logits", "collision": "first", "condition_on_target": "always"}, "carried as they are"),
    ]:
        with pytest.raises(ValueError, match=message):
            AlignSettings(**choice)
    logits = AlignSettings(values="logits", collision="first")
    with pytest.raises(ValueError, match=r"capture\.raw_logits"):
        check_align_inputs(logits, CaptureSettings(), True)
    with pytest.raises(ValueError, match="include_target"):
        check_align_inputs(AlignSettings(condition_on_target="always"), CaptureSettings(), False)
    check_align_inputs(logits, CaptureSettings(raw_logits=True), False)
    assert conditions(AlignSettings(), True) and not conditions(AlignSettings(), False)
    assert not conditions(logits, True) and not conditions(AlignSettings(condition_on_target="never"), True)


def test_a_capture_without_raw_logits_is_refused() -> None:
    world = World(3)
    for chunk in world.chunks:
        chunk["capture"]["logits"] = []
    with pytest.raises(BadInput, match=r"capture\.raw_logits"):
        world.align(AlignSettings(values="logits", collision="first"), range(len(world.chunks)))


def test_tokenizer_classes_are_known_by_either_name() -> None:
    assert leaves_out_first_space(SimpleNamespace(init_kwargs={"tokenizer_class": "GPTNeoXTokenizer"}))
    assert leaves_out_first_space(type("GPT2TokenizerFast", (), {"init_kwargs": {}})())
    assert not leaves_out_first_space(SimpleNamespace(init_kwargs={}))
