"""What a process takes of memory and time, from the kernel's own books (Linux)."""

import time
from pathlib import Path

STATUS = Path("/proc/self/status")


def memory_mb() -> tuple[float, float]:
    """Return (resident now, most ever resident) of this process, MB.

    Not `ru_maxrss`: that also counts what the parent held when this process was started from it.
    """
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    now, most = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, most


def forget_peak() -> None:
    """Let the most ever resident begin again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def processor_seconds() -> float:
    """Return the processor time of all threads of this process: other processes' load is not in it."""
    return time.process_time()
