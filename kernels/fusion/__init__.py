"""Fusion rules: several sources' distributions become one. One file per rule.

A rule gets the sources' distributions on the target's vocabulary for T positions and the `Evidence` for each source
there. It returns the fused distributions and `weights_ST`, how much each source counted. Where no source has a
score, nothing counts; what becomes of a source that does not serve a position is each rule's to say (mixture.py).
"""

from collections.abc import Callable
from typing import Any

from logitfuse.kernels.registry import Registry

FUSIONS: Registry[Callable[..., Any]] = Registry("fusion rule", __name__)
