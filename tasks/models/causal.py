"""A causal language model as teacher: hidden states from its body, exact float32 logits from its head.

legend: B sequences, T positions, H hidden size, N selected positions, V vocabulary
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from logitfuse.kernels.head import Head
from logitfuse.kernels.topk import TopK
from logitfuse.storage.errors import ModelRefused

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
PROBE_LENGTH = 16


@dataclass(frozen=True)
class CausalModel:
    """A loaded model, split into body and head, so that logits need never exist for more than a few positions."""

    model: PreTrainedModel
    head: Head

    @property
    def device(self) -> torch.device:
        return self.head.weight_VH.device

    @torch.inference_mode()
    def hidden(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the last hidden states [B, T, H]. `use_cache=False`: with it transformers 5 mixes sequences up."""
        return self.model.base_model(
            input_ids=ids_BT.to(self.device), attention_mask=mask_BT.to(self.device), use_cache=False
        ).last_hidden_state

    @torch.inference_mode()
    def topk(self, hidden_NH: Tensor, gold_N: Tensor, k: int) -> TopK:
        """Return what is kept of N positions; their logits exist all at once."""
        return self.head.topk(hidden_NH, gold_N, k)


def load_causal_model(folder: Path, dtype: str, device: str) -> CausalModel:
    """Load a model for inference and prove that body and head together give the model's own logits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], trust_remote_code=False)
    model = model.to(device).eval().requires_grad_(False)
    return split_model(model, str(folder))


def split_model(model: PreTrainedModel, name: str) -> CausalModel:
    """Split a model into body and head; raise `ModelRefused` where the two do not make the whole."""
    head = model.get_output_embeddings()
    if head is None or getattr(model, "base_model", model) is model:
        raise ModelRefused(f"model {name}: it has no separate body and output head, so it cannot be captured.")
    soft_cap, scale = logit_transform(model)
    bias = getattr(head, "bias", None)
    split = CausalModel(
        model, Head(head.weight, head.weight.float(), bias.float() if bias is not None else None, soft_cap, scale)
    )
    _probe(split, name)
    return split


def logit_transform(model: PreTrainedModel) -> tuple[float | None, float]:
    """Return (soft cap, scale) that the architecture applies to its head's output (Gemma-2, Cohere, Granite)."""
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) if model.config.model_type.startswith("cohere") else 1.0
    if divisor := getattr(config, "logits_scaling", None):
        scale /= float(divisor)
    return getattr(config, "final_logit_softcapping", None), scale


def _probe(split: CausalModel, name: str) -> None:
    ids = torch.arange(PROBE_LENGTH, device=split.device)[None] % len(split.head.weight_VH)
    with torch.inference_mode():
        whole = split.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].float()
        ours = split.head.logits(split.hidden(ids, torch.ones_like(ids))[0])
    tolerance = 1e-3 if split.model.dtype == torch.float32 else 0.25
    difference = (whole - ours).abs().max().item()
    if not difference <= tolerance * max(1.0, whole.abs().max().item() / 16):
        raise ModelRefused(
            f"model {name}: its own logits differ from body plus head by {difference:.3g} (or are not finite), so "
            f"architecture {split.model.config.model_type!r} transforms them in a way logitfuse does not know yet."
        )


def padded(passages: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask [B, T], padded on the right, where a causal model cannot see the padding."""
    longest = max(len(inputs) for inputs in passages)
    ids_BT = torch.zeros(len(passages), longest, dtype=torch.long)
    mask_BT = torch.zeros(len(passages), longest, dtype=torch.long)
    for row, inputs in enumerate(passages):
        ids_BT[row, : len(inputs)] = torch.from_numpy(inputs.astype(np.int64))
        mask_BT[row, : len(inputs)] = 1
    return ids_BT, mask_BT
