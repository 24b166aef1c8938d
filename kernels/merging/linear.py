"""Linear: the weighted mean of the models (Wortsman et al., 2022); the base does not matter."""

# legend: M models, N elements of a tensor

from torch import Tensor

from logitfuse.kernels.merging import MERGES


@MERGES("linear")
def linear(models_MN: Tensor, base_N: Tensor, weights_M: Tensor, name: str) -> Tensor:
    """Return Σ w θ / Σ w, float32 [N]."""
    return weights_M / weights_M.sum() @ models_MN
