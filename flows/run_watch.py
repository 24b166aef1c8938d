"""A run seen from another process, by what stands in its folder: records, progress notes, metrics, the journal."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rich.live import Live

from logitfuse.flows.bar_rows import Bar
from logitfuse.flows.completion import STAGES
from logitfuse.flows.live_view import LiveView, Mark
from logitfuse.flows.losses import Losses, newest_losses
from logitfuse.flows.overview import free_disk
from logitfuse.flows.pace import Standing, quantity
from logitfuse.flows.progress_notes import ProgressNote, read_notes
from logitfuse.flows.run_counts import StageCount
from logitfuse.flows.show import console
from logitfuse.storage.errors import ShardCorrupt, StoreFailed
from logitfuse.storage.store import LocalStore, only_a_file
from logitfuse.tasks.reporting.formats import moment

LONGEST_JOURNAL = 1 << 16
IDLE = "No stage is at work at this moment"
SHARE_OF_TIME = 10  # what a look takes times this passes before the next one


class Counted(Protocol):
    """Who counts what stands."""

    def look(self) -> list[StageCount]: ...

    def is_done(self, counts: Sequence[StageCount]) -> bool | None: ...

    def metrics(self) -> Collection[str] | None: ...


@dataclass(frozen=True)
class RunState:
    """A run as it stands at one moment."""

    name: str
    place: str
    counts: Sequence[StageCount]
    notes: Sequence[ProgressNote]
    losses: Sequence[Losses]
    free: str
    last: dict[str, Any] | None  # of the journal
    is_done: bool | None  # None: nobody knows what is wanted

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for; without a recipe that is a report beside which nobody works."""
        reported = any(count.stage == STAGES[-1] for count in self.counts)
        return not self.notes and (reported if self.is_done is None else self.is_done)

    @property
    def bytes(self) -> int:
        return sum(count.bytes for count in self.counts)

    @property
    def marks(self) -> dict[str, Mark]:
        """Where each stage stands."""
        working = {note.stage for note in self.notes}
        return {stage: Mark.WORKING if stage in working else self._mark(stage) for stage in STAGES}

    def _mark(self, stage: str) -> Mark:
        counts = [count for count in self.counts if count.stage == stage]
        done, total = sum(count.done for count in counts), sum(count.total for count in counts)
        if any(count.damaged for count in counts):
            return Mark.FAULT
        if not done:
            return Mark.OFF if not total and self._nothing_asked(stage) else Mark.WAITING
        return Mark.DONE if done == total else Mark.PART

    def _nothing_asked(self, stage: str) -> bool:
        """Whether a stage has nothing to do; known of a recipe, and of a folder once a later stage has begun."""
        return self.is_done is not None or any(
            count.done for count in self.counts if STAGES.index(count.stage) > STAGES.index(stage)
        )

    @property
    def view(self) -> LiveView:
        """Return it for a terminal."""
        disk = ", ".join(part for part in (quantity(self.bytes, "bytes"), self.free) if part)
        bars = _note_bars(self.notes) or _count_bars(self.counts)
        losses = [str(losses) for losses in self.losses]
        return LiveView(f"{self.name}  {self.place}", disk, self.marks, bars, losses, self._note())

    def _note(self) -> str:
        if self.notes:
            hosts = dict.fromkeys(f"{note.host} (process {note.pid})" for note in self.notes)
            return f"At work: {', '.join(hosts)}"
        if self.last is None:
            return f"{IDLE}, as far as this machine can see."
        ended = moment(_ended(self.last))
        return f"{IDLE}. Last: {' to '.join(map(str, self.last['stages']))}, {ended}: {self.last['ended']}"

    def facts(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "name": self.name,
            "place": self.place,
            "stages": [count.facts() for count in self.counts],
            "at_work": [note.model_dump(mode="json") for note in self.notes],
            "losses": [losses.facts() for losses in self.losses],
            "bytes": self.bytes,
            "last": self.last,
            "up_to_date": self.is_done,
        }


def run_state(name: str, store: LocalStore, counted: Counted) -> RunState:
    """Look at a run."""
    counts, root = counted.look(), store.root
    return RunState(
        name=name,
        place=store.place,
        counts=counts,
        notes=read_notes(store),
        losses=newest_losses(root, among=counted.metrics()),
        free=free_disk(root),
        last=last_of_journal(store),
        is_done=counted.is_done(counts),
    )


def _note_bars(notes: Sequence[ProgressNote]) -> list[Bar]:
    """Return the bars of all notes; where several processes share a stage, each with its host."""
    found = []
    for note in notes:
        first, *others = [bar.bar for bar in note.bars] or [Bar(note.stage, Standing("units", 0, None))]
        shared = sum(other.stage == note.stage for other in notes) > 1
        found += [Bar(f"{first.name} ({note.host})" if shared else first.name, first.at), *others]
    return found


def _count_bars(counts: Sequence[StageCount]) -> list[Bar]:
    """Return bars of the stages that are there in part, from what is counted alone."""
    part = [count for count in counts if 0 < count.done < count.total]
    return [Bar(f"{c.stage} {c.called or c.source}".strip(), Standing("shards", c.done, c.total)) for c in part]


def last_of_journal(store: LocalStore) -> dict[str, Any] | None:
    """Return the last line of a run's journal, None where there is none that can be read."""
    try:
        with only_a_file(store.local("journal.jsonl")).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - LONGEST_JOURNAL))
            line = json.loads(stream.read().split(b"\n")[-2])
        _ended(line)
        return line if isinstance(line["stages"], list) and isinstance(line["ended"], str) else None
    except (OSError, ShardCorrupt, ValueError, LookupError, TypeError, RecursionError, OverflowError):
        return None


def _ended(line: dict[str, Any]) -> float:
    ended = float(line["began"]) + float(line["seconds"])
    moment(ended)  # refuses what is no time
    return ended


def watch(look: Callable[[], RunState], seconds: float) -> RunState:
    """Show a run until it is done; raises KeyboardInterrupt once the screen is as it was before."""
    shown = _Watched(look())
    if console.is_terminal and not console.is_dumb_terminal:
        try:
            with Live(get_renderable=lambda: shown.state.view, console=console, screen=True, refresh_per_second=4):
                shown.follow(look, seconds)
        finally:
            console.print(replace(shown.state.view, stays=True))
    else:
        shown.follow(look, seconds, console.print)
    return shown.state


class _Watched:
    """The last look at a run."""

    def __init__(self, state: RunState) -> None:
        self.state = state

    def follow(
        self, look: Callable[[], RunState], seconds: float, say: Callable[[str], None] = lambda line: None
    ) -> None:
        """Look again and again until nothing is missing; say what has changed."""
        said = ""
        while True:
            if (line := plain_line(self.state)) != said:
                say(line)
                said = line
            if self.state.is_over:
                return
            began = time.monotonic()
            time.sleep(seconds)
            try:
                self.state = look()
            except StoreFailed as error:  # the next look may find it again
                say(str(error))
            time.sleep(max(0.0, min(60.0, SHARE_OF_TIME * (time.monotonic() - began - seconds)) - seconds))


def plain_line(state: RunState) -> str:
    """Say in a line where a run stands."""
    marks = {stage: mark for stage, mark in state.marks.items() if mark is not Mark.OFF}
    done = sum(mark is Mark.DONE for mark in marks.values())
    bars = [f"{bar.name.strip()}: {bar.at}" for bar in _note_bars(state.notes) or _count_bars(state.counts)]
    parts = [f"{done} of {len(marks)} stages done", *bars, *map(str, state.losses if state.notes else ())]
    return "; ".join(parts)
