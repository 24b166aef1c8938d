"""The plan of a run: what it will read, write, need and take, before anything is spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from logitfuse.storage.errors import LogitfuseError, ShardCorrupt, ShardMissing
from logitfuse.tasks.headroom import read_headroom
from logitfuse.tasks.headroom_table import ALL, FUSED, pick_rows
from logitfuse.tasks.plan.amounts import Amounts, count
from logitfuse.tasks.plan.estimates import Estimate, summed
from logitfuse.tasks.plan.fit import Disk, Need, disk, needs, reasons
from logitfuse.tasks.plan.refusals import refusals
from logitfuse.tasks.plan.row import Row
from logitfuse.tasks.plan.rows import stage_rows
from logitfuse.tasks.plan.sample import Sample
from logitfuse.tasks.plan.text_warnings import text_warnings
from logitfuse.tasks.plan.texts import read_sample
from logitfuse.tasks.plan.times import computed_times, probed_times

if TYPE_CHECKING:
    from logitfuse.tasks.plan.gpus import Devices
    from logitfuse.tasks.run import Run

FORMAT = 1
SAMPLE_BYTES = 4 << 20  # of text that a plan reads
GLANCE_BYTES = 1 << 20  # of text that a run's first step reads
COMPUTING = frozenset({"adapt", "capture", "train", "evaluate"})
Say = Callable[[str], None]


@dataclass
class Plan:
    """What was found out; without `sample` something is refused that nothing can be planned without."""

    refused: list[str]
    sample: Sample | None = None
    amounts: Amounts = field(default_factory=lambda: Amounts({}))
    rows: list[Row] = field(default_factory=list)
    disk: Disk | None = None
    needs: list[Need] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # of the text: nothing is refused for them
    timed: str = ""  # on what; empty where no times are known
    headroom: dict[str, Any] | None = None

    @property
    def seconds(self) -> Estimate:
        """Of all stages whose time is known."""
        return summed(row.seconds for row in self.rows if row.seconds is not None)

    @property
    def goes(self) -> bool:
        return not self.refused and not self.reasons


def glance(run: Run, stages: list[str], most_bytes: int = GLANCE_BYTES) -> Plan:
    """Plan some stages of a run that was checked, without any model: counts, bytes, memory, whether it fits."""
    plan = Plan([])
    _look(run, plan, most_bytes, None, stages)
    return plan


def make_plan(
    run: Run, *, devices: Devices | None = None, probe: bool = True, most_bytes: int = SAMPLE_BYTES, say: Say
) -> Plan:
    """Plan a run: times come from `devices`, else from a probe on this machine if wanted and if it fits into memory."""
    plan = Plan(refusals(run))
    try:
        _look(run, plan, most_bytes, devices)
    except LogitfuseError as error:
        if not any(str(error).partition(". ")[0] in line for line in plan.refused):  # a check says where it stands
            plan.refused.append(str(error))
        return plan
    assert plan.sample is not None
    missing = any(row.stage in COMPUTING and row.done < row.units for row in plan.rows)
    if devices is not None:
        plan.rows, plan.timed = computed_times(run, plan.rows, devices, plan.amounts), str(devices)
    elif probe and missing and all(need.fits for need in plan.needs):
        _probe(run, plan, say)
    plan.disk = disk(run, plan.rows)
    plan.reasons = reasons(plan.disk, plan.needs, _elsewhere(run) and devices is None)
    return plan


def _look(run: Run, plan: Plan, most_bytes: int, devices: Devices | None, stages: list[str] | None = None) -> None:
    plan.sample = read_sample(run, most_bytes)
    plan.amounts = count(run, plan.sample)
    plan.rows = stage_rows(run, plan.amounts, stages)
    plan.disk = disk(run, plan.rows)
    plan.needs = needs(run, plan.rows, devices)
    plan.reasons = reasons(plan.disk, plan.needs, _elsewhere(run) and devices is None)
    plan.warnings = text_warnings(run, plan.sample, plan.amounts, plan.rows)
    plan.headroom = _headroom(run)


def _probe(run: Run, plan: Plan, say: Say) -> None:
    from logitfuse.tasks.computed_on import hardware
    from logitfuse.tasks.plan.probe import probe

    assert plan.sample is not None
    try:
        found = probe(run, plan.sample.texts, say)
    except LogitfuseError as error:  # a source that stage check refuses, a model that training cannot read
        plan.refused.append(f"found by the probe: {error}")
        return
    plan.rows = probed_times(run, plan.rows, found, plan.amounts)
    plan.needs = needs(run, plan.rows, None, found.held)
    machine = hardware(run.recipe.execution.device, 1)
    plan.timed = f"this machine ({machine}): a probe of {found.tokens:,} captured tokens and {found.steps} steps"


def _elsewhere(run: Run) -> bool:
    """Whether other machines do the work: their memory is not this one's."""
    return bool(run.recipe.execution.shards_per_run)


def _headroom(run: Run) -> dict[str, Any] | None:
    """Return what stage headroom found over all positions, None where it has not run."""
    try:
        facts = read_headroom(run)
    except (ShardMissing, ShardCorrupt):
        return None
    if not facts["measured"]:
        return {"measured": False, "why_not": facts["why_not"]}
    rows = pick_rows(facts["rows"], subject=FUSED, domain=ALL, **{"class": ALL})
    return {"measured": True, **rows[0]} if rows else None
