"""A causal model taken apart: its body gives hidden states, its head logits; proved on a few tokens before use.

legend: B sequences, T positions, N positions of all texts, H hidden size, V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from logitfuse.storage.errors import ModelRefused

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_LENGTH = 12
LONGEST_PROBE = 1100  # tokens; a wider window of a layer is not tried out
# How far hidden states packed and alone may differ, of their length: shapes differ, so roundings do. A text that sees
# another one, or has wrong positions, differs by tenths.
PACKED_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}
TOLERANCE = 1e-3  # of the largest logit; only runs of one shape are compared, for another shape rounds differently


def run_body(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Return the last hidden states [B, T, H]. `use_cache=False`: with it transformers 5 mixes sequences up."""
    mask = {} if mask_BT is None else {"attention_mask": mask_BT}
    return model.base_model(input_ids=ids_BT, use_cache=False, **mask).last_hidden_state


class Packing(NamedTuple):
    """Whether a model can read several texts in one row, and how."""

    why_not: str | None  # what speaks against it, None if nothing does
    one_kernel: bool = False  # torch's variable-length attention does all texts at once (GPU)


def run_packed(model: PreTrainedModel, texts: Sequence[Tensor], one_kernel: bool) -> Tensor:
    """Return the last hidden states [N, H] of texts, each [T], read one after another in one row, none seeing another.

    What they are worth is for `probe_packing` to say.
    """
    from logitfuse.tasks.models.packing import packed  # brings transformers' models with it, which take two seconds

    ids_1N = torch.cat(list(texts))[None].to(model.device)
    with packed(model, [len(text) for text in texts], one_kernel) as positions_1N:
        found: Tensor = model.base_model(input_ids=ids_1N, position_ids=positions_1N, use_cache=False).last_hidden_state
    return found[0]


@torch.no_grad()
def probe_packing(model: PreTrainedModel) -> Packing:
    """Try packed texts against each one alone; on a GPU first by one kernel, then text by text."""
    longest = _window(model) + PROBE_LENGTH
    lengths = (PROBE_LENGTH, longest if longest <= LONGEST_PROBE else PROBE_LENGTH, 5, PROBE_LENGTH)
    width = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    texts = [(torch.arange(1, n + 1, device=model.device) * (7 + i)) % width for i, n in enumerate(lengths)]
    training, verbosity = model.training, transformers_logging.get_verbosity()
    model.eval()
    transformers_logging.set_verbosity_error()  # models that cannot switch their attention say so at length
    try:
        alone_NH = torch.cat([run_body(model, text[None], None)[0] for text in texts])
        if model.device.type == "cuda" and _disagreement(model, texts, alone_NH, one_kernel=True) is None:
            return Packing(None, one_kernel=True)
        return Packing(_disagreement(model, texts, alone_NH, one_kernel=False))
    finally:
        transformers_logging.set_verbosity(verbosity)
        model.train(training)


def _disagreement(model: PreTrainedModel, texts: list[Tensor], alone_NH: Tensor, one_kernel: bool) -> str | None:
    from logitfuse.tasks.models.packing import CannotPack

    try:
        off = _difference(run_packed(model, texts, one_kernel), alone_NH)
    except CannotPack as error:
        return str(error)
    except Exception as error:  # a model that fails on this is read otherwise, whatever the failure
        return f"it fails on packed texts ({type(error).__name__}: {str(error)[:200]})"
    allowed = PACKED_TOLERANCE[alone_NH.dtype]
    return (
        None if off <= allowed else f"packed, texts come out otherwise than alone (by {off:.2g}, allowed {allowed:g})"
    )


def _difference(found_NH: Tensor, wanted_NH: Tensor) -> float:
    """Return the largest difference of a position, as a share of its own length."""
    off_N = (found_NH.float() - wanted_NH.float()).norm(dim=-1) / wanted_NH.float().norm(dim=-1).clamp_min(1e-12)
    return float(off_N.max().nan_to_num(torch.inf))


def _window(model: PreTrainedModel) -> int:
    """Return the smallest number of tokens that a layer looks back, 0 for all of them."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None)
    return int(window or 0)


def logit_transform(model: PreTrainedModel) -> tuple[float | None, float]:
    """Return (soft cap, scale) that the architecture applies to its head's output (Gemma-2, Cohere, Granite)."""
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) if model.config.model_type.startswith("cohere") else 1.0
    if divisor := getattr(config, "logits_scaling", None):
        scale /= float(divisor)
    return getattr(config, "final_logit_softcapping", None), scale


@torch.no_grad()
def probe(model: PreTrainedModel, name: str) -> bool:
    """Check a model on a few tokens; return whether padding on the right may be left unmasked.

    A causal model does not see what is to the right, and without a mask the faster attention is used. Raises
    `ModelRefused` if body and head together are not the model.
    """
    head = model.get_output_embeddings()
    if head is None or getattr(model, "base_model", model) is model:
        raise ModelRefused(f"model {name}: it has no separate body and output head, so logitfuse cannot use it.")
    training = model.training
    model.eval()
    ids_1T = torch.arange(1, PROBE_LENGTH + 1, device=model.device)[None] % head.weight.shape[0]
    wanted_TV = model(input_ids=ids_1T, use_cache=False).logits[0].float()
    alone_TV = _logits(model, run_body(model, ids_1T, None))
    if not wanted_TV.isfinite().all():
        raise ModelRefused(
            f"model {name}: its logits are not finite, so it cannot predict: its weights are damaged, or {model.dtype} "
            "is too narrow for them. Fetch it again, or set its dtype."
        )
    if not _near(alone_TV, wanted_TV):
        raise ModelRefused(
            f"model {name}: its logits differ from body plus head by {(alone_TV - wanted_TV).abs().max():.3g}: "
            f"architecture {model.config.model_type!r} transforms them in a way logitfuse does not know."
        )
    padded = [run_body(model, torch.cat([ids_1T, padding], dim=1), None) for padding in (ids_1T, ids_1T.flip(1))]
    left_TV, right_TV = (_logits(model, hidden[:, :PROBE_LENGTH]) for hidden in padded)
    model.train(training)
    return _near(left_TV, right_TV)


def _logits(model: PreTrainedModel, hidden_1TH: Tensor) -> Tensor:
    soft_cap, scale = logit_transform(model)
    logits_TV = model.get_output_embeddings()(hidden_1TH[0]).float() * scale
    return torch.tanh(logits_TV / soft_cap) * soft_cap if soft_cap else logits_TV


def _near(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max().clamp(min=1))
