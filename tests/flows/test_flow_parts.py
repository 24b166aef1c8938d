"""The parts of the flows that need no Prefect server."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from prefect.states import Completed, Failed

from logitfuse.flows import fan_out, units
from logitfuse.flows.artifacts import artifact_key, table_rows
from logitfuse.flows.execute import journal, parse_shards
from logitfuse.flows.pipeline import StageName
from logitfuse.flows.prefect_settings import DEFAULTS, quiet_defaults
from logitfuse.flows.session import Nobody, sharing
from logitfuse.flows.stage_progress import Ahead, Measure, StageProgress
from logitfuse.flows.stages import STAGE_FLOWS
from logitfuse.flows.units import TASKS, may_pass, unit_name
from logitfuse.storage.errors import BadInput, ModelRefused, OutOfSpace, WorkFailed
from logitfuse.storage.records import Record
from logitfuse.tasks import execute
from logitfuse.tasks.engine import Outcome, State
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit


def test_every_stage_has_a_flow_a_task_and_a_name_in_the_form() -> None:
    assert list(STAGE_FLOWS) == list(TASKS) == list(get_args(StageName)) == ORDER
    for stage, flow in STAGE_FLOWS.items():
        assert flow.name == stage and flow.description


def test_tasks_keep_nothing_in_prefect() -> None:
    for task in TASKS.values():
        assert task.persist_result is False and task.retries == 2
        assert type(task.cache_policy).__name__ == "_None"


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError("stale file handle"), True),
        (ConnectionError("reset"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory"), True),
        (WorkFailed("worker 3 was killed"), True),
        (BadInput("k is too large"), False),
        (OutOfSpace("the disk is full"), False),
        (KeyError("column"), False),
        (TypeError("no"), False),
    ],
    ids=repr,
)
def test_only_what_can_pass_is_tried_again(error: Exception, passes: bool) -> None:
    assert may_pass(None, None, Failed(data=error)) is passes  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stage", "error", "told"),
    [
        ("check", [ModelRefused("it is random"), ModelRefused("so is it")], ["check/a: failed", "check/b: failed"]),
        ("map", [BadInput("k"), BadInput("no")], ["map/a: failed: k", "map/b: failed"]),
        ("map", [BadInput("k"), KeyError("x")], ["map/a: failed: k", "map/b: failed: KeyError: 'x'"]),
    ],
)
def test_why_a_unit_failed_is_told_at_once_only_where_the_stage_goes_on(
    stage: str, error: list[Exception], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the command ends with it a moment later, and it would stand there twice."""
    lines: list[str] = []
    monkeypatch.setattr(units, "_do", lambda *given: (_ for _ in ()).throw(error.pop(0)))
    monkeypatch.setattr(Nobody, "finish", lambda self, unit, line: lines.append(line))
    asked = [Unit(stage, source) for source in "ab"]
    progress = StageProgress(stage, Measure("shards"), [Ahead(unit) for unit in asked])
    for unit in asked:
        with sharing(SimpleNamespace(unload=lambda: None)) as session, suppress(KeyError):  # type: ignore[arg-type]
            session.progress = progress
            progress.report(unit)
            units.run_unit(stage, unit.source)
    assert lines == told


def test_check_ends_with_all_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are, under Prefect and without it; a model that is sound is done."""
    asked = [Unit("check", source) for source in "abcde"]
    refused = {unit: ModelRefused(f"{unit.source} is random") for unit in asked if unit.source != "b"}

    def states(*given: object) -> Iterator[object]:
        yield from ((unit, Failed(data=refused[unit]) if unit in refused else Completed()) for unit in asked)

    def do_unit(run: object, unit: Unit, **options: object) -> str:
        if unit in refused:
            raise refused[unit]
        return "done"

    monkeypatch.setattr(fan_out, "_in_turn", states)
    monkeypatch.setattr(execute, "do_unit", do_unit)
    found: list[object] = []
    with pytest.raises(ModelRefused) as plainly:
        found.extend(execute.do_units(None, asked))  # type: ignore[arg-type]
    with pytest.raises(ModelRefused) as under_prefect:
        fan_out.run_units("check", asked, redo=False, workers=1).raise_failures()
    lines = [f"{source} is random" for source in "acde"]
    assert str(plainly.value) == "\n  ".join(["stage check: 4 of 5 models failed:", *lines])
    assert str(under_prefect.value) == str(plainly.value) and found == [(asked[1], "done")]


def test_task_runs_are_named_after_their_unit() -> None:
    assert unit_name({"stage": "capture", "source": "gemma", "shard": 3, "redo": False}) == "capture-gemma-00003"
    assert unit_name({"stage": "train", "source": "fused", "shard": None}) == "train-fused"
    assert unit_name({"stage": "fuse", "source": None, "shard": 0}) == "fuse-00000"


def test_artifact_keys_are_as_prefect_wants_them() -> None:
    assert artifact_key("My_Run.v2", "capture", "Gemma_3", 7) == "my-run-v2-capture-gemma-3-7"
    assert artifact_key("run", "map", None) == "run-map"


def outcome(state: State, counts: dict[str, object]) -> Outcome:
    return Outcome(state, Record(stage="s", place="p", name="n", key="k", files=[], counts=counts), 0.5)


def test_the_table_has_a_row_per_source() -> None:
    outcomes = {
        Unit("capture", "a", 0): outcome(
            "done", {"chunks": 3, "nats": 1.5, "whole": True, "skipped": 9, "beyond_context": 2}
        ),
        Unit("capture", "a", 1): outcome("kept", {"chunks": 4, "dropped": {"x": 1}}),
    }
    rows = table_rows(outcomes, [Unit("capture", "b", 0)])
    assert rows == [
        {"source": "a", "done": 1, "skipped": 1, "failed": 0, "seconds": 1.0, "chunks": 7,
         "skipped in all": 9, "beyond context": 2},
        {"source": "b", "done": 0, "skipped": 0, "failed": 1, "seconds": 0.0},
    ]  # fmt: skip


def test_the_users_own_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    quiet_defaults()
    import os

    assert os.environ["DO_NOT_TRACK"] == "0"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)


def test_a_range_of_shards_that_is_backwards_is_told_forwards() -> None:
    assert parse_shards("1-3") == (1, 3)
    with pytest.raises(BadInput, match=r"'3-1': the range is backwards\. Write 1-3\."):
        parse_shards("3-1")


@pytest.mark.parametrize(
    ("error", "ended"), [(WorkFailed("two failed"), "two failed"), (KeyError("x"), "KeyError: 'x'")]
)
def test_the_journal_names_no_class_of_errors_made_for_users(error: Exception, ended: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), journal(tmp_path, "check", "check"):
        raise error
    assert json.loads((tmp_path / "journal.jsonl").read_text())["ended"] == ended
