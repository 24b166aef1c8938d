"""A training process: `accelerate launch -m logitfuse.tasks.training.worker CONFIG.json`.

Exit codes: 0 the model is exported; 1 an error, told on a line of its own; 143 asked to stop by SIGTERM, all
finished steps are in a checkpoint and the same command goes on from there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from logitfuse.tasks.training.parent import die_with_parent

ERROR_MARK = "training error: "
STOP_MARK = "training stop: "
PEER_MARK = "training peer: "
MEMORY_MARK = "training memory, bytes at most: "
STOPPED = 128 + signal.SIGTERM
LESS_MEMORY = (
    "lower train.micro_batch_tokens or train.loss_chunk, set train.gradient_checkpointing or train.lora, or use more "
    "processes with execution.sharded"
)
PEER_IS_LOST = (
    "another process of this run is gone or does not answer, so this one ends too. If no error stands above, look at "
    "the other hosts. Start all of them again: they go on from the last checkpoint"
)


def main(arguments: list[str]) -> int:
    """Run one training process; return its exit code."""
    if len(arguments) != 1:
        print("usage: accelerate launch -m logitfuse.tasks.training.worker CONFIG.json", file=sys.stderr)
        return 2
    die_with_parent()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return _train(Path(arguments[0]), stop)


def _train(config: Path, stop: threading.Event) -> int:
    # Imported late, so that the watch above is already on while torch loads.
    from transformers.utils import logging

    from logitfuse.storage.errors import LogitfuseError
    from logitfuse.storage.system_errors import explained
    from logitfuse.tasks.training.config import WorkerConfig
    from logitfuse.tasks.training.sharding import leave_processes, peer_is_lost
    from logitfuse.tasks.training.trainer import Stopped, Trainer
    from logitfuse.tasks.training.watch import peak_memory

    logging.disable_progress_bar()
    try:
        trainer = Trainer(WorkerConfig.model_validate_json(config.read_text()), stop, _say)
        trainer.train()
        _say(f"{MEMORY_MARK}{peak_memory(trainer.accelerator.device)}")
    except Stopped as reason:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            _say(f"{STOP_MARK}{reason}")
        leave_processes()
        return STOPPED
    except LogitfuseError as error:
        _say(f"{ERROR_MARK}{error}")
        return 1
    except (RuntimeError, MemoryError) as error:
        if where := full_memory(error):
            _say(f"{ERROR_MARK}{where} memory is full: {LESS_MEMORY}. ({(str(error) or repr(error)).splitlines()[0]})")
        elif peer_is_lost(error):
            _say(f"{PEER_MARK}{PEER_IS_LOST}. ({str(error).splitlines()[0]})")
        else:
            raise
        return 1
    except Exception as error:  # libraries tell of a full disk in errors of their own kinds
        if (told := explained(error, root=config.parent)) is None:
            raise
        _say(f"{ERROR_MARK}{told}")
        return 1
    leave_processes()
    return 0


def end(code: int) -> NoReturn:
    """End this process with `code` and take nothing apart on the way: all that matters is saved and closed by now.

    FSDP2 keeps references to its process groups until the interpreter is torn down, where gloo's threads may find
    themselves destroyed while they run: std::terminate, and a finished training would end as an abort (SIGABRT).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def full_memory(error: BaseException) -> str | None:
    """Say whose memory an error is about, `the GPU's` or `this machine's`; None if it is about something else."""
    from torch import OutOfMemoryError

    if isinstance(error, OutOfMemoryError):
        return "the GPU's"
    on_cpu = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error) or "std::bad_alloc" in str(error)
    return "this machine's" if on_cpu else None


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
