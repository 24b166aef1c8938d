"""Does a run fit? Its files on the disk, its models into memory."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from logitfuse.storage.urls import is_url
from logitfuse.tasks.adapt import adapt_of
from logitfuse.tasks.checks import check_place
from logitfuse.tasks.plan.estimates import Estimate, summed
from logitfuse.tasks.plan.memory import Memory, adapters, capture_memory, memory_here, train_memory
from logitfuse.tasks.plan.row import Row
from logitfuse.tasks.plan.sizes import model_size

if TYPE_CHECKING:
    from logitfuse.tasks.plan.gpus import Devices
    from logitfuse.tasks.plan.probe import Held
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.training.adapt_settings import AdaptSettings
    from logitfuse.tasks.training.settings import TrainSettings

HeldBy = dict[tuple[str, str | None], "Held"]
STATE = 12  # bytes of a trained weight in a checkpoint: itself and AdamW's averages, in float32


@dataclass(frozen=True)
class Disk:
    """What a run still writes, at most at a time, and what is free; `free` is None in an object store."""

    place: str
    free: float | None
    results: Estimate  # still to be written
    checkpoints: float  # beside them while a model is trained

    @property
    def needed(self) -> Estimate:
        return self.results.plus(self.checkpoints)

    @property
    def fits(self) -> bool:
        """False only where even the least of what is needed is more than is free."""
        return self.free is None or self.needed.low <= self.free


@dataclass(frozen=True)
class Need:
    """What a stage needs of a device's memory; `there` is None where nobody knows."""

    stage: str
    model: str
    memory: Memory
    there: float | None
    probed: bool = False  # what is needed beside the least was held by a probe, not computed

    @property
    def fits(self) -> bool:
        """False only where weights, gradients and optimiser alone are more than there is."""
        return self.there is None or self.memory.least <= self.there


def disk(run: Run, rows: list[Row]) -> Disk:
    """Return what a run needs of its disk."""
    recipe = run.recipe
    free = None if is_url(recipe.place) else float(shutil.disk_usage(check_place(recipe)).free)
    results = summed(row.bytes_left for row in rows)
    waiting = [_checkpoints(run, row) for row in rows if row.stage in ("adapt", "train") and row.done < row.units]
    return Disk(recipe.place, free, results, max(waiting, default=0.0))


def _checkpoints(run: Run, row: Row) -> float:
    """Return the bytes of a training's checkpoints: those that are kept, and one that is being written."""
    execution = run.recipe.execution
    if row.stage == "adapt":
        model = run.given[row.source or ""]
        settings: TrainSettings | AdaptSettings = adapt_of(model)
    else:
        model, settings = run.target, run.recipe.train
    size = model_size(model)
    trained = adapters(size, settings) if settings.lora else size.parameters
    written = max(0, row.steps - 1) // execution.checkpoint_every_steps
    return float(STATE * trained * min(written, execution.keep_checkpoints + 1))


def needs(run: Run, rows: list[Row], devices: Devices | None, held: HeldBy | None = None) -> list[Need]:
    """Return what capture and training need of a device, for what of them is missing; `held`: what a probe held."""
    on_gpu = devices is not None or run.device == "cuda"
    there = devices.memory if devices else memory_here(run.recipe.execution.device)
    execution = run.recipe.execution
    count = devices.count if devices else execution.processes
    found = []
    for row in (row for row in rows if row.done < row.units and row.source):
        label = row.source or ""
        probed: Held | None = None
        if row.stage == "capture":
            probed = (held or {}).get(("capture", label))
            memory = _capturing(run, label, probed, on_gpu=on_gpu)
        elif row.stage == "train":
            probed = (held or {}).get(("train", None))
            memory = train_memory(model_size(run.target), run.recipe.train, execution, count, on_gpu=on_gpu)
            memory = memory.holding(probed.bytes) if probed else memory
        elif row.stage == "adapt":
            model = run.given[label]
            memory = train_memory(model_size(model), adapt_of(model), execution, count, on_gpu=on_gpu)
        else:
            continue
        shared = count if row.stage != "capture" and not on_gpu else 1  # processes share one machine's memory
        found.append(Need(row.stage, label, memory.times(shared), there, probed is not None))
    return found


def _capturing(run: Run, label: str, probed: Held | None, *, on_gpu: bool) -> Memory:
    """Return what capturing with a model needs; a probe's batches are smaller, so what they held is scaled."""
    model, settings = run.teachers[label], run.recipe.capture
    size, dtype = model_size(model), model.home.settings.dtype
    whole = capture_memory(size, dtype, settings, on_gpu=on_gpu)
    if probed is None:
        return whole
    small = settings.model_copy(update={"tokens_per_batch": probed.tokens})
    there = capture_memory(size, dtype, small, on_gpu=on_gpu)
    held = there.holding(probed.bytes)
    return Memory(held.least, held.beside * whole.beside / there.beside)


def reasons(where: Disk, memory: list[Need], elsewhere: bool) -> list[str]:
    """Return why a run cannot fit, in words; `elsewhere`: other machines do the work, whose memory nobody knows."""
    found = []
    if not where.fits:
        assert where.free is not None
        found.append(
            f"run folder {where.place}: it still needs at least {gigabytes(where.needed.low)}{_beside(where)}, and "
            f"{gigabytes(where.free)} are free. Make room, choose another execution.folder, keep fewer checkpoints "
            "(execution.keep_checkpoints), a smaller capture.k or capture.codec compact."
        )
    for need in [] if elsewhere else memory:
        if not need.fits:
            assert need.there is not None
            found.append(
                f"stage {need.stage}, {need.model}: its weights alone "
                f"{'with gradients and optimiser ' if need.stage != 'capture' else ''}take "
                f"{gigabytes(need.memory.least)}, and there are {gigabytes(need.there)}. {_advice(need.stage)}"
            )
    return found


def _beside(where: Disk) -> str:
    return f" ({gigabytes(where.checkpoints)} of it for checkpoints while a model is trained)" * bool(where.checkpoints)


def _advice(stage: str) -> str:
    if stage == "capture":
        return "Use a device with more memory, or a smaller source."
    return "Train adapters (train.lora), spread it over more processes (execution.sharded), or use a larger device."


def gigabytes(size: float) -> str:
    """Write bytes in GB, or in MB or kB where they are few."""
    if size >= 0.95e9:
        return f"{size / 1e9:,.1f} GB"
    return f"{size / 1e6:,.1f} MB" if size >= 0.95e6 else f"{size / 1e3:,.1f} kB"
