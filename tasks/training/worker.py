"""A training process: `accelerate launch -m logitfuse.tasks.training.worker CONFIG.json`.

Exit codes: 0 the model is exported; 1 an error, told on a line of its own; 143 asked to stop by SIGTERM, all
finished steps are in a checkpoint and the same command goes on from there.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from logitfuse.tasks.training.parent import die_with_parent

ERROR_MARK = "training error: "
STOPPED = 128 + signal.SIGTERM


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
    from torch import OutOfMemoryError
    from transformers.utils import logging

    from logitfuse.storage.errors import LogitfuseError
    from logitfuse.tasks.training.config import WorkerConfig
    from logitfuse.tasks.training.trainer import Stopped, Trainer

    logging.disable_progress_bar()
    try:
        Trainer(WorkerConfig.model_validate_json(config.read_text()), stop, _say).train()
    except Stopped as reason:
        _say(str(reason))
        return STOPPED
    except LogitfuseError as error:
        _say(f"{ERROR_MARK}{error}")
        return 1
    except OutOfMemoryError as error:
        _say(f"{ERROR_MARK}the GPU's memory is full: lower train.micro_batch_tokens or train.loss_chunk, or set "
             f"train.gradient_checkpointing. ({str(error).splitlines()[0]})")  # fmt: skip
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
