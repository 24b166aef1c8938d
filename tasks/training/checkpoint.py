"""Checkpoints without pickle: safetensors and JSON, in folders that are there whole or not at all.

No generator state is saved: every step seeds the generators anew from (seed, step, process), so a resumed run
continues as the undisturbed one would.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from logitfuse.storage.atomic import SCRATCH_PREFIX, replacing_folder
from logitfuse.storage.checksums import checksum_bytes, checksum_file
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training.tensors import (
    TensorFile,
    load_model_tensors,
    load_optimizer_tensors,
    model_tensors,
    optimizer_tensors,
)

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are the ones that were written."""

    folder: Path
    step: int  # steps that were done
    processes: int  # that trained it


def save_checkpoint(
    folder: Path,
    state: dict[str, Any],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
    writes: bool = True,
) -> None:
    """Save `checkpoint-{step:08d}/` and remove all but the newest `keep`; `state` has at least `step`,
    `key` and `processes`.

    Every process calls this; the one that `writes` also writes.
    """
    parts = {MODEL_FILE: model_tensors(model), OPTIMIZER_FILE: optimizer_tensors(model, optimizer)}
    if not writes:
        for tensors in parts.values():
            for _ in tensors:  # parts of a sharded tensor are gathered by all processes together
                pass
        return
    with replacing_folder(folder / f"checkpoint-{state['step']:08d}") as scratch:
        for name, tensors in parts.items():
            save_file(dict(tensors), scratch / name)
        files = {name: _described(scratch / name) for name in parts}
        content = {"format": FORMAT, **state, "files": files}
        (scratch / STATE_FILE).write_text(json.dumps(content | {"checksum": _checksum(content)}, indent=1))
    for old in _folders(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def latest_checkpoint(folder: Path, key: str, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint whose checksums hold; damaged ones are skipped with a warning.

    Raises `BadInput` if the folder holds checkpoints of a run with another key.
    """
    for candidate in _folders(folder):
        state, why = _read_state(candidate)
        if state is None:
            warn(f"{candidate}: {why}; looking for an older checkpoint")
        elif state["key"] != key:
            raise BadInput(
                f"{candidate} belongs to a run with other settings or data (key {state['key']}, now {key}). "
                "Give this run a folder of its own, or remove that one."
            )
        else:
            return Checkpoint(candidate, state["step"], state["processes"])
    return None


def load_checkpoint(checkpoint: Checkpoint, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and optimiser back as they were, spread over as many processes as there are now."""
    load_model_tensors(model, TensorFile(checkpoint.folder / MODEL_FILE))
    load_optimizer_tensors(model, optimizer, TensorFile(checkpoint.folder / OPTIMIZER_FILE), checkpoint.step)


def remove_scratch(folder: Path) -> None:
    """Remove what a killed process left half written; only the one run that owns the folder may call this."""
    for left in folder.glob(f"{SCRATCH_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def newest_folder(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written whole, None if there is none."""
    return next(iter(_folders(folder)), None)


def steps_done(folder: Path) -> tuple[int, int]:
    """Return how many steps the newest checkpoint holds, and of how many; (0, 0) where there is none to go on from.

    For telling how far training is before its processes have loaded anything; they look at the checksums.
    """
    with suppress(OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        if (newest := newest_folder(folder)) is not None:
            state = json.loads((newest / STATE_FILE).read_text())
            return int(state["step"]), int(state["steps"])
    return 0, 0


def _folders(folder: Path) -> list[Path]:
    """Return all checkpoints, newest first."""
    return sorted(folder.glob("checkpoint-????????"), reverse=True)


def _checksum(content: dict[str, Any]) -> str:
    return checksum_bytes(json.dumps(content).encode())  # JSON gives every float back to the bit, and keeps the order


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "checksum": checksum_file(path)}


def _read_state(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the state if all files are as written, else why not."""
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        if state["format"] != FORMAT:
            return None, f"its format is {state['format']}, this version reads {FORMAT}"
        if state.pop("checksum") != _checksum(state):
            return None, f"{STATE_FILE} is not as it was written"
        for name in (MODEL_FILE, OPTIMIZER_FILE):
            if _described(folder / name) != state["files"][name]:
                return None, f"{name} is not as it was written"
        return {name: kind(state[name]) for name, kind in (("step", int), ("key", str), ("processes", int))}, ""
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        return None, f"{STATE_FILE} or a file it names cannot be read ({type(error).__name__}: {error})"
