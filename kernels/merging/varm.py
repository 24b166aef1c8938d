"""VaRM: task vectors weighed by how much each tensor has changed (FuseChat, Wan et al., 2024, arXiv 2402.16107)."""

# legend: M models, N elements of a tensor

from torch import Tensor

from logitfuse.kernels.merging import MERGES
from logitfuse.kernels.merging.task_vectors import shares_of_change


@MERGES("varm")
def varm(models_MN: Tensor, base_N: Tensor, weights_M: Tensor, name: str) -> Tensor:
    """Return base + Σ η τ with η in proportion to w · mean(τ²) of this tensor, float32 [N]."""
    vectors_MN = models_MN - base_N
    return base_N + shares_of_change(vectors_MN, weights_M) @ vectors_MN
