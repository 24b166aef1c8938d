"""Batches, memory that does not suffice, results that are no numbers, draws: the loop around a source."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from logitfuse.kernels.keep import Keep
from logitfuse.kernels.topk import TopK
from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.capture import capture_shard, packs
from logitfuse.tasks.capture_loop import noise
from logitfuse.tasks.capture_settings import CaptureSettings, key_settings
from logitfuse.tasks.engine import MADE
from logitfuse.tasks.models.causal import CausalModel, split_model
from logitfuse.tasks.passages import Passage, packed_batches, sorted_batches

V = 97


def passages(lengths: Sequence[int]) -> list[Passage]:
    found = []
    for number, length in enumerate(lengths):
        ids = np.random.default_rng(number).integers(1, V, length + 1).astype(np.int32)
        identity = {"doc_id": f"doc-{number}", "chunk": number % 3, "text_hash": bytes([number % 256]) * 16}
        found.append(Passage(identity, 0, ids[:length], ids[1:], 0))
    return found


@pytest.fixture(scope="module")
def model() -> CausalModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256,
    )  # fmt: skip
    return split_model(LlamaForCausalLM(config).eval().requires_grad_(False), "tiny")


def capture(model: Any, read: list[Passage], path: Path, **changed: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    settings = CaptureSettings(**({"k": 4, "tokens_per_batch": 50, "head_positions": 8} | changed))
    encoded: Any = SimpleNamespace(counts={"tokens": sum(map(len, read))})
    counts = capture_shard(model, iter(read), encoded, settings, path, lambda done, total: None)
    return pq.read_table(path).to_pylist(), counts


class Cramped:
    """A model on a machine with room for so many tokens of a batch and so many positions of the head."""

    def __init__(self, model: CausalModel, tokens: int, positions: int) -> None:
        self._model, self._tokens, self._positions = model, tokens, positions
        self.tried: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def hidden_packed(self, texts: Sequence[np.ndarray]) -> torch.Tensor:
        self.tried.append(sum(map(len, texts)))
        if self.tried[-1] > self._tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return self._model.hidden_packed(texts)

    def kept(self, hidden: torch.Tensor, gold: torch.Tensor, keep: Keep, noise: torch.Tensor | None = None) -> TopK:
        if len(hidden) > self._positions:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return self._model.kept(hidden, gold, keep, noise)


def test_what_does_not_fit_is_cut_and_noted_and_nothing_is_lost(model: CausalModel, tmp_path: Path) -> None:
    read = passages([20, 9, 0, 14, 30, 3, 17, 22, 11])
    wanted, before = capture(model, read, tmp_path / "a.parquet")
    cramped = Cramped(model, tokens=31, positions=3)
    found, counts = capture(cramped, read, tmp_path / "b.parquet")
    assert "out_of_memory" not in before[MADE]
    notes = counts[MADE]["out_of_memory"]
    assert notes[:2] == [
        "batches of at most 21 tokens, since 43 did not fit into memory",
        "head chunks of 4 positions, since twice as many did not fit into memory",
    ]
    assert any("head chunks of 2 positions" in note for note in notes)
    assert sum(tokens > 31 for tokens in cramped.tried) == 1  # later batches are cut before they fail
    assert [row["doc_id"] for row in found] == [row["doc_id"] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one["ids"] == other["ids"] and one["counts"] == other["counts"]
        np.testing.assert_allclose(one["logprobs"], other["logprobs"], rtol=2e-3)


def test_one_text_that_does_not_fit_is_refused_by_name(model: CausalModel, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"document 'doc-1', chunk 1: 40 tokens alone do not fit.*max_length"):
        capture(Cramped(model, tokens=31, positions=9), passages([5, 40, 5]), tmp_path / "a.parquet")


def test_another_failure_is_not_taken_for_a_lack_of_memory(model: CausalModel, tmp_path: Path) -> None:
    class Broken(Cramped):
        def hidden_packed(self, texts: Sequence[np.ndarray]) -> torch.Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        capture(Broken(model, 1, 1), passages([5, 5]), tmp_path / "a.parquet")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", ["topk", "topp", "sampled"])
def test_logits_that_are_no_numbers_stop_the_shard_by_name(
    model: CausalModel, tmp_path: Path, wrong: float, mode: str
) -> None:
    class Spoilt(Cramped):
        def hidden_packed(self, texts: Sequence[np.ndarray]) -> torch.Tensor:
            hidden = self._model.hidden_packed(texts).clone()
            hidden[len(texts[0]) + 2] = wrong  # a position of the second text
            return hidden

    with pytest.raises(ModelRefused, match=r"document 'doc-1', chunk 1: the model's logits are not finite"):
        capture(Spoilt(model, 99, 99), passages([6, 8, 4]), tmp_path / "a.parquet", mode=mode)


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 60), st.integers(1, 12))
def test_plans_hold_every_text_once_within_the_budget(lengths: list[int], budget: int, window: int) -> None:
    read = passages(lengths)
    for batches, is_packed in ((packed_batches(read, budget), True), (sorted_batches(read, budget, window), False)):
        plan = list(batches)
        assert sorted(number for batch in plan for number in batch.numbers) == list(range(len(read)))
        for batch in plan:
            assert [read[n] for n in batch.numbers] == batch.passages
            filled = batch.tokens if is_packed else len(batch.numbers) * max(map(len, batch.passages))
            assert filled <= budget or sum(len(p) > 0 for p in batch.passages) == 1
        again = packed_batches(read, budget) if is_packed else sorted_batches(read, budget, window)
        assert [batch.numbers for batch in again] == [batch.numbers for batch in plan]


def test_packed_batches_are_full_and_in_order() -> None:
    plan = list(packed_batches(passages([10, 10, 25, 5, 0, 40, 3]), 30))
    assert [batch.numbers for batch in plan] == [[0, 1], [2, 3, 4], [5], [6]]


@pytest.mark.parametrize("batching", ["packed", "sorted"])
def test_draws_depend_on_text_and_seed_not_on_batches(model: CausalModel, tmp_path: Path, batching: str) -> None:
    read = passages([12, 9, 0, 21])
    drawn = {"mode": "sampled", "draws": 6, "batching": batching}
    one, counts = capture(model, read, tmp_path / "a.parquet", **drawn, tokens_per_batch=500)
    other, _ = capture(model, read, tmp_path / "b.parquet", **drawn, tokens_per_batch=10)
    assert [row["ids"] for row in one] == [row["ids"] for row in other]
    assert [row["draws"] for row in one] == [row["draws"] for row in other]
    third, _ = capture(model, read, tmp_path / "c.parquet", **drawn, seed=1)
    assert [row["ids"] for row in one] != [row["ids"] for row in third]
    for row in one:
        bounds = np.cumsum([0, *row["counts"]])
        for p, count in enumerate(row["counts"]):
            span = slice(bounds[p], bounds[p + 1])
            assert 5 <= count <= 10 and sum(row["draws"][span]) == 6
            assert abs(np.exp(row["logprobs"][span]).sum() - 1) < 2e-3
        assert len(row["ids"]) == bounds[-1] and not any(row["tail"])
    assert counts["kept"] == sum(len(row["ids"]) for row in one)


def test_noise_is_even_and_differs_by_text() -> None:
    values = np.concatenate([noise(p, 0) for p in passages([2000, 2000])])
    assert values.min() >= 0 and values.max() < 1 and abs(values.mean() - 0.5) < 0.02
    assert len(np.unique(values)) == 4000


def test_topp_keeps_as_many_as_it_needs(model: CausalModel, tmp_path: Path) -> None:
    rows, _ = capture(model, passages([9, 14]), tmp_path / "a.parquet", mode="topp", top_p=0.05, k=20)
    counts = [count for row in rows for count in row["counts"]]
    assert len(set(counts)) > 1 and max(counts) <= 20
    assert all(len(row["ids"]) == sum(row["counts"]) == len(row["logprobs"]) for row in rows)


def test_batching_is_a_setting_that_is_refused_where_it_cannot_be(model: CausalModel) -> None:
    unfit: Any = SimpleNamespace(packing=SimpleNamespace(why_not="it was tried"))
    assert packs(model, CaptureSettings()) and not packs(model, CaptureSettings(batching="sorted"))
    assert not packs(unfit, CaptureSettings())
    with pytest.raises(ModelRefused, match="it was tried"):
        packs(unfit, CaptureSettings(batching="packed"))


def test_settings_that_a_mode_does_not_look_at_change_no_key() -> None:
    assert key_settings(CaptureSettings(draws=9, seed=3, top_p=0.5)) == CaptureSettings()
    assert key_settings(CaptureSettings(mode="topp", draws=9, top_p=0.5)).top_p == 0.5
    assert key_settings(CaptureSettings(mode="sampled", draws=9)).draws == 9
    assert key_settings(CaptureSettings(batching="packed", window_chunks=7)).window_chunks == 1024
    assert key_settings(CaptureSettings(window_chunks=7)).window_chunks == 7
    with pytest.raises(ValueError, match="raw_logits"):
        CaptureSettings(raw_logits=True, temperature=2.0)
