"""What is shown around the bars of a run: which stages are done and to come, the losses, the disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from logitfuse.flows.bar_rows import Bar
from logitfuse.flows.live_view import LiveView, Mark
from logitfuse.flows.losses import newest_losses
from logitfuse.flows.pace import duration, quantity
from logitfuse.flows.repeating import repeating

if TYPE_CHECKING:
    from logitfuse.tasks.recipe import Recipe

SECONDS_BETWEEN_LOOKS = 2.0


class Overview:
    """A run of these stages, one after the other, as seen by the process that does it."""

    def __init__(self, recipe: Recipe, stages: Sequence[str]) -> None:
        self._folder, self._place, self._name = recipe.folder, recipe.place, recipe.name
        self._recipe, self._stages = recipe, list(stages)
        self._present = ""
        self._began, self._clock = time.time(), time.monotonic()
        self._losses: list[str] = []
        self._disk = ""

    def stage_begins(self, stage: str) -> None:
        """Note which stage is at work now; those before it are done, or were."""
        self._present = stage

    @contextmanager
    def kept_up_to_date(self) -> Iterator[None]:
        """Look at the run's folder now and then while the block runs."""
        self._look()
        with repeating(SECONDS_BETWEEN_LOOKS, self._look):
            yield

    def _look(self) -> None:
        self._losses = [str(losses) for losses in newest_losses(self._folder, since=self._began)]
        self._disk = free_disk(self._folder)

    def view(self, bars: Sequence[Bar]) -> LiveView:
        """Return the run with these bars."""
        spent = duration(time.monotonic() - self._clock)
        disk = f"{spent} · {self._disk}" if self._disk else spent
        note = "" if self._present else "Looking for what is missing, and starting."
        return LiveView(f"{self._name}  {self._place}", disk, self._marks(), bars, self._losses, note)

    def _marks(self) -> dict[str, Mark]:
        if len(self._stages) == 1:
            return {}
        at = self._stages.index(self._present) if self._present in self._stages else -1
        off = switched_off(self._recipe)
        marks = [Mark.DONE if n < at else Mark.WORKING if n == at else Mark.WAITING for n in range(len(self._stages))]
        return {s: Mark.OFF if s in off else mark for s, mark in zip(self._stages, marks, strict=True)}


def switched_off(recipe: Recipe) -> set[str]:
    """Return the stages in which a recipe asks for nothing."""
    from logitfuse.tasks.merge_settings import merges

    adapts = any(model.adapt is not None for model in (recipe.target, *recipe.sources))
    asked = {"adapt": adapts, "merge": merges(recipe), "suites": recipe.suites.wanted}
    return {stage for stage, wanted in asked.items() if not wanted}


def free_disk(folder: Path) -> str:
    """Say how much room the disk of a folder has, or of the lowest one above it that is there."""
    with suppress(OSError):
        place = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
        return f"{quantity(shutil.disk_usage(place).free, 'bytes')} free"
    return ""
