"""Weight merging: models of one architecture become one, tensor by tensor. One file per method.

A method gets a tensor of each of M models and of their base, flattened and in float32, the models' weights and the
tensor's name, and returns the merged tensor. What a model has learnt beyond the base is its *task vector*.
"""

from collections.abc import Callable
from typing import Any

from logitfuse.kernels.registry import Registry

MERGES: Registry[Callable[..., Any]] = Registry("merging method", __name__)
