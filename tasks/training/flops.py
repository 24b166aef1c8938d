"""How many floating-point operations a step needs, and what the device could do at best: MFU is their ratio.

MFU (PaLM, Chowdhery et al. 2022, appendix B) counts what the model needs: neither recomputed activations nor padding.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PretrainedConfig, PreTrainedModel

# Dense peak in TFLOP/s: bf16 tensor cores with float32 sums, and float32 without TF32. From NVIDIA's data sheets
# (B200, H200, H100, A100, L40S, L4, A10, A30, A40, RTX A6000: the product pages; RTX 4090 and 3090: the Ada and Ampere
# GA102 white papers) and AMD's (MI300X, MI250X, per device that torch sees). Where a sheet gives only the number
# with sparsity, half of it. A longer name stands before a shorter one that it contains.
PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "B200": (2250, 75),
    "GH200": (989, 67),
    "H200": (989, 67),
    "H100 PCIe": (756, 51),
    "H100 NVL": (835, 60),
    "H100": (989, 67),
    "H800": (989, 67),
    "A100": (312, 19.5),
    "A800": (312, 19.5),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "A10": (125, 31.2),
    "A30": (165, 10.3),
    "A40": (149.7, 37.4),
    "RTX A6000": (154.8, 38.7),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71, 35.6),
    "MI300X": (1307, 163.4),
    "MI250X": (191.5, 23.9),
}


def peak_flops(device: torch.device, dtype: str, given_tflops: float | None) -> float | None:
    """Return the operations a device can do in a second, None where nobody knows (a CPU, a GPU not in the table)."""
    if given_tflops is not None:
        return given_tflops * 1e12
    if device.type != "cuda":
        return None
    return known_peak(torch.cuda.get_device_name(device), dtype)


def known_peak(name: str, dtype: str) -> float | None:
    """Return the table's peak of a GPU by the name its driver gives it; `dtype` is bf16 or fp32."""
    words = name.replace("-", " ").lower()
    for known, peaks in PEAK_TFLOPS.items():
        if f" {known.lower()} " in f" {words} ":
            return peaks[dtype != "bf16"] * 1e12
    return None


class StepFlops:
    """The operations of a training step of one model: 6 a token and parameter, and attention's.

    A weight that is not trained needs 4: forward, and the gradient of its input. Attention counts what is left of the
    diagonal: 6·T²·width a layer for a text of T tokens, forward and backward.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self._per_token = _per_token(model, config)
        heads = getattr(config, "num_attention_heads", None) or getattr(config, "n_heads", 1)
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        layers = config.num_hidden_layers
        self._per_square = 6.0 * layers * width
        self._window = _windows(config, layers)

    def of(self, lengths: NDArray[np.int32]) -> float:
        """Return the operations of a step over texts of these lengths."""
        tokens = lengths.astype(np.float64)
        squares = tokens**2
        if self._window is not None:
            window, share = self._window
            seen = np.minimum(tokens, window)
            # Within a sliding window each token sees at most `window` others: T·w − w²/2 pairs instead of T²/2.
            squares = (1 - share) * squares + share * (2 * tokens * seen - seen**2)
        return self._per_token * float(tokens.sum()) + self._per_square * float(squares.sum())


def _per_token(model: PreTrainedModel, config: PretrainedConfig) -> float:
    """Return 6·N, N without an embedding that is only looked up, and with the experts that a token goes through."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings().weight
    tied = head is not None and head.weight is embedding
    active = _active_share(config)
    found = 0.0
    for name, parameter in model.named_parameters():
        if parameter is embedding and not tied:
            continue
        share = active if ".experts." in name else 1.0
        found += share * parameter.numel() * (6 if parameter.requires_grad else 4)
    return found


def _active_share(config: PretrainedConfig) -> float:
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None)
    return chosen / experts if experts and chosen else 1.0


def _windows(config: PretrainedConfig, layers: int) -> tuple[int, float] | None:
    """Return the sliding window and the share of the layers that have one."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not window or not kinds:
        return None
    return int(window), sum(kind == "sliding_attention" for kind in kinds) / layers
