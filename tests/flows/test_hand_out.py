"""Handing a stage out: everything gets done whatever becomes of its runs, and nothing is left running."""

from collections.abc import Callable, Iterable, Sequence
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.flows.hand_out import ATTEMPTS, SECONDS_BETWEEN_LOOKS, Handing, Standing
from logitfuse.flows.portions import Portion, by_host, portions
from logitfuse.tasks.unit import Unit

SHARDED = {"recipe", "source", "shards", "redo"}


def units(stage: str, sources: Iterable[str | None], shards: Iterable[int | None]) -> list[Unit]:
    shards = list(shards)
    return [Unit(stage, source, shard) for source in sources for shard in shards]


def test_a_source_s_shards_are_cut_at_fixed_borders() -> None:
    missing = [Unit("capture", "a", shard) for shard in (1, 2, 3, 9)] + [Unit("capture", "b", 0)]
    cut = portions(missing, 4, SHARDED)
    assert [str(portion) for portion in cut] == ["capture/a/0-3", "capture/a/8-9", "capture/b/0-0"]
    assert cut[0].parameters == {"source": "a", "shards": "0-3"} and cut[0].units == tuple(missing[:3])


def test_what_a_flow_cannot_be_told_is_not_cut() -> None:
    (fused,) = portions(units("headroom", ["a", "b"], [None]), 4, {"recipe", "redo"})
    assert str(fused) == "headroom" and fused.parameters == {} and len(fused.units) == 2
    (train,) = portions([Unit("train", "fused")], 4, {"recipe", "source", "redo"})
    assert train.parameters == {"source": "fused"} and str(train) == "train/fused"
    assert [str(p) for p in portions(units("fuse", [None], range(5)), 4, {"shards"})] == ["fuse/0-3", "fuse/4-4"]


@given(st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 40))), st.integers(1, 9))
def test_every_unit_is_in_one_portion_within_its_shards(chosen: set[tuple[str, int]], size: int) -> None:
    missing = [Unit("align", source, shard) for source, shard in sorted(chosen)]
    cut = portions(missing, size, SHARDED)
    assert [unit for portion in cut for unit in portion.units] == missing
    for portion in cut:
        assert portion.shards and portion.shards[1] - portion.shards[0] < size
        for unit in portion.units:
            assert unit.source == portion.source and portion.shards[0] <= (unit.shard or 0) <= portion.shards[1]


class Workers:
    """Runs that end as a script says: per attempt of a portion, how it ends and how many of its units it makes."""

    def __init__(self, ends: Callable[[Portion, int], tuple[Standing, int]], at_once: int = 2) -> None:
        self._ends, self._at_once = ends, at_once
        self.made: list[Unit] = []
        self.going: dict[UUID, tuple[Portion, int]] = {}
        self.cancelled: list[Portion] = []
        self.started: list[str] = []
        self.lines: list[str] = []
        self.waited = 0.0
        self.late: dict[float, list[Unit]] = {}  # units that come into sight after so many seconds

    def start(self, portion: Portion, attempt: int) -> UUID:
        self.started.append(str(portion))
        run = uuid4()
        self.going[run] = (portion, attempt)
        return run

    def standing(self, runs: Sequence[UUID]) -> dict[UUID, Standing]:
        found = {}
        for place, run in enumerate(runs):
            portion, attempt = self.going[run]
            if place >= self._at_once:
                found[run] = Standing("waiting")
                continue
            found[run], count = self._ends(portion, attempt)
            self.made += [unit for unit in portion.units if unit not in self.made][:count]
        return found

    def cancel(self, runs: Sequence[UUID]) -> None:
        self.cancelled += [self.going[run][0] for run in runs]

    def missing(self, chosen: Iterable[Unit]) -> list[Unit]:
        seen = [unit for after, late in self.late.items() if after <= self.waited for unit in late]
        return [unit for unit in chosen if unit not in self.made and unit not in seen]

    def wait(self, seconds: float) -> None:
        self.waited += seconds

    begins = failed = lambda self, what: None

    def done(self, unit: Unit) -> None:
        self.lines.append(f"done {unit}")

    def say(self, line: str) -> None:
        self.lines.append(line)

    def handing(self) -> Handing:
        return Handing(self, self, self.missing, self.wait)


ALL = units("capture", ["a", "b"], range(8))
CUT = portions(ALL, 4, SHARDED)
DONE = Standing("completed"), 4


