"""Sequence alignments: which source position serves each target position. One file per strategy."""

from logitfuse.kernels.registry import Registry

ALIGNMENTS = Registry("alignment", __name__)
