"""The losses of models that are being trained, from the metrics that training writes into the run's folder."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitfuse.storage.errors import ShardCorrupt
from logitfuse.storage.store import only_a_file

PLACES = ("train/*", "adapt/*")
NAME = "metrics.*.jsonl"
TAIL_BYTES = 1 << 16  # hundreds of steps


@dataclass(frozen=True)
class Losses:
    """A model in training: its last step, and the last look at the held-out sample that is among the last steps."""

    model: str  # train/fused
    line: dict[str, Any]
    held_out: float | None

    def __str__(self) -> str:
        parts = [f"{self.model}  step {self.line['step']:,}/{self.line['steps']:,}"]
        for label, name in (("loss", "loss"), ("labels", "clm_loss"), ("fusion", "fusion_loss")):
            if (value := _number(self.line.get(name))) is not None:
                parts.append(f"{label} {value:.4f}")
        if "skipped" in self.line:
            parts.append("left out")
        if self.held_out is not None:
            parts.append(f"held-out {self.held_out:.4f} nats/byte")
        return "  ".join(parts)

    def facts(self) -> dict[str, Any]:
        """Return plain JSON values."""
        names = ("step", "steps", "loss", "clm_loss", "fusion_loss", "tokens_per_s", "seconds_left", "time")
        values = {name: _number(self.line.get(name)) for name in names}
        return {"model": self.model, **values, "held_out": self.held_out}


def newest_losses(folder: Path, since: float = 0.0, among: Collection[str] | None = None) -> list[Losses]:
    """Return the losses of each model, from its newest metrics file, of those written after the Unix time `since`.

    `among`: only these files, by their paths below the folder; other recipes may have trained in it, too.
    """
    found = []
    for pattern in PLACES:
        for place in sorted(folder.glob(pattern)):
            named = [f for f in place.glob(NAME) if among is None or f.relative_to(folder).as_posix() in among]
            files = [(stamp, file) for file in named if (stamp := _stamp(file)) > since]
            if files and (losses := _read(max(files)[1], place.relative_to(folder).as_posix())):
                found.append(losses)
    return found


def _stamp(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return -1.0


def _read(file: Path, model: str) -> Losses | None:
    try:
        with only_a_file(file).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - TAIL_BYTES))
            lines = list(_steps(stream.read()))
    except (OSError, ShardCorrupt):
        return None
    looks = [_number(line["held_out"].get("mean")) for line in lines if isinstance(line.get("held_out"), dict)]
    return Losses(model, lines[-1], looks[-1] if looks else None) if lines else None


def _steps(data: bytes) -> Iterator[dict[str, Any]]:
    """Yield the whole lines that are steps; the first may be cut off, the last unfinished."""
    for text in data.split(b"\n")[:-1]:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and all(isinstance(line.get(name), int) for name in ("step", "steps")):
            yield line


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
