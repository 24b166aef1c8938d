"""The pipeline under Prefect: it does what is missing, says why it cannot, and goes on where it stopped."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort

from logitfuse.flows import artifacts, units
from logitfuse.flows.artifacts import artifact_key
from logitfuse.flows.pipeline import pipeline, rebuild_fused
from logitfuse.flows.session import sharing
from logitfuse.flows.stage_progress import StageProgress
from logitfuse.flows.stages import align_flow, encode_flow, evaluate_flow, prepare_flow
from logitfuse.storage.errors import BadInput, ShardCorrupt, ShardMissing, WorkFailed
from logitfuse.tasks.engine import Outcome
from logitfuse.tasks.execute import is_up_to_date
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.usefixtures("prefect_server")
MakeRecipe = Callable[..., Recipe]


def ended(flow: Any, *arguments: Any, **options: Any) -> State[str]:
    """Run a flow and return its final state instead of raising."""
    return flow(*arguments, **options, return_state=True)


def flow_runs() -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=200)


def test_pipeline_does_what_is_missing_and_nothing_else(tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe()
    off = ("adapt", "merge", "suites")  # nothing to do by default
    assert pipeline(recipe).startswith(f"ran {', '.join(stage for stage in ORDER if stage not in off)}")
    run = Run(recipe)
    assert is_up_to_date(run)
    assert run.record(Unit("train", "fused")).counts
    files = {path: path.stat().st_mtime_ns for path in recipe.folder.rglob("*") if path.is_file()}

    before = len(flow_runs())
    state = ended(pipeline, recipe)
    assert state.message == "nothing to do: prepare to report are up to date"
    assert ended(rebuild_fused, recipe).message == "nothing to do: prepare to fuse are up to date"
    assert len(flow_runs()) == before + 2, "what is up to date must not start a subflow"
    assert files == {path: path.stat().st_mtime_ns for path in recipe.folder.rglob("*") if path.is_file()}

    other = recipe.model_copy(update={"fuse": recipe.fuse.model_copy(update={"rule": "avg_ce"})})
    assert rebuild_fused(other) == "ran fuse; 7 stages were up to date"


def test_a_stage_by_itself_keeps_what_stands_and_redoes_what_is_asked(tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe()
    assert prepare_flow(recipe).startswith("prepare: 3 done, 0 kept")
    assert encode_flow(recipe, source="first", shards="0-1").startswith("encode: 2 done, 0 kept")
    assert encode_flow(recipe).startswith("encode: 4 done, 2 kept")
    assert encode_flow(recipe, shards="2", redo=True).startswith("encode: 2 done, 0 kept")
    with pytest.raises(ShardMissing, match="Run: logitfuse stage capture"):
        align_flow(recipe)
    with get_client(sync_client=True) as client:
        table = client._client.get("/artifacts/tiny-encode/latest").json()
    assert [row["done"] for row in json.loads(table["data"])] == [1, 1]


def test_bad_values_are_named_before_anything_is_written(tiny_recipe: MakeRecipe) -> None:
    recipe = tiny_recipe(capture={"k": 500})
    state = ended(pipeline, recipe)
    assert state.is_failed() and (state.message or "").startswith("capture.k (Capture → Top-k): 500 is more than")
    assert not recipe.folder.exists()
    with pytest.raises(BadInput, match=r"capture\.k"):
        pipeline(recipe)
    with pytest.raises(BadInput, match="comes after"):
        pipeline(tiny_recipe(), start_at="train", stop_after="map")
    assert not recipe.folder.exists()


def test_parameters_are_checked_before_the_flow_starts(tiny_recipe: MakeRecipe) -> None:
    content = tiny_recipe().model_dump(mode="json")
    state = ended(pipeline, content | {"sources": [], "include_target": False})
    assert state.is_failed() and "there is none; list at least one" in (state.message or "")
    state = ended(pipeline, content | {"fusion": {}})
    assert state.is_failed() and "fusion" in (state.message or "")


class Breaking:
    """Stands in for `do_unit` and raises for chosen units, as often as asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, broken: dict[Unit, Exception], times: int = 1000) -> None:
        self.broken, self.left, self.tried = broken, times, 0
        self.do_unit = units.do_unit
        monkeypatch.setattr(units, "do_unit", self)

    def __call__(self, run: Run, unit: Unit, **options: Any) -> Outcome:
        if unit in self.broken:
            self.tried += 1
            if self.left > 0:
                self.left -= 1
                raise self.broken[unit]
        return self.do_unit(run, unit, **options)


@pytest.fixture
def prepared(tiny_recipe: MakeRecipe) -> Recipe:
    recipe = tiny_recipe()
    prepare_flow(recipe)
    return recipe


def encode_unit(recipe: Recipe, shard: int) -> Unit:
    return Unit("encode", next(iter(Run(recipe).tokenizers)), shard)


