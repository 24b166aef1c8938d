"""TIES: trim task vectors, elect a sign for each element, average those that agree (Yadav et al., 2023, section 4)."""

# legend: M models, N elements of a tensor

from typing import Annotated

from pydantic import Field
from torch import Tensor

from logitfuse.kernels.merging import MERGES
from logitfuse.kernels.merging.task_vectors import agreeing, largest


@MERGES("ties")
def ties(
    models_MN: Tensor,
    base_N: Tensor,
    weights_M: Tensor,
    name: str,
    *,
    density: Annotated[float, Field(gt=0, le=1)] = 0.2,
    scale: Annotated[float, Field(ge=0)] = 1.0,
) -> Tensor:
    """Return base + scale · the mean over the models that have the elected sign, float32 [N].

    `density`: share of each task vector that is kept, the largest elements of each tensor (the published code takes
    the largest of the whole model, which has to be held for that). `scale` is the paper's λ.
    """
    vectors_MN = models_MN - base_N
    trimmed_MN = vectors_MN * largest(vectors_MN.abs(), density)
    counted_MN = weights_M[:, None] * agreeing(trimmed_MN, weights_M)
    mean_N = (counted_MN * trimmed_MN).sum(0) / counted_MN.sum(0).clamp(min=1e-12)
    return base_N + scale * mean_N
