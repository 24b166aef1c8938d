"""One GPU for one run: the runs that a host's worker does at once share its GPUs out among them."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

SECONDS_BETWEEN_TRIES = 2.0
VISIBLE = "CUDA_VISIBLE_DEVICES"
# These compute in the run's own process, on one device; training has a process for each of its GPUs.
ON_ONE_GPU = frozenset({"check", "capture", "evaluate", "suites"})


def gpus_of_host(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs that this process may use, as CUDA names them; none where there is no CUDA."""
    import torch

    if given := environment.get(VISIBLE):
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]  # asks the driver, starts nothing on a GPU


@contextmanager
def one_gpu(gpus: Sequence[str], say: Callable[[str], None], folder: Path | None = None) -> Iterator[str | None]:
    """Let this process see one GPU that no other run of this host holds, and wait while there is none.

    It must not have used CUDA before. What it starts after the block sees all GPUs again. The slot is a lock on a file
    of this host, which the kernel frees when the process dies, however it dies. `folder` holds these files.
    """
    if not gpus:
        yield None
        return
    before = os.environ.get(VISIBLE)
    with ExitStack() as stack:
        gpu = _free_one(gpus, say, folder or _folder(), stack)
        os.environ[VISIBLE] = gpu
        try:
            yield gpu
        finally:
            if before is None:
                os.environ.pop(VISIBLE, None)
            else:
                os.environ[VISIBLE] = before


def _free_one(gpus: Sequence[str], say: Callable[[str], None], folder: Path, stack: ExitStack) -> str:
    told = False
    while True:
        for gpu in gpus:
            handle = os.open(folder / f"{gpu.replace('/', '-')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            stack.callback(os.close, handle)
            return gpu
        if not told:
            say(f"waiting for a GPU: other runs on this host hold all {len(gpus)}")
        told = True
        time.sleep(SECONDS_BETWEEN_TRIES)


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"logitfuse-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
