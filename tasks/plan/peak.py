"""The most memory that this process holds while a block runs: of its GPU, or altogether on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # what the kernel takes for: begin again with what is resident now


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], int | None]]:
    """Yield what tells the most bytes held since the block began; None where this system does not say (Linux does)."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.max_memory_allocated
        return
    try:
        CLEAR_REFS.write_text(FORGET_PEAK)
    except OSError:
        yield lambda: None
        return
    yield _most_resident


def _most_resident() -> int | None:
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
