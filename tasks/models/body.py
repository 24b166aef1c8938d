"""A causal model taken apart: its body gives hidden states, its head logits; proved on a few tokens before use.

legend: B sequences, T positions, H hidden size, V vocabulary
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from logitfuse.storage.errors import ModelRefused

PROBE_LENGTH = 12
TOLERANCE = 1e-3  # of the largest logit; only runs of one shape are compared, for another shape rounds differently


def run_body(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Return the last hidden states [B, T, H]. `use_cache=False`: with it transformers 5 mixes sequences up."""
    mask = {} if mask_BT is None else {"attention_mask": mask_BT}
    return model.base_model(input_ids=ids_BT, use_cache=False, **mask).last_hidden_state


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
    if not _near(alone_TV, wanted_TV):
        raise ModelRefused(
            f"model {name}: its logits differ from body plus head by {(alone_TV - wanted_TV).abs().max():.3g} (or are "
            f"not finite): architecture {model.config.model_type!r} transforms them in a way logitfuse does not know."
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