def test_one_bad_shard_stops_no_other_and_is_resumed(prepared: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = encode_unit(prepared, 1)
    with monkeypatch.context() as patch:
        Breaking(patch, {broken: ShardCorrupt("prepare/part-00001: its bytes are not what its record says")})
        state = ended(encode_flow, prepared)
    assert state.is_failed()
    assert state.message == "prepare/part-00001: its bytes are not what its record says"
    assert encode_flow(prepared).startswith("encode: 1 done, 5 kept")


def test_an_error_nobody_foresaw_names_its_unit(prepared: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = encode_unit(prepared, 1)
    breaking = Breaking(monkeypatch, {broken: KeyError("column")})
    with pytest.raises(WorkFailed, match=rf"1 of 6 failed\. First {broken}: KeyError: 'column'\. What was done stays"):
        encode_flow(prepared)
    assert breaking.tried == 1, "a mistake in the code does not pass by itself"


def test_what_can_pass_is_tried_again(prepared: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking = Breaking(monkeypatch, {encode_unit(prepared, 1): OSError("stale file handle")}, times=1)
    assert encode_flow(prepared).startswith("encode: 6 done, 0 kept")
    assert breaking.tried == 2


def test_a_stage_gives_up_when_several_shards_fail(prepared: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = prepared.model_copy(update={"execution": prepared.execution.model_copy(update={"workers": 1})})
    first = next(iter(Run(recipe).tokenizers))
    broken: dict[Unit, Exception] = {Unit("encode", first, shard): ShardCorrupt("bad") for shard in range(3)}
    Breaking(monkeypatch, broken)
    state = ended(encode_flow, recipe)
    assert state.is_failed() and "3 of 6 failed, 3 not tried" in (state.message or "")


def test_a_watcher_sees_every_unit_and_no_run_is_opened_twice(prepared: Recipe) -> None:
    class Watcher:
        def __init__(self) -> None:
            self.shown: list[StageProgress] = []
            self.units: list[Unit] = []
            self.lines: list[str] = []

        @contextmanager
        def showing(self, progress: StageProgress, /) -> Iterator[None]:
            self.shown.append(progress)
            yield

        def finish(self, unit: Unit, line: str, /) -> None:
            self.units.append(unit)

        def say(self, line: str, /) -> None:
            self.lines.append(line)

    run, watcher = Run(prepared), Watcher()
    with sharing(run, watcher) as session:
        pipeline(prepared, "prepare", "encode")
    assert set(session.outcomes) == set(watcher.units) == set(run.units("encode"))
    (progress,) = watcher.shown
    assert progress.stage == "encode" and progress.standing().percent == 100
    assert len(watcher.units) == 6
    ahead, said = watcher.lines
    assert ahead.startswith("plan: 30 documents, ")
    assert re.fullmatch(r"encode: 6 done, 0 kept in [\d.]+ s, [\d,]+ tokens, [\d.,]+( k)? tokens/s", said)


@pytest.mark.parametrize("broken", ["create_progress_artifact", "update_progress_artifact", "create_table_artifact"])
def test_a_server_that_takes_no_artifacts_breaks_no_work(
    prepared: Recipe, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(artifacts, broken, fails)
    monkeypatch.setattr(artifacts, "SECONDS_BETWEEN_UPDATES", 0.01)
    assert encode_flow(prepared).startswith("encode: 6 done, 0 kept")


def test_a_resumed_stage_begins_its_bar_at_what_stands(prepared: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    label = Run(prepared).target.tokenizer_label
    with monkeypatch.context() as patch:
        Breaking(patch, {Unit("encode", label, 2): ShardCorrupt("bad")})
        ended(encode_flow, prepared, source="first")
    shown, first = threading.Event(), []
    create, do_unit = artifacts.create_progress_artifact, units.do_unit

    def created(progress: float, **options: Any) -> Any:
        first.append(progress)
        shown.set()
        return create(progress, **options)

    def done_once_shown(*args: Any, **options: Any) -> Outcome:
        assert shown.wait(60)
        return do_unit(*args, **options)

    monkeypatch.setattr(artifacts, "create_progress_artifact", created)
    monkeypatch.setattr(artifacts, "SECONDS_BETWEEN_UPDATES", 0.01)
    monkeypatch.setattr(units, "do_unit", done_once_shown)
    assert "1 done, 2 kept" in encode_flow(prepared, source="first")
    sizes = [record.counts["bytes"] for record in Run(prepared).shards]
    assert first[0] == pytest.approx(100 * sum(sizes[:2]) / sum(sizes))
    with get_client(sync_client=True) as client:
        bar = client._client.get(f"/artifacts/{artifact_key('tiny', 'encode', label, 'progress')}/latest").json()
    assert bar["data"] == 100 and bar["description"].startswith("**encode**: 100%")
    assert bar["flow_run_id"] is not None


def test_a_stage_out_of_turn_says_what_to_run_before(prepared: Recipe) -> None:
    with pytest.raises(ShardMissing, match="Run: logitfuse stage encode"):
        evaluate_flow(prepared, source="fused")


def test_relative_run_folders_mean_the_working_directory(
    tiny_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_flow(tiny_recipe(execution={"folder": "here", "min_free_gb": 0}))
    assert (tmp_path / "here" / "tiny" / "prepare").is_dir()
