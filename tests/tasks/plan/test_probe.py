"""The probe: the run's own stages on a little text, with nothing written where the run is."""

from pathlib import Path

import pytest
from done_runs import done_run

from logitfuse.tasks.plan.facts import plan_facts
from logitfuse.tasks.plan.plan import make_plan
from logitfuse.tasks.run import Run

pytestmark = pytest.mark.usefixtures("in_this_process")
KNOWN = {"prepare", "encode", "check", "capture", "map", "align", "fuse", "headroom", "train", "evaluate"}


def test_a_probe_times_every_stage_and_leaves_nothing(recipe_for, tmp_path: Path) -> None:
    recipe = recipe_for(200)
    before, said = sorted(tmp_path.rglob("*")), []
    plan = make_plan(Run(recipe), say=said.append)
    assert plan.goes and not plan.refused and "capture with second" in said
    assert sorted(tmp_path.rglob("*")) == before
    for row in plan.rows:
        assert (row.seconds is not None) == (row.stage in KNOWN), row
    assert plan.seconds.value > 0 and "2 steps" in plan.timed
    facts = plan_facts(Run(recipe), plan)
    for row in facts["memory"]:
        assert row["how"] == "probed here" and row["needed"] > 1e8, row  # a process that has loaded torch
    run = done_run(recipe.model_dump(mode="json"), ["encode", "check", "capture", "map", "align", "fuse"])
    for row in facts["stages"]:
        if row["stage"] in ("capture", "align", "fuse"):
            units = [unit for unit in run.units(row["stage"]) if unit.source == row["source"]]
            actual = sum(run.record(unit).files[0].bytes for unit in units)
            assert 0.8 < row["bytes"]["value"] / actual < 1.25, row
    again = make_plan(run, say=said.append)
    for row in again.rows:
        if row.stage in ("capture", "fuse"):
            assert row.done == row.units and row.seconds is not None and row.seconds.value == 0


def test_what_the_probe_is_refused_is_told(recipe_for) -> None:
    plan = make_plan(Run(recipe_for(check={"nats_per_byte": 0.1})), say=lambda line: None)
    (told,) = plan.refused
    assert not plan.goes and told.startswith("found by the probe: stage check: 2 of 2 models failed:")
    assert told.count("nats per byte") == 2, "of both models"
    assert plan.sample is not None and not plan.timed
