"""Running stages from the command line, as Prefect flows or plainly, with progress shown."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from logitfuse.flows.plan_first import plan_first
from logitfuse.flows.progress_notes import noting
from logitfuse.flows.stage_progress import Made, StageProgress
from logitfuse.flows.training_plot import training_lines
from logitfuse.flows.work_ahead import stage_progress
from logitfuse.kernels.closest_name import known_names
from logitfuse.storage.errors import BadInput, said, without_passwords
from logitfuse.storage.locks import open_own
from logitfuse.tasks.execute import chosen_units, do_prepare, do_units, is_up_to_date
from logitfuse.tasks.plan.text_warnings import prepared_lines
from logitfuse.tasks.quarantine import quarantine_line
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.flows.show import Bars
    from logitfuse.tasks.engine import Outcome
    from logitfuse.tasks.run import Run


def run_stages(run: Run, first: str, last: str, shown: Bars, *, plain: bool = False) -> None:
    """Do what is missing in these stages, in order. What is up to date starts no flow, and so no Prefect."""
    stages = stages_between(first, last)
    if is_up_to_date(run, stages):
        shown.say(f"{first} to {last}: up to date")
        return
    with journal(run.recipe.folder, first, last):
        _run_missing(run, stages, shown, plain)


def _run_missing(run: Run, stages: list[str], shown: Bars, plain: bool) -> None:
    first, last = stages[0], stages[-1]
    if plain:
        plan_first(run, stages, shown.say)
        for stage in stages:
            if is_up_to_date(run, [stage]):
                shown.say(f"{stage}: up to date")
            else:
                _run_plainly(run, stage, shown)
    else:
        from logitfuse.flows.temporary_server import start_temporary_server

        start_temporary_server()
        from logitfuse.flows.pipeline import pipeline
        from logitfuse.flows.prefect_lines import prefects_lines
        from logitfuse.flows.session import sharing

        with prefects_lines(shown.above), sharing(run, shown):
            _raise_failure(pipeline(run.recipe, first, last, return_state=True))


def run_stage(
    run: Run,
    stage: str,
    shown: Bars,
    *,
    source: str | None = None,
    shards: str | None = None,
    redo: bool = False,
    plain: bool = False,
) -> None:
    """Do one stage, or a part of it."""
    chosen = {"source": source, "shards": shards, "redo": redo}
    if plain:
        _run_plainly(run, stage, shown, source, parse_shards(shards), redo)
        return
    from logitfuse.flows.prefect_lines import prefects_lines
    from logitfuse.flows.session import sharing
    from logitfuse.flows.stages import STAGE_FLOWS
    from logitfuse.flows.temporary_server import start_temporary_server

    flow = STAGE_FLOWS[stage]
    given = {name: value for name, value in chosen.items() if value}
    if unknown := given.keys() - flow.parameters.properties.keys():
        raise BadInput(f"stage {stage}: it has no {' and no '.join(sorted(unknown))}.")
    start_temporary_server()
    with prefects_lines(shown.above), sharing(run, shown):
        _raise_failure(flow(run.recipe, **given, return_state=True))


@contextmanager
def journal(folder: Path, *what: str) -> Iterator[dict[str, object]]:
    """Note in the run's journal when work began and ended, and how; yield the line, to which facts may be added.

    `what`: the first and the last stage, or what else was done.
    """
    clock = time.monotonic()
    line: dict[str, object] = {"began": round(time.time(), 3), "stages": list(what), "ended": "interrupted"}
    try:
        yield line
        line["ended"] = "done"
    except Exception as error:
        line["ended"] = without_passwords(said(error))
        raise
    finally:
        line["seconds"] = round(time.monotonic() - clock, 3)
        # No result depends on it, and on a full disk what is to be told is why the work ended.
        with suppress(OSError), open(folder / "journal.jsonl", "a", opener=open_own) as stream:
            stream.write(json.dumps(line) + "\n")


def _raise_failure(state: object) -> None:
    """Raise what a flow ended with; its message was made for users."""
    from prefect.client.schemas.objects import State

    assert isinstance(state, State)
    if not state.is_completed():
        state.result(raise_on_failure=True)


def _run_plainly(
    run: Run,
    stage: str,
    shown: Bars,
    source: str | None = None,
    shards: tuple[int, int] | None = None,
    redo: bool = False,
) -> None:
    units = [Unit("prepare")] if stage == "prepare" else chosen_units(run, stage, source, shards)
    progress, began = stage_progress(run, stage, units, redo=redo), time.monotonic()
    states: list[str] = []
    with shown.showing(progress), noting(run.store, progress):
        for name, outcome in _done_plainly(run, stage, units, progress, shown, redo):
            states.append(outcome.state)
            tokens = None if isinstance(name, str) else progress.tokens_made(name)
            shown.finish(name, summary(name, outcome, tokens))
    shown.say(stage_summary(progress, states, 0, time.monotonic() - began))


def _done_plainly(
    run: Run, stage: str, units: list[Unit], progress: StageProgress, shown: Bars, redo: bool
) -> Iterator[tuple[Unit | str, Outcome]]:
    if stage == "prepare":
        outcomes = do_prepare(run, progress=progress.report(*units), redo=redo)
        note_prepared(progress, outcomes)
        for line in filter(None, [quarantine_line(run), *prepared_lines(run)]):
            shown.say(line)
        yield from ((outcome.record.label, outcome) for outcome in outcomes)
        return
    with training_lines(shown.say):  # no other stage says any
        for unit, outcome in do_units(run, units, progress=progress.report, say=shown.say, redo=redo):
            progress.finish(unit, outcome.state, outcome.record.counts)
            yield unit, outcome


def note_prepared(progress: StageProgress, outcomes: list[Outcome]) -> int:
    """Note that prepare is done, and return how many of its shards are new."""
    done = sum(outcome.state == "done" for outcome in outcomes)
    progress.finish(Unit("prepare"), "done" if done else "kept")
    return done


def stages_between(first: str, last: str) -> list[str]:
    """Return the stages from first to last, both included; raise `BadInput` if there is no such stretch."""
    from logitfuse.tasks.stages import ORDER

    for stage in (first, last):
        if stage not in ORDER:
            raise BadInput(f"there is no stage {stage!r}. {known_names(stage, ORDER)}")
    begin, end = ORDER.index(first), ORDER.index(last)
    if begin > end:
        raise BadInput(f"start at {first!r} comes after stop after {last!r}. Stages: {', '.join(ORDER)}.")
    return ORDER[begin : end + 1]


def parse_shards(text: str | None) -> tuple[int, int] | None:
    """Parse `A-B` or `A` into a range with both ends included, None into None; raise `BadInput`."""
    if not text:
        return None
    low, dash, high = text.partition("-")
    ends = (low, high) if dash else (low,)
    if not all(end.isascii() and end.isdecimal() and len(end) < 10 for end in ends):
        raise BadInput(f"shards {text!r}: write A-B or one number, for example 0-9.")
    first, last = int(low), int(high or low)
    if first > last:
        raise BadInput(f"shards {text!r}: the range is backwards. Write {last}-{first}.")
    return first, last


def summary(unit: Unit | str, outcome: Outcome, tokens: float | None = None) -> str:
    """One line about a finished unit, and one for each thing it warns of; `tokens`: those made now, where known."""
    if outcome.state == "kept":
        return f"{unit}: up to date"
    plain = {name: value for name, value in outcome.record.counts.items() if isinstance(value, int)}
    facts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in plain.items())
    speed = f", {Made(tokens, 'tokens', outcome.seconds).speed}" if tokens else ""
    more = [f"\n  {note}" for note in outcome.record.counts.get("notes", [])]
    more += [f"\n  out of memory: {note}" for note in outcome.record.made.get("out_of_memory", [])]
    more += [f"\n  WARNING: {warning}" for warning in outcome.record.counts.get("worse_than_target", [])]
    return f"{unit}: done in {outcome.seconds:.1f} s ({facts}){speed}{''.join(more)}"


def stage_summary(progress: StageProgress, states: Sequence[str], failed: int, seconds: float) -> str:
    """One line about a stage: what became of its units, what was made now, and how fast."""
    failures = f", {failed} failed" if failed else ""
    made = f", {progress.made()}" if progress.made() else ""
    return (
        f"{progress.stage}: {states.count('done')} done, {states.count('kept')} kept{failures} in {seconds:.1f} s{made}"
    )
