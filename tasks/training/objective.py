"""The target model with the fused objective as its output, in place of logits."""

# legend: B sequences, T positions, H hidden size, V vocabulary

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfuse.kernels.losses.fused import ObjectiveParts, fused_objective
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.models.causal import logit_transform
from logitfuse.tasks.training.settings import TrainSettings

PROBE_LENGTH = 12
PROBE_TOLERANCE = 1e-3  # of the largest logit, in float32
COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Objective(nn.Module):
    """Runs the model's body, then head and loss together, chunk by chunk: all logits never exist at once."""

    def __init__(self, model: PreTrainedModel, settings: TrainSettings) -> None:
        """Wrap a model; raise `ModelRefused` if its logits are not those of its body and head."""
        super().__init__()
        self.model = model
        self.softcap, self.logit_scale = logit_transform(model)
        self._settings = settings
        self._needs_mask = not probe(model)

    def forward(
        self, inputs_BT: Tensor, mask_BT: Tensor, labels_BT: Tensor, targets: SparseTargets, normaliser: float
    ) -> ObjectiveParts:
        """Return the loss and its parts for sequences padded on the right; `normaliser` divides the loss."""
        settings = self._settings
        compute = COMPUTE[settings.dtype]
        with torch.autocast(inputs_BT.device.type, dtype=compute, enabled=compute != torch.float32):
            mask = mask_BT if self._needs_mask else None
            hidden_BTH = _body(self.model, inputs_BT, mask)
        head = self.model.get_output_embeddings()
        return fused_objective(
            hidden_BTH.flatten(0, 1),
            head.weight,
            labels_BT.flatten(),
            SparseTargets(*targets),
            bias_V=getattr(head, "bias", None),
            clm_weight=settings.clm_weight,
            residual=settings.residual,
            normaliser=normaliser,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            chunk=settings.loss_chunk,
            dtype=compute,
        )


@torch.no_grad()
def probe(model: PreTrainedModel) -> bool:
    """Check a model on a few tokens; return whether padding on the right may be left unmasked.

    A causal model does not see what is to the right, and without a mask the faster attention is used. Raises
    `ModelRefused` if body and head together are not the model.
    """
    if model.get_output_embeddings() is None or model.base_model is model:
        raise ModelRefused(f"{_name(model)}: it has no separate body and output head, so it cannot be trained here.")
    training = model.training
    model.eval()
    ids_1T = (
        torch.arange(1, PROBE_LENGTH + 1, device=model.device)[None] % model.get_output_embeddings().weight.shape[0]
    )
    wanted_TV = model(input_ids=ids_1T, use_cache=False).logits[0].float()
    alone_TV = _logits(model, _body(model, ids_1T, None))
    if not _near(alone_TV, wanted_TV):
        raise ModelRefused(
            f"{_name(model)}: its logits differ from body plus head by {(alone_TV - wanted_TV).abs().max():.3g} "
            "(or are not finite): it transforms them in a way logitfuse does not know."
        )
    padded_TV = _logits(model, _body(model, torch.cat([ids_1T, ids_1T.flip(1)], dim=1), None))[:PROBE_LENGTH]
    model.train(training)
    return _near(padded_TV, wanted_TV)


def _body(model: PreTrainedModel, inputs_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
    mask = {} if mask_BT is None else {"attention_mask": mask_BT}
    return model.base_model(input_ids=inputs_BT, use_cache=False, **mask).last_hidden_state


def _logits(model: PreTrainedModel, hidden_1TH: Tensor) -> Tensor:
    softcap, scale = logit_transform(model)
    logits_TV = model.get_output_embeddings()(hidden_1TH[0]).float() * scale
    return torch.tanh(logits_TV / softcap) * softcap if softcap else logits_TV


def _near(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= PROBE_TOLERANCE * wanted.abs().max().clamp(min=1))


def _name(model: PreTrainedModel) -> str:
    return f"model {model.config.name_or_path or model.config.model_type}"
