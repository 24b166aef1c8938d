"""SCE: select what differs most, calculate a coefficient per tensor, erase minority signs (FuseChat, 2408.07990)."""

# legend: M models, N elements of a tensor

from typing import Annotated

from pydantic import Field
from torch import Tensor

from logitfuse.kernels.merging import MERGES
from logitfuse.kernels.merging.task_vectors import agreeing, largest, shares_of_change


@MERGES("sce")
def sce(
    models_MN: Tensor,
    base_N: Tensor,
    weights_M: Tensor,
    name: str,
    *,
    select: Annotated[float, Field(gt=0, le=1)] = 0.1,
) -> Tensor:
    """Return base + Σ η τ / Σ η over the models that agree in sign, where the task vectors differ; float32 [N].

    `select`: share of each tensor's elements that is merged, those whose variance over the models is largest; the
    others are the base's. One model's elements have no variance: all of them count then. η is in proportion to
    w · mean(τ²) of what is selected. Coefficients are renormalised over the models that are left at each element, as
    the authors' implementation does.
    """
    vectors_MN = models_MN - base_N
    if len(models_MN) > 1:
        vectors_MN = vectors_MN * largest(vectors_MN.var(dim=0, unbiased=False), select)
    counted_MN = shares_of_change(vectors_MN, weights_M)[:, None] * agreeing(vectors_MN, weights_M)
    return base_N + (counted_MN * vectors_MN).sum(0) / counted_MN.sum(0).clamp(min=1e-12)
