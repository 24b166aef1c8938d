"""The machine: GPU, memory, processors, file handles, disks."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from logitfuse.flows.doctor.findings import Finding
from logitfuse.storage.mounts import locks_of_this_host_only
from logitfuse.storage.paths import cache_folder

DRIVER = Path("/proc/driver/nvidia/version")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
FEW_GB, FEW_HANDLES = 4.0, 256
LITTLE_DISK_GB = {"run folder": 5.0, "cache": 1.0}


def check_gpu() -> Iterator[Finding]:
    """Yield what torch has to compute with."""
    import torch

    yield Finding("Machine", "torch", "fine", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield _gpu(number)
        return
    if DRIVER.exists():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        mend = "Install the build of torch that fits the driver (nvidia-smi names its CUDA), as pytorch.org says."
        yield Finding("Machine", "GPU", "broken", f"there is an NVIDIA driver, and torch ({built}) cannot use it", mend)
        return
    mend = "Models of more than about a billion parameters want a machine with one."
    yield Finding("Machine", "GPU", "note", "none: models compute on the processor", mend)


def _gpu(number: int) -> Finding:
    import torch

    facts = torch.cuda.get_device_properties(number)
    free = torch.cuda.mem_get_info(number)[0] / 1e9
    found = f"{facts.name}, {facts.total_memory / 1e9:.1f} GB, {free:.1f} free, capability {facts.major}.{facts.minor}"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Finding("Machine", f"GPU {number}", "fine", f"{found}, bfloat16")
    mend = "Set dtype: float32 for models and train.dtype: fp32."
    return Finding("Machine", f"GPU {number}", "note", f"{found}, no bfloat16", mend)


def check_machine() -> Iterator[Finding]:
    """Yield what there is of processors, memory and file handles."""
    yield Finding("Machine", "processors", "fine", str(len(os.sched_getaffinity(0))))
    yield _memory()
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = "no limit" if limit == resource.RLIM_INFINITY else f"{limit:,}"
    if limit != resource.RLIM_INFINITY and limit < FEW_HANDLES:
        mend = f"Allow more: ulimit -n {4096 if most == resource.RLIM_INFINITY else min(4096, most)}"
        yield Finding("Machine", "open files", "note", f"{shown} at once", mend)
    else:
        yield Finding("Machine", "open files", "fine", f"{shown} at once")


def memory_bytes() -> int:
    """Return the bytes of memory that this process may have: the machine's, or those of its container."""
    total = psutil.virtual_memory().total
    with suppress(OSError, ValueError):
        total = min(total, int(CGROUP_LIMIT.read_text()))
    return total


def _memory() -> Finding:
    total, free = memory_bytes() / 1e9, psutil.virtual_memory().available / 1e9
    found = f"{total:.1f} GB, {min(free, total):.1f} free"
    if min(free, total) >= FEW_GB:
        return Finding("Machine", "memory", "fine", found)
    mend = "Close other programs, or lower capture.tokens_per_batch and train.micro_batch_tokens (docs/memory.md)."
    return Finding("Machine", "memory", "note", found, mend)


def check_disks(runs: Path) -> Iterator[Finding]:
    """Yield whether the run folder and the cache can be written and have room."""
    yield from (_disk(name, folder) for name, folder in (("run folder", runs), ("cache", cache_folder())))
    if (kind := locks_of_this_host_only(_standing(runs))) is not None:
        mend = "Let one host at a time work in it; for several use a file system with locks, or s3://…"
        yield Finding("Machine", "locks", "note", f"{runs} is on {kind}, where locks hold on one host only", mend)


def _disk(name: str, folder: Path) -> Finding:
    place = _standing(folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        other = "Give another execution.folder" if name == "run folder" else "Set LOGITFUSE_CACHE to another folder"
        return Finding("Machine", name, "broken", f"{folder}: {place} cannot be written", f"{other}, or the rights.")
    free = shutil.disk_usage(place).free / 1e9
    if free < LITTLE_DISK_GB[name]:
        return Finding("Machine", name, "note", f"{folder}: {free:.1f} GB free", "Make room, or choose another disk.")
    return Finding("Machine", name, "fine", f"{folder}: {free:.1f} GB free")


def _standing(folder: Path) -> Path:
    """Return a folder, or the lowest one above it that is there."""
    whole = folder.expanduser().absolute()
    return next(place for place in (whole, *whole.parents) if place.exists())
