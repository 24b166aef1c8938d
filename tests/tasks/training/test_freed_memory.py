"""Memory that training has freed goes back to the system."""

import os
import platform
from pathlib import Path

import numpy as np
import pytest

from logitfuse.tasks.training import launch
from logitfuse.tasks.training.freed_memory import environment, give_back_freed

PAGES = Path("/proc/self/statm")


def resident() -> int:
    return int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not PAGES.exists(), reason="of glibc on Linux alone")
def test_what_is_freed_between_what_is_used_is_given_back() -> None:
    pieces = [np.ones(8_000) for _ in range(2_000)]  # 128 MB, each too small to be mapped by itself
    kept = pieces[::100]
    before = resident()
    del pieces
    give_back_freed()
    assert before - resident() > 100e6 and len(kept) == 20


def test_a_cpu_alone_is_started_so() -> None:
    assert launch._allocator(on_cpu=True) == environment() and launch._allocator(on_cpu=False) == {}
