"""Fusion rules: several sources' distributions become one. One file per rule.

A rule gets the sources' distributions on the target's vocabulary for T positions, and `scores_ST`, each source's
cross-entropy on the text there (nats per byte, lower is better, +inf where a source has none). It returns the fused
distributions and `weights_ST`, how much each source counted.
"""

from collections.abc import Callable
from typing import Any

from logitfuse.kernels.registry import Registry

FUSIONS: Registry[Callable[..., Any]] = Registry("fusion rule", __name__)
