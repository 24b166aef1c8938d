"""The target model with the fused objective as its output, in place of logits."""

# legend: B sequences, T positions, N = B·T, H hidden size, V vocabulary, D sequences, packed ones too, S sources

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfuse.kernels.losses.divergences import DIVERGENCES
from logitfuse.kernels.losses.fused import ObjectiveParts, fused_objective
from logitfuse.kernels.losses.targets import SparseTargets
from logitfuse.kernels.losses.weights import PositionWeights, by_position, by_reward, by_sequence
from logitfuse.tasks.models.body import logit_transform, probe, run_body
from logitfuse.tasks.strategy import checked_options
from logitfuse.tasks.training.batching import choose_batching, read_row
from logitfuse.tasks.training.settings import TrainSettings

COMPUTE = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Objective(nn.Module):
    """Runs the model's body, then head and loss together, chunk by chunk: all logits never exist at once."""

    def __init__(self, model: PreTrainedModel, settings: TrainSettings, device: torch.device | None = None) -> None:
        """Wrap a model; raise `ModelRefused` if its logits are not those of its body and head.

        `device` is where it will compute, if it is not there yet.
        """
        super().__init__()
        self.model = model
        self.softcap, self.logit_scale = logit_transform(model)
        self._settings = settings
        self._divergence_options = checked_options(DIVERGENCES, settings.divergence, settings.divergence_options)
        self._needs_mask = not probe(model, model.config.name_or_path or model.config.model_type)
        self.batching = choose_batching(model, settings, device or model.device, COMPUTE[settings.dtype])

    def forward(
        self,
        inputs_BT: Tensor,
        mask_BT: Tensor,
        labels_BT: Tensor,
        targets: SparseTargets,
        normaliser: float,
        clm_weight: float,
        lengths: Sequence[int] | None = None,
        scores_DS: Tensor | None = None,
    ) -> ObjectiveParts:
        """Return the loss and its parts for sequences padded on the right or, with their `lengths`, packed in one row.

        `normaliser` divides the loss: positions or, with published weights, sequences. `clm_weight` is this step's λ;
        where the schedule is `reward`, each sequence has its own from its sources' `scores_DS`.
        """
        settings, targets = self._settings, SparseTargets(*targets)
        compute = torch.float64 if self.model.dtype == torch.float64 else COMPUTE[settings.dtype]
        with torch.autocast(inputs_BT.device.type, dtype=compute, enabled=compute.itemsize < 4):
            if lengths:
                hidden_BTH = read_row(self.model, inputs_BT, lengths, self.batching.one_kernel)
            else:
                hidden_BTH = run_body(self.model, inputs_BT, mask_BT if self._needs_mask else None)
        head = self.model.get_output_embeddings()
        return fused_objective(
            hidden_BTH.flatten(0, 1),
            head.weight,
            labels_BT.flatten(),
            targets,
            self._weights(
                mask_BT, labels_BT, targets, normaliser, self._own(clm_weight, labels_BT, lengths, scores_DS), lengths
            ),
            bias_V=getattr(head, "bias", None),
            residual=settings.residual,
            divergence=settings.divergence,
            divergence_options=self._divergence_options,
            temperature=settings.temperature,
            temperature_squared=settings.temperature_squared,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            chunk=settings.loss_chunk,
            dtype=compute,
            backend=settings.loss_backend,
        )

    def _own(
        self, clm_weight: float, labels_BT: Tensor, lengths: Sequence[int] | None, scores_DS: Tensor | None
    ) -> float | Tensor:
        """Return λ: the step's, or by reward that of each position [N]."""
        if self._settings.clm_weight_schedule != "reward":
            return clm_weight
        if scores_DS is None:
            raise ValueError("λ by reward needs each sequence's scores: pass scores_DS.")
        sizes = lengths or [labels_BT.shape[1]] * len(labels_BT)
        return by_reward(scores_DS).repeat_interleave(torch.tensor(sizes, device=scores_DS.device))

    def _weights(
        self,
        mask_BT: Tensor,
        labels_BT: Tensor,
        targets: SparseTargets,
        normaliser: float,
        clm_weight: float | Tensor,
        lengths: Sequence[int] | None,
    ) -> PositionWeights:
        if self._settings.weighting == "sequence":
            sizes = list(lengths) if lengths else [labels_BT.shape[1]]
            served = targets.served_N.split(sizes) if lengths else [targets.served_N]
            own = clm_weight.split(sizes) if lengths and isinstance(clm_weight, Tensor) else [clm_weight] * len(sizes)
            sequences = zip(labels_BT.split(sizes, dim=1), mask_BT.split(sizes, dim=1), served, own, strict=True)
            parts = [by_sequence(*rows, clm_weight=of_each, normaliser=normaliser) for *rows, of_each in sequences]
            return PositionWeights(*map(torch.cat, zip(*parts, strict=True)))
        return by_position(labels_BT.flatten(), targets.served_N, clm_weight=clm_weight, normaliser=normaliser)
