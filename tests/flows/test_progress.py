"""How far, how fast, how long: what stood counts as done and not for the rate, whoever reports and in which order."""

import threading
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from logitfuse.flows import show
from logitfuse.flows.execute import stage_summary, summary
from logitfuse.flows.pace import HALF_LIFE, SETTLED, Rate, Standing, duration, quantity
from logitfuse.flows.run_counts import _result, _speed
from logitfuse.flows.stage_progress import Ahead, Measure, StageProgress
from logitfuse.flows.work_ahead import MEASURES, stage_progress
from logitfuse.storage.records import Record
from logitfuse.tasks.engine import Outcome
from logitfuse.tasks.execute import do_prepare, do_units
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit

A0, A1, B0 = Unit("capture", "a", 0), Unit("capture", "a", 1), Unit("capture", "b", 0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def work(clock: Clock, rate: Rate, seconds: float, amount: float, times: int = 1) -> None:
    for _ in range(times):
        clock.now += seconds
        rate.add(amount)


def test_a_steady_rate_is_that_rate(clock: Clock) -> None:
    rate = Rate(clock)
    assert rate.per_second is None and rate.seconds_for(10) is None
    for _ in range(500):
        work(clock, rate, 0.5, 50)
        assert rate.per_second == pytest.approx(100)
    assert rate.seconds_for(1000) == pytest.approx(10)


def test_the_first_batch_waits_for_much_and_soon_does_not_count(clock: Clock) -> None:
    rate = Rate(clock)
    work(clock, rate, 60, 100)  # loading, compiling
    assert rate.per_second == pytest.approx(100 / 60), "better than nothing"
    work(clock, rate, 1, 100, times=int(SETTLED) + 1)
    assert rate.per_second == pytest.approx(100)


def test_the_rate_follows_a_change_within_a_few_half_lives(clock: Clock) -> None:
    rate = Rate(clock)
    work(clock, rate, 1, 100, times=3600)
    work(clock, rate, 1, 10, times=int(HALF_LIFE))
    assert rate.per_second == pytest.approx(55, rel=0.05)
    work(clock, rate, 1, 10, times=int(5 * HALF_LIFE))
    assert rate.per_second == pytest.approx(10, rel=0.2)


def test_reports_at_the_same_moment_make_no_wonders(clock: Clock) -> None:
    """Eight threads report a batch each within a millisecond, every ten seconds."""
    rate = Rate(clock)
    for _ in range(50):
        clock.now += 10
        for _ in range(8):
            clock.now += 1e-4
            rate.add(100)
        assert rate.per_second == pytest.approx(80, rel=0.01)


def test_rare_reports_count_the_last_interval(clock: Clock) -> None:
    rate = Rate(clock)
    work(clock, rate, 600, 6000, times=3)
    assert rate.per_second == pytest.approx(10)
    rate.add(0)
    rate.add(-5)
    assert rate.per_second == pytest.approx(10)


def capture(clock: Callable[[], float], **stands: bool) -> StageProgress:
    ahead = [Ahead(unit, 100.0, stands.get(name, False)) for name, unit in {"a0": A0, "a1": A1, "b0": B0}.items()]
    return StageProgress("capture", MEASURES["capture"], ahead, clock)


def test_what_stood_is_done_from_the_start_and_is_no_speed(clock: Clock) -> None:
    stage = capture(clock, a0=True)
    at = stage.standing()
    assert (at.done, at.total, at.per_second, at.seconds_left) == (100, 300, None, None)
    assert stage.standing("a").percent == 50 and stage.standing("b").percent == 0
    stage.report(A0)
    stage.finish(A0, "kept")
    assert stage.standing().done == 100 and stage.standing().per_second is None
    report = stage.report(A1)
    for done in range(10, 101, 10):
        clock.now += 1
        report(done, 100)
    at = stage.standing()
    assert (at.done, at.per_second, at.seconds_left) == (200, pytest.approx(10), pytest.approx(10))
    stage.finish(A1, "done")
    assert stage.standing("a").percent == 100
    made = stage.made()
    assert made is not None and (made.amount, made.seconds) == (100, 10)
    assert str(made) == "100 tokens, 10 tokens/s"


def test_what_another_process_made_meanwhile_is_no_speed(clock: Clock) -> None:
    stage = capture(clock)
    stage.report(A0)
    clock.now += 1
    stage.finish(A0, "kept")
    assert stage.standing().done == 100 and stage.standing().per_second is None and stage.made() is None


def test_each_source_has_its_own_rate_from_its_own_begin(clock: Clock) -> None:
    stage = capture(clock)
    for unit, seconds in ((A0, 10), (A1, 10), (B0, 50)):
        report = stage.report(unit)
        for done in range(1, 11):
            clock.now += seconds / 10
            report(done, 10)
        stage.finish(unit, "done")
    assert stage.standing("a").per_second == pytest.approx(10)
    assert stage.standing("b").per_second == pytest.approx(2)
    assert stage.sources == ["a", "b"]


def test_a_failed_unit_stays_where_it_was_and_a_second_attempt_begins_anew(clock: Clock) -> None:
    stage = capture(clock, a1=True, b0=True)
    report = stage.report(A0)
    clock.now += 4
    report(60, 100)
    stage.finish(A0, "failed")
    assert stage.standing().done == 260 and stage.at_work() == {} and stage.made() is None
    report = stage.report(A0)
    clock.now += 4
    report(20, 100)
    assert stage.standing().done == 220 and list(stage.at_work()) == [A0]
    stage.finish(A0, "done")
    assert stage.standing().percent == 100


def test_training_that_goes_on_from_a_checkpoint_counts_it_as_done(clock: Clock) -> None:
    arm = Unit("train", "fused")
    stage = StageProgress("train", MEASURES["train"], [Ahead(arm)], clock)
    assert stage.standing().percent is None
    report = stage.report(arm)
    clock.now += 20
    report(500, 1000)
    assert stage.standing().percent == 50 and stage.standing().per_second is None
    for step in range(510, 601, 10):
        clock.now += 5
        report(step, 1000)
    assert stage.standing().per_second == pytest.approx(2) and stage.standing().seconds_left == pytest.approx(200)
    stage.finish(arm, "done", {"steps": 1000, "tokens": 1_000_000})
    assert stage.tokens_made(arm) == 500_000


def test_sizes_that_are_not_known_yet_are_taken_for_mean_ones(clock: Clock) -> None:
    first, second = Unit("evaluate", "a"), Unit("evaluate", "b")
    stage = StageProgress("evaluate", MEASURES["evaluate"], [Ahead(first), Ahead(second)], clock)
    stage.report(first)(50, 200)
    assert (stage.standing().done, stage.standing().total) == (50, 400)
    corpus = StageProgress("prepare", MEASURES["prepare"], [Ahead(Unit("prepare"))], clock)
    clock.now += 5
    corpus.report(Unit("prepare"))(1000, 0)
    assert corpus.standing().percent is None and corpus.standing().amount == "1,000 documents"
    corpus.finish(Unit("prepare"), "done")
    assert corpus.standing().percent == 100


def test_many_threads_lose_nothing() -> None:
    units = [Unit("encode", "a", shard) for shard in range(8)]
    stage = StageProgress("encode", Measure("tokens"), [Ahead(unit, 1000.0) for unit in units])

    def run(unit: Unit) -> None:
        report = stage.report(unit)
        for done in range(1, 1001):
            report(done, 1000)
            stage.standing()
        stage.finish(unit, "done")

    threads = [threading.Thread(target=run, args=(unit,)) for unit in units]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = stage.made()
    assert made is not None and made.amount == 8000 and stage.standing().percent == 100


def test_every_stage_knows_what_stands_and_how_big_it_is(tiny_recipe: Callable[..., Recipe]) -> None:
    run = Run(tiny_recipe())
    do_prepare(run)
    units = run.units("encode")
    list(do_units(run, units[:4]))
    at = stage_progress(run, "encode", units).standing()
    size = [record.counts["bytes"] for record in run.shards]
    assert (at.measure, at.total, at.done) == ("bytes", 2 * sum(size), sum(size) + size[0])
    assert stage_progress(run, "encode", units, redo=True).standing().done == 0
    list(do_units(run, units))
    captures = run.units("capture")
    tokens = sum(
        run.record(Unit("encode", s.tokenizer_label, n)).counts["tokens"]
        for s in run.teachers.values()
        for n in range(3)
    )
    at = stage_progress(run, "capture", captures).standing()
    assert (at.measure, at.total, at.done) == ("tokens", tokens, 0)
    assert stage_progress(run, "fuse", run.units("fuse")).standing().total is None, "its inputs are not there: no guess"
    assert MEASURES.keys() <= set(ORDER)


def outcome(state: str, seconds: float, **counts: int) -> Outcome:
    return Outcome(state, Record(stage="s", place="p", name="n", key="k", files=[], counts=counts), seconds)  # type: ignore[arg-type]


def test_finished_units_and_stages_say_their_tokens_per_second(clock: Clock) -> None:
    line = summary(A0, outcome("done", 2.0, chunks=3), 5000)
    assert line == "capture/a/part-00000: done in 2.0 s (3 chunks), 2,500 tokens/s"
    assert summary(A0, outcome("kept", 0.0)) == "capture/a/part-00000: up to date"
    stage = capture(clock, a0=True)
    for unit in (A1, B0):
        stage.report(unit)
        clock.now += 5
        stage.finish(unit, "done")
    line = stage_summary(stage, ["kept", "done", "done"], 0, 11.0)
    assert line == "capture: 2 done, 1 kept in 11.0 s, 200 tokens, 20 tokens/s"


def test_a_resumed_trainings_speed_counts_what_was_made_now(clock: Clock) -> None:
    for counts in ({"tokens": 800}, {"tokens": 400, "untold_steps": 50}):  # the metrics of its first part are lost
        unit = Unit("train", "fused")
        stage = StageProgress("train", MEASURES["train"], [Ahead(unit)], clock)
        report = stage.report(unit)
        report(50, 100)
        clock.now += 10
        report(60, 100)
        assert stage.standing().per_second == 1
        stage.finish(unit, "done", counts)
        assert stage.tokens_made(unit) == 400


def test_a_folders_speed_counts_all_the_time_of_a_resumed_training() -> None:
    made = {"started": time.time() - 10, "seconds": 10.0, "model_seconds": 25.0, "earlier_seconds": 30.0}
    record = Record(stage="train", place="p", name="n", key="k", files=[], counts={"tokens": 800}, made=made)
    assert _speed([_result(record, made["started"])]) == 20


def shown_to(monkeypatch: pytest.MonkeyPatch, console: Console) -> Console:
    monkeypatch.setattr(show, "console", console)
    return console


def test_without_a_terminal_a_line_tells_now_and_then_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    told = threading.Event()
    monkeypatch.setattr(show, "SECONDS_BETWEEN_LINES", 0.01)
    shown_to(monkeypatch, Console(force_terminal=False))

    def say(self: show.Bars, line: str) -> None:
        lines.append(line)
        if "30%" in line:
            told.set()

    monkeypatch.setattr(show.Bars, "say", say)
    clock = Clock()
    stage = capture(clock)
    with show.bars() as bars:
        with bars.showing(stage):
            report = stage.report(A0)
            for done in range(10, 91, 10):
                clock.now += 1
                report(done, 100)
            assert told.wait(20)
        bars.finish(A0, "capture/a/part-00000: done")
    assert "capture: 30%, 90 of 300 tokens, 10 tokens/s, 0:21 left (capture/a/part-00000 90%)" in lines
    assert lines[-1] == "capture/a/part-00000: done"


def test_in_a_terminal_there_is_a_bar_for_the_stage_its_sources_and_units(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    console = shown_to(monkeypatch, Console(force_terminal=False, width=100))
    bars = show.Bars()
    stage = capture(clock, a0=True)
    with bars.showing(stage), console.capture() as printed:
        report = stage.report(A1)
        for done in range(10, 51, 10):
            clock.now += 1
            report(done, 100)
        console.print(bars.rows())
    rows = printed.get().splitlines()
    assert [row.split()[0] for row in rows] == ["capture", "a", "part-00001", "b"]
    assert rows[0].endswith("50% 150 of 300 tokens 10 tokens/s 0:15 left")
    assert "75%" in rows[1] and "50%" in rows[2] and "0%" in rows[3]
    with console.capture() as printed:
        console.print(bars.rows())
    assert not printed.get().strip()


def test_amounts_and_times_read_well() -> None:
    amounts = [0.031, 9.4, 12.3, 99_999, 999_600, 1_204_000, 2.65e9, 0]
    written = ["0.031", "9.4", "12", "99,999", "1.00 M", "1.20 M", "2.65 G", "0"]
    assert [quantity(amount, "tokens") for amount in amounts] == [f"{text} tokens" for text in written]
    assert quantity(512, "bytes") == "512 B" and quantity(3.4e9, "bytes") == "3.40 GB"
    assert [duration(s) for s in (0, 42, 725, 7805, 180_000)] == ["0:00", "0:42", "12:05", "2:10:05", "2 d 02:00"]
    assert str(Standing("tokens", 1.2e6, 2.65e6, 12_345.0, 117.5)) == (
        "45%, 1.20 M of 2.65 M tokens, 12,345 tokens/s, 1:58 left"
    )
    assert int(Standing("tokens", 99_999, 100_000).percent or 0) == 99, "100 only at the end"
