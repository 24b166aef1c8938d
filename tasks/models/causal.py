"""A causal language model as teacher: hidden states from its body, exact float32 logits from its head.

legend: B sequences, T positions, H hidden size, N selected positions, V vocabulary
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from logitfuse.kernels.head import Head
from logitfuse.kernels.keep import Keep
from logitfuse.kernels.topk import TopK
from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.models.body import Packing, logit_transform, probe, probe_packing, run_body, run_packed
from logitfuse.tasks.models.folder import refusing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass
class Clock:
    """Seconds a model has computed, to tell what a stage costs beside it."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block; on a GPU that of its launches only, which wait for nothing."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


@dataclass(frozen=True)
class CausalModel:
    """A loaded model, split into body and head, so that logits need never exist for more than a few positions."""

    model: PreTrainedModel
    head: Head
    needs_mask: bool  # padding on the right must be masked, because this architecture is not blind to it
    packing: Packing  # whether it can read several texts in one row
    clock: Clock = field(default_factory=Clock, compare=False)

    @property
    def device(self) -> torch.device:
        return self.head.weight_VH.device

    @torch.inference_mode()
    def hidden(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the last hidden states [B, T, H] of sequences padded on the right."""
        mask = mask_BT.to(self.device) if self.needs_mask else None
        with self.clock.running():
            return run_body(self.model, ids_BT.to(self.device), mask)

    @torch.inference_mode()
    def hidden_packed(self, texts: Sequence[np.ndarray]) -> Tensor:
        """Return the last hidden states [N, H] of texts read one after another in one row, none seeing another."""
        if self.packing.why_not:
            raise ModelRefused(f"this model cannot read packed texts: {self.packing.why_not}. Set batching to sorted.")
        with self.clock.running():
            ids = [torch.from_numpy(text.astype(np.int64)) for text in texts]
            return run_packed(self.model, ids, self.packing.one_kernel)

    @torch.inference_mode()
    def kept(self, hidden_NH: Tensor, gold_N: Tensor, keep: Keep, noise_N: Tensor | None = None) -> TopK:
        """Return what a rule keeps of N positions; their logits exist all at once."""
        with self.clock.running():
            return self.head.kept(hidden_NH, gold_N, keep, noise_N)

    @torch.inference_mode()
    def gold_logprobs(self, hidden_NH: Tensor, gold_N: Tensor) -> Tensor:
        """Return the log-probability of the token that follows, float32 [N]."""
        with self.clock.running():
            return self.head.topk(hidden_NH, gold_N, 1).gold_logprob_T


def load_causal_model(folder: Path, dtype: str, device: str) -> CausalModel:
    """Load a model for inference and prove that body and head together give the model's own logits."""
    from transformers import AutoModelForCausalLM  # takes two seconds, and a run with nothing to do needs no model

    transformers_logging.disable_progress_bar()  # it would tear the run's own bars apart
    with refusing(f"model {folder}: it cannot be loaded", "Fetch it again, or give another model."):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[dtype], trust_remote_code=False, use_safetensors=True, device_map=device,
            output_loading_info=True,
        )  # fmt: skip
    model, facts = loaded
    refuse_missing(facts["missing_keys"], folder)
    model = model.eval().requires_grad_(False)
    return split_model(model, str(folder))


def refuse_missing(names: Iterable[str], folder: Path) -> None:
    """Raise `ModelRefused` where a folder lacks weights: the library would make them up at random."""
    if lacking := sorted(names):
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise ModelRefused(
            f"model {folder}: its *.safetensors lack {', '.join(lacking[:3])}{more}. Fetch the model again; or its "
            "config.json is another model's."
        )


def split_model(model: PreTrainedModel, name: str) -> CausalModel:
    """Split a model into body and head; raise `ModelRefused` where the two do not make the whole."""
    may_pad = probe(model, name)
    head = model.get_output_embeddings()
    soft_cap, scale = logit_transform(model)
    bias = getattr(head, "bias", None)
    exact_head = Head(head.weight, head.weight.float(), bias.float() if bias is not None else None, soft_cap, scale)
    return CausalModel(model, exact_head, not may_pad, probe_packing(model))


def padded(passages: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask [B, T], padded on the right, where a causal model cannot see the padding."""
    longest = max(len(inputs) for inputs in passages)
    ids_BT = torch.zeros(len(passages), longest, dtype=torch.long)
    mask_BT = torch.zeros(len(passages), longest, dtype=torch.long)
    for row, inputs in enumerate(passages):
        ids_BT[row, : len(inputs)] = torch.from_numpy(inputs.astype(np.int64))
        mask_BT[row, : len(inputs)] = 1
    return ids_BT, mask_BT
