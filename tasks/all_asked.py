"""Stages that ask something of each model: one that is refused hides no other's answer, and all are told at once."""

from __future__ import annotations

from collections.abc import Sequence

from logitfuse.storage.errors import LogitfuseError, WorkFailed, said

ALL_ASKED = frozenset({"check"})


def told_together(stage: str, failures: Sequence[BaseException], total: int) -> LogitfuseError:
    """Return one error that tells everything that was refused, of `total` models; a single one tells for itself."""
    first = failures[0]
    if len(failures) == 1 and isinstance(first, LogitfuseError):
        return first
    kinds = {type(failure) for failure in failures}
    kind = type(first) if len(kinds) == 1 and isinstance(first, LogitfuseError) else WorkFailed
    lines = dict.fromkeys(said(failure) for failure in failures)
    return kind("\n  ".join([f"stage {stage}: {len(failures)} of {total} models failed:", *lines]))
