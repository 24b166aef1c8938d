"""The target model with the fused objective as its output, in place of logits."""

# legend: B sequences, T positions, H hidden size, V vocabulary

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfuse.kernels.losses.fused import ObjectiveParts, fused_objective
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.losses.weights import PositionWeights, by_position, by_sequence
from logitfuse.tasks.models.body import logit_transform, probe, run_body
from logitfuse.tasks.training.settings import TrainSettings

COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Objective(nn.Module):
    """Runs the model's body, then head and loss together, chunk by chunk: all logits never exist at once."""

    def __init__(self, model: PreTrainedModel, settings: TrainSettings) -> None:
        """Wrap a model; raise `ModelRefused` if its logits are not those of its body and head."""
        super().__init__()
        self.model = model
        self.softcap, self.logit_scale = logit_transform(model)
        self._settings = settings
        self._needs_mask = not probe(model, model.config.name_or_path or model.config.model_type)

    def forward(
        self,
        inputs_BT: Tensor,
        mask_BT: Tensor,
        labels_BT: Tensor,
        targets: SparseTargets,
        normaliser: float,
        clm_weight: float,
    ) -> ObjectiveParts:
        """Return the loss and its parts for sequences padded on the right.

        `normaliser` divides the loss: positions or, with published weights, sequences. `clm_weight` is this step's λ.
        """
        settings, targets = self._settings, SparseTargets(*targets)
        compute = COMPUTE[settings.dtype]
        with torch.autocast(inputs_BT.device.type, dtype=compute, enabled=compute != torch.float32):
            mask = mask_BT if self._needs_mask else None
            hidden_BTH = run_body(self.model, inputs_BT, mask)
        head = self.model.get_output_embeddings()
        return fused_objective(
            hidden_BTH.flatten(0, 1),
            head.weight,
            labels_BT.flatten(),
            targets,
            self._weights(mask_BT, labels_BT, targets, normaliser, clm_weight),
            bias_V=getattr(head, "bias", None),
            residual=settings.residual,
            divergence=settings.divergence,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            chunk=settings.loss_chunk,
            dtype=compute,
        )

    def _weights(
        self, mask_BT: Tensor, labels_BT: Tensor, targets: SparseTargets, normaliser: float, clm_weight: float
    ) -> PositionWeights:
        if self._settings.weighting == "sequence":
            return by_sequence(labels_BT, mask_BT, targets.served_N, clm_weight=clm_weight, normaliser=normaliser)
        return by_position(labels_BT.flatten(), targets.served_N, clm_weight=clm_weight, normaliser=normaliser)
