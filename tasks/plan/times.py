"""How long every stage takes: from a probe on this machine, or from a rate of named devices; for what is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from logitfuse.tasks.ensemble import ENSEMBLE
from logitfuse.tasks.evaluate import bases
from logitfuse.tasks.plan.amounts import Amounts
from logitfuse.tasks.plan.estimates import Estimate, exact
from logitfuse.tasks.plan.probe import Pace, Probed
from logitfuse.tasks.plan.row import Row
from logitfuse.tasks.plan.sizes import ModelSize, model_size
from logitfuse.tasks.plan.stored_bytes import PER_FILE

if TYPE_CHECKING:
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.plan.gpus import Devices
    from logitfuse.tasks.run import Run

# Seconds a token (prepare: a byte) of one core of the two-core machine of benchmarks/results/scale-2cpu.json, over
# 100 million tokens: for plans that are made for other devices, whose data stages nobody has probed. Prepare reads
# twice.
ON_A_CPU = {"prepare": 0.2e-6, "encode": 1.5e-6, "align": 2.3e-6, "fuse": 1.4e-6}
RECOMPUTED = 4 / 3  # a training step with gradient checkpointing over one without
FROZEN = 2 / 3  # of a training step's operations, where weights are frozen
PROBED, COMPUTED, ELSEWHERE = "probed here", "from FLOP/s", "measured on a CPU core"


def probed_times(run: Run, rows: list[Row], found: Probed, amounts: Amounts) -> list[Row]:
    """Return the rows with the seconds of what is missing, and the bytes that the probe's shards took."""
    return [_with_pace(row, _pace(run, row, found, amounts)) for row in rows]


def _with_pace(row: Row, pace: Pace | None) -> Row:
    if row.done >= row.units:
        return replace(row, seconds=exact(0), how="done")
    if pace is None:
        return row
    left = row.amount.times(row.left * pace.per_token)
    seconds = left.plus(pace.fixed + pace.per_shard * (row.units - row.done))
    size = row.bytes
    if pace.bytes_per_token is not None:
        files = PER_FILE * (row.units - row.done)
        size = row.amount.times(pace.bytes_per_token * row.left).plus(row.bytes_done + files)
    return replace(row, seconds=seconds, bytes=size, how=PROBED)


def _pace(run: Run, row: Row, found: Probed, amounts: Amounts) -> Pace | None:
    """Return the pace of a row; what was not probed itself has that of what is most like it."""
    paces, source = found.paces, row.source
    if row.stage == "encode" and (pace := paces.get(("encode", source))):
        return replace(pace, per_token=amounts.per_token.get(source or "", pace.per_token))
    if row.stage == "prepare" and (pace := paces.get(("prepare", None))):
        return replace(pace, per_token=ON_A_CPU["prepare"])  # a probe is too short to tell
    if row.stage == "fuse":
        return paces.get(("fuse", None))
    if row.stage == "train":
        return paces.get(("train", None))
    if row.stage == "evaluate":
        if source == ENSEMBLE:
            return None
        base = bases(run).get(source or "")
        mine = paces.get(("evaluate", base.label if base else source))
        return mine or paces.get(("evaluate", run.target.label))  # what is trained is as large as the target
    if row.stage == "adapt":
        return _adapting(run, run.given[source or ""], found)
    return paces.get((row.stage, source))


def _adapting(run: Run, model: Source, found: Probed) -> Pace | None:
    """Return the pace of continuing a model: as much slower than training the target as reading with it is."""
    trained, own = found.paces.get(("train", None)), found.paces.get(("evaluate", run.target.label))
    other = found.paces.get(("evaluate", model.label))
    if trained is None or own is None or other is None or not own.per_token:
        return trained
    return replace(trained, per_token=trained.per_token * other.per_token / own.per_token)


def computed_times(run: Run, rows: list[Row], devices: Devices, amounts: Amounts) -> list[Row]:
    """Return the rows with the seconds of what is missing, from the operations that the models need.

    Data stages, which devices do not help, take what they took elsewhere, by as many cores as the run has workers.
    """
    return [_computed(run, row, devices, amounts) for row in rows]


def _computed(run: Run, row: Row, devices: Devices, amounts: Amounts) -> Row:
    if row.done >= row.units:
        return replace(row, seconds=exact(0), how="done")
    if row.stage in ON_A_CPU:
        workers = 1 if row.stage == "prepare" else run.recipe.execution.workers
        seconds = row.amount.times(row.left * ON_A_CPU[row.stage] / workers)
        return replace(row, seconds=seconds, how=ELSEWHERE)
    operations = flops_of(run, row, amounts)
    if operations is None:
        return row
    return replace(row, seconds=operations.times(row.left / devices.flops), how=COMPUTED)


def flops_of(run: Run, row: Row, amounts: Amounts) -> Estimate | None:
    """Return the operations that a row's models need; None for a stage that is not bound by them."""
    train = run.recipe.train
    if row.stage == "capture":
        size = model_size(run.teachers[row.source or ""])
        return _forward(size, row.amount, amounts.of(f"squares/{row.source}"))
    if row.stage == "train":
        size, squares = model_size(run.target), amounts.of("train/squares")
        part = row.amount.value / max(1.0, amounts.of("train/positions").value)
        forward = _forward(size, row.amount, squares.times(part))
        factor = 3.0 * (RECOMPUTED if train.gradient_checkpointing else 1.0) * (FROZEN if train.lora else 1.0)
        return forward.times(factor)
    if row.stage == "adapt":
        return _forward(model_size(run.given[row.source or ""]), row.amount, exact(0)).times(3)
    if row.stage == "evaluate" and row.source != ENSEMBLE:
        model = run.given.get(row.source or "", run.target)
        return _forward(model_size(model), row.amount, exact(0))
    return None


def _forward(size: ModelSize, tokens: Estimate, squares: Estimate) -> Estimate:
    found = size.forward(tokens.value, squares.value)
    return tokens.times(found / tokens.value) if tokens.value else exact(0)
