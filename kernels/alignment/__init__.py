"""Sequence alignments: which source position serves each target position. One file per strategy."""

from collections.abc import Callable
from typing import Any

from logitfuse.kernels.registry import Registry

ALIGNMENTS: Registry[Callable[..., Any]] = Registry("alignment", __name__)