def test_all_portions_are_done_and_each_unit_is_told_once() -> None:
    workers = Workers(lambda portion, attempt: DONE)
    assert workers.handing().do(CUT) == {}
    assert sorted(workers.lines) == sorted(f"done {unit}" for unit in ALL) and not workers.cancelled
    assert workers.started == [str(portion) for portion in CUT]


def test_what_a_dead_run_left_is_given_to_another() -> None:
    workers = Workers(lambda portion, attempt: (Standing("crashed", "no heartbeat"), 1) if attempt == 1 else DONE)
    assert workers.handing().do(CUT[:1]) == {}
    assert workers.started == ["capture/a/0-3"] * 4  # each dead run made one unit, so none counts against the portion
    assert "no heartbeat" in workers.lines[1] and not workers.missing(ALL[:4])


def test_runs_that_die_without_getting_on_are_not_tried_for_ever() -> None:
    workers = Workers(lambda portion, attempt: (Standing("crashed", "exit 137"), 0))
    failed = workers.handing().do(CUT[:1])
    assert len(workers.started) == ATTEMPTS
    assert "its runs died 3 times. Last: exit 137" in str(failed[ALL[0]])


@pytest.mark.parametrize("state", ["completed", "failed", "crashed", "cancelled"])
def test_records_are_believed_whatever_prefect_says_of_the_run(state: str) -> None:
    workers = Workers(lambda portion, attempt: (Standing(state), 4))  # type: ignore[arg-type]
    assert workers.handing().do(CUT) == {} and len(workers.started) == len(CUT)


def test_a_failed_run_is_not_started_again_and_does_not_stop_the_others() -> None:
    bad = CUT[0]
    workers = Workers(
        lambda portion, attempt: (Standing("failed", "shard 0 is damaged"), 0) if portion is bad else DONE
    )
    failed = workers.handing().do(CUT)
    assert {unit: str(error) for unit, error in failed.items()} == {ALL[0]: "shard 0 is damaged"}
    assert workers.missing(ALL) == ALL[:4] and not workers.cancelled


def test_three_failures_end_the_stage_and_cancel_what_goes_on() -> None:
    workers = Workers(lambda portion, attempt: (Standing("failed", "no such model"), 0), at_once=1)
    cut = portions(units("capture", ["a"], range(10)), 1, SHARDED)
    assert len(workers.handing().do(cut)) == 3
    assert len(workers.cancelled) == 7


def test_whoever_leaves_takes_the_runs_along() -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    workers = Workers(lambda portion, attempt: DONE)
    with pytest.raises(KeyboardInterrupt):
        Handing(workers, workers, workers.missing, interrupted).do(CUT)
    assert workers.cancelled == CUT


def test_a_network_file_system_may_show_the_records_late() -> None:
    workers = Workers(lambda portion, attempt: (Standing("completed"), 0))
    workers.late = {40.0: list(CUT[0].units)}
    assert workers.handing().do(CUT[:1]) == {} and workers.waited <= 40 + SECONDS_BETWEEN_LOOKS


def test_workers_that_see_another_folder_are_found_out() -> None:
    workers = Workers(lambda portion, attempt: (Standing("completed"), 0))
    failed = workers.handing().do(CUT[:1])
    assert "4 of 4 results are not to be seen from here" in str(failed[ALL[0]])
    assert "the same execution.folder" in str(failed[ALL[0]])


def test_a_cancelled_run_says_so() -> None:
    workers = Workers(lambda portion, attempt: (Standing("cancelled"), 0))
    assert str(workers.handing().do(CUT[:1])[ALL[0]]) == "its run was cancelled"


def test_hosts_that_train_together_end_together() -> None:
    both = by_host([Unit("train", "control"), Unit("train", "fused")], 2)
    assert [str(portion) for portion in both] == ["train/host-0", "train/host-1"] and both[1].parameters == {}
    assert both[0].units == both[1].units

    ends = {0: (Standing("working"), 0), 1: (Standing("crashed", "exit 137"), 0)}
    workers = Workers(lambda portion, attempt: ends[portion.rank or 0])
    (error,) = workers.handing().do(both).values()
    assert "its run died (exit 137), and the other hosts cannot go on without it" in str(error)
    assert workers.cancelled == both[:1] and len(workers.started) == 2
