"""Progress in Prefect's UI: few calls, none for what is short, and a broken server breaks nothing."""

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from logitfuse.flows import artifacts
from logitfuse.flows.artifacts import ProgressArtifacts, publish_table, table_rows
from logitfuse.flows.stage_progress import Ahead, StageProgress
from logitfuse.flows.work_ahead import MEASURES
from logitfuse.tasks.unit import Unit

A0, A1, B0 = Unit("capture", "a", 0), Unit("capture", "a", 1), Unit("capture", "b", 0)


class Api:
    """Stands in for Prefect's functions and keeps what they are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: dict[UUID, str] = {}
        self.calls: list[tuple[str, float, str]] = []
        monkeypatch.setattr(artifacts, "create_progress_artifact", self.create)
        monkeypatch.setattr(artifacts, "update_progress_artifact", self.update)

    def create(self, progress: float, key: str, description: str) -> UUID:
        made = uuid4()
        self.keys[made] = key
        self.calls.append((key, progress, description))
        return made

    def update(self, made: UUID, progress: float, description: str) -> None:
        self.calls.append((self.keys[made], progress, description))

    def last(self, key: str) -> float:
        return [percent for name, percent, _ in self.calls if name == key][-1]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    return Api(monkeypatch)


class Stage:
    """A stage of three units, one of which stands, with a clock that is set by hand."""

    def __init__(self) -> None:
        self.now, self.warnings = 0.0, list[str]()
        ahead = [Ahead(A0, 100.0, True), Ahead(A1, 100.0), Ahead(B0, 100.0)]
        self.progress = StageProgress("capture", MEASURES["capture"], ahead, lambda: self.now)
        self.artifacts = ProgressArtifacts("My run", self.progress, self.warnings.append)

    def work(self, unit: Unit, done: int, seconds: float) -> None:
        self.artifacts.follow(unit)
        report = self.progress.report(unit)
        for step in range(1, 11):
            self.now += seconds / 10
            report(done * step // 10, 100)


def test_a_long_stage_and_its_long_units_have_bars_that_begin_at_what_stands(api: Api) -> None:
    stage = Stage()
    stage.artifacts.update()
    assert api.calls == [("my-run-capture-progress", pytest.approx(100 / 3), api.calls[0][2])]
    stage.work(A1, 50, 20)
    stage.artifacts.update()
    assert api.calls[1][:2] == ("my-run-capture-progress", 50.0)
    lines = api.calls[1][2].splitlines()
    assert lines[0] == "**capture**: 50%, 150 of 300 tokens, 2.5 tokens/s, 1:00 left"
    assert lines[2:] == ["- a: 75%, 150 of 200 tokens, 2.5 tokens/s, 0:20 left", "- b: 0%, 0 of 100 tokens"]
    assert api.calls[2] == ("my-run-capture-a-1", 50.0, "capture/a/part-00001: 50%, 50 of 100 tokens")
    stage.progress.finish(A1, "done")
    stage.work(B0, 30, 20)
    stage.artifacts.update()
    stage.progress.finish(B0, "failed")
    stage.artifacts.close()
    assert api.last("my-run-capture-a-1") == 100
    assert api.last("my-run-capture-b-0") == 30, "what failed stays where it was"
    assert api.last("my-run-capture-progress") == pytest.approx(100 * 230 / 300)


def test_a_finished_stage_has_a_full_bar(api: Api) -> None:
    stage = Stage()
    stage.artifacts.update()
    for unit in (A1, B0):
        stage.work(unit, 100, 1)
        stage.progress.finish(unit, "done")
    stage.artifacts.close()
    assert api.last("my-run-capture-progress") == 100


def test_what_is_short_costs_no_call(api: Api) -> None:
    stage = Stage()
    with stage.artifacts.showing():
        stage.work(A1, 100, 1)
        stage.progress.finish(A1, "done")
    assert not api.calls


def test_many_short_units_cost_the_stages_calls_only(api: Api) -> None:
    units = [Unit("encode", None, shard) for shard in range(100)]
    progress = StageProgress("encode", MEASURES["encode"], [Ahead(unit, 10.0) for unit in units])
    shown = ProgressArtifacts("run", progress, print)
    for unit in units:
        shown.follow(unit)
        progress.report(unit)(10, 10)
        progress.finish(unit, "done")
        if unit.shard in (30, 60):
            shown.update()
    assert [key for key, _, _ in api.calls] == ["run-encode-progress"] * 2
    shown.update()
    shown.update()
    assert len(api.calls) == 3, "what has not changed is not sent again"


def test_calls_come_at_their_own_pace_however_often_units_report(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "SECONDS_BETWEEN_UPDATES", 0.2)
    progress = StageProgress("capture", MEASURES["capture"], [Ahead(A0, 1e6)])
    shown = ProgressArtifacts("run", progress, print)
    began = time.monotonic()
    with shown.showing():
        shown.follow(A0)
        report = progress.report(A0)
        for done in range(2000):
            report(done, 1_000_000)
            time.sleep(0.0005)
    rounds = (time.monotonic() - began) / 0.2 + 1
    assert 1 <= len(api.calls) <= 2 * rounds  # a stage and a unit


def test_a_broken_server_is_warned_of_once_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(artifacts, "create_progress_artifact", broken)
    monkeypatch.setattr(artifacts, "create_table_artifact", broken)
    stage = Stage()
    for _ in range(3):
        stage.work(A1, 50, 20)
        stage.artifacts.update()
    stage.artifacts.close()
    assert stage.warnings == ["progress cannot be shown: ConnectionError: no route. The work goes on."]
    publish_table("key", [], "summary", stage.warnings.append)
    assert "the stage's table cannot be shown" in stage.warnings[-1]


def test_a_server_that_recovers_gets_the_bars(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "create_progress_artifact", lambda *args, **options: 1 / 0)
        stage.artifacts.update()
    stage.artifacts.update()
    assert len(stage.warnings) == 1 and len(api.calls) == 1


def test_a_server_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, asked = threading.Event(), threading.Event()

    def hangs(*args: Any, **options: Any) -> UUID:
        asked.set()
        let_go.wait(60)
        return uuid4()

    monkeypatch.setattr(artifacts, "create_progress_artifact", hangs)
    monkeypatch.setattr(artifacts, "SECONDS_BETWEEN_UPDATES", 0.01)
    monkeypatch.setattr(artifacts, "PATIENCE", 0.1)
    stage = Stage()
    began = time.monotonic()
    with stage.artifacts.showing():
        assert asked.wait(20)
        stage.work(A1, 100, 1)
    assert time.monotonic() - began < 20
    let_go.set()


def test_a_stage_on_one_source_has_a_key_of_its_own(api: Api) -> None:
    progress = StageProgress("capture", MEASURES["capture"], [Ahead(A0, 10.0), Ahead(A1, 10.0)])
    ProgressArtifacts("run", progress, print).update()
    assert api.calls[0][0] == "run-capture-a-progress"


def test_the_table_says_what_was_made_now(outcomes: Callable[..., Any]) -> None:
    stage = Stage()
    stage.work(A1, 100, 4)
    stage.progress.finish(A1, "done")
    (row,) = table_rows({A0: outcomes("kept"), A1: outcomes("done")}, [], stage.progress)
    assert row["tokens made now"] == 100 and row["tokens per second"] == 25
    assert (row["done"], row["skipped"]) == (1, 1)


@pytest.fixture
def outcomes() -> Callable[..., Any]:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.engine import Outcome

    def outcome(state: Any) -> Outcome:
        return Outcome(state, Record(stage="s", place="p", name="n", key="k", files=[], counts={}), 0.5)

    return outcome
