"""Freed memory goes back to the system: on a CPU it would stay in holes that the next batch does not fit into.

glibc keeps what is freed below 32 MB. Batches differ in length, so their tensors do not fit where those of others were:
the heap grew with every step, in the demo to half as much again as is ever in use at once. It changes no number.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back_freed() -> None:
    """Let go of every whole page that the allocator holds and nobody uses; does nothing where there is no glibc."""
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None


def environment() -> dict[str, str]:
    """Return what a process that trains on a CPU is started with, lest its memory grow from step to step.

    oneDNN keeps compiled products of the last 1024 shapes, up to megabytes each, and nearly every batch has new ones;
    those of a batch or two are enough. Huge pages make it cheap to take memory anew, where the system allows them
    (glibc 2.35).
    """
    return {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
