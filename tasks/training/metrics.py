"""metrics.jsonl: one JSON line for each step, no step twice. docs/watching.md says what each entry means."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from logitfuse.storage.atomic import replacing
from logitfuse.storage.errors import ShardCorrupt

TAIL_BYTES = 1 << 16  # more than a line has
# What may differ from run to run though the steps are the same to the bit.
MEASURED = frozenset({"tokens_per_s", "seconds", "mfu", "peak_memory_gb", "seconds_left", "time"})


Whole = Annotated[int, Field(ge=0, lt=2**63)]


class _Step(BaseModel):
    """What a line must be so that whoever reads it can; the file has no checksum, because it grows with each step."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    step: Whole
    steps: Whole = 0
    tokens: Whole = 0
    loss: float | None = None
    clm_loss: float | None = None
    fusion_loss: float | None = None
    seconds: float = 0.0
    tokens_per_s: float | None = None
    mfu: float | None = None
    served_share: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    clm_weight: float | None = None
    epoch: float | None = None
    peak_memory_gb: float | None = None
    seconds_left: float | None = None
    time: float | None = None
    held_out: dict[str, float | None] = {}
    skipped: str = ""
    documents: list[str] = []


class MetricsFile:
    """Appends lines to a metrics file after cutting off all steps that a resumed run will do again."""

    def __init__(self, path: Path, done: int) -> None:
        """Keep the lines of steps 1 to `done`; a last line that was never finished is dropped as well."""
        with replacing(path) as scratch:
            scratch.write_text("".join(json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= done))
        self._path = path

    def write(self, line: dict[str, Any]) -> None:
        """Append one step's numbers; what is no finite number, as a step that is left out may have, becomes null."""
        with self._path.open("a") as stream:
            stream.write(json.dumps(_finite(line), allow_nan=False) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, none if there is none; an unfinished last line is left out.

    Raises `ShardCorrupt` where another line is none that training writes.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _line(text: bytes, where: str) -> dict[str, Any]:
    try:
        line: dict[str, Any] = json.loads(text)
        _Step.model_validate(line)
        return line
    except (ValueError, RecursionError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ShardCorrupt(
            f"{where}: training wrote no such line ({said}). Remove the file: the model and its training stay as they "
            "are, only the curves begin anew."
        ) from error


def last_line(path: Path) -> dict[str, Any] | None:
    """Return the last whole line, None if there is none or it is none that training writes.

    Reads the end of the file only, as it may be asked often.
    """
    if not path.exists():
        return None
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL_BYTES))
        lines = stream.read().split(b"\n")[:-1]
    try:
        return _line(lines[-1], str(path)) if lines else None
    except ShardCorrupt:
        return None


def stood_before(line: dict[str, Any], began: float) -> bool:
    """Whether a step was done before the Unix time `began`, by an earlier process of a training that goes on."""
    return line.get("time") is not None and bool(line["time"] < began)


def training_seconds(made: Mapping[str, Any]) -> float:
    """Return the seconds in which a model learnt the tokens that its record counts, from the record's `made`.

    `seconds` are the last process' only. Steps of those before it stand in `earlier_seconds`; a record without it may
    be of a training that was resumed if its steps took longer.
    """
    seconds, steps, earlier = (made.get(name) or 0.0 for name in ("seconds", "model_seconds", "earlier_seconds"))
    return float(max(seconds + earlier, steps))


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """Return a line's numbers by the names they have in TensorBoard and W&B."""
    named = {
        "loss/all": "loss",
        "loss/labels": "clm_loss",
        "loss/fusion": "fusion_loss",
        "train/fused_share": "served_share",
        "train/grad_norm": "grad_norm",
        "train/learning_rate": "learning_rate",
        "train/lambda": "clm_weight",
        "train/epoch": "epoch",
        "speed/tokens_per_s": "tokens_per_s",
        "speed/mfu": "mfu",
        "speed/peak_memory_gb": "peak_memory_gb",
    }
    found = {shown: line.get(name) for shown, name in named.items()}
    found |= {f"held_out/{domain}": value for domain, value in line.get("held_out", {}).items()}
    found["train/skipped"] = float("skipped" in line)
    return {shown: float(value) for shown, value in found.items() if value is not None and math.isfinite(value)}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
