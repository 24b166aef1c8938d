"""The target model with the fused objective as its output, in place of logits."""

# legend: B sequences, T positions, N = B·T, H hidden size, V vocabulary, D sequences, packed ones too, S sources

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfuse.kernels.losses.divergences import DIVERGENCES
from logitfuse.kernels.losses.fused import ObjectiveParts, fused_objective
from logitfuse.kernels.losses.gate import Head, gold_nats, open_sequences
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
        head, hidden_NH = self.model.get_output_embeddings(), hidden_BTH.flatten(0, 1)
        own = self._own(clm_weight, labels_BT, lengths, scores_DS)
        if settings.gate == "sequence" and not (isinstance(own, float) and own == 1):
            bent = Head(head.weight, getattr(head, "bias", None), self.softcap, self.logit_scale)
            targets, own = self._gated(hidden_NH, bent, labels_BT, targets, own, lengths, compute)
        return fused_objective(
            hidden_NH,
            head.weight,
            labels_BT.flatten(),
            targets,
            self._weights(mask_BT, labels_BT, targets, normaliser, own, lengths),
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

    def _gated(
        self,
        hidden_NH: Tensor,
        head: Head,
        labels_BT: Tensor,
        targets: SparseTargets,
        own: float | Tensor,
        lengths: Sequence[int] | None,
        dtype: torch.dtype,
    ) -> tuple[SparseTargets, Tensor]:
        """Take the targets from sequences whose labels the student knows better; their labels then count whole."""
        sizes = torch.tensor(lengths or [labels_BT.shape[1]] * len(labels_BT), device=labels_BT.device)
        sequence_N = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        found = gold_nats(
            hidden_NH.detach(),
            head,
            labels_BT.flatten(),
            targets,
            residual=self._settings.residual,
            chunk=self._settings.loss_chunk,
            dtype=dtype,
            backend=self._settings.loss_backend,
        )
        open_N = open_sequences(found, sequence_N, len(sizes))[sequence_N]
        return targets._replace(served_N=targets.served_N & open_N), torch.where(open_N, own, 1.0)

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
