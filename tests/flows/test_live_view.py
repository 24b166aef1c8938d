"""The live view: narrow and wide, hostile names, from another process, in a pipe and in a terminal."""

import fcntl
import io
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import answer
from rich.console import Console

from logitfuse.flows.bar_rows import Bar
from logitfuse.flows.live_view import LiveView, Mark
from logitfuse.flows.losses import newest_losses
from logitfuse.flows.overview import Overview, switched_off
from logitfuse.flows.pace import Standing
from logitfuse.flows.progress_notes import noting, read_notes
from logitfuse.flows.run_counts import Standing as StandingCounts
from logitfuse.flows.run_counts import Wanted
from logitfuse.flows.run_watch import plain_line, run_state
from logitfuse.flows.show import PlainConsole
from logitfuse.flows.stage_progress import Ahead, Measure, StageProgress
from logitfuse.flows.terminal import ResizableLive
from logitfuse.storage.places import open_store
from logitfuse.storage.records import Record
from logitfuse.storage.store import LocalStore
from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.execute import UnitStatus, do_prepare, do_units
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.unit import Unit

EVIL = "x\x1b]0;owned\x07\x1b[2J\r\ny"
AT = Standing("tokens", 1.2e6, 2.65e6, 12_345.0, 117.5)
VIEW = LiveView(
    f"demo  runs/{EVIL}",
    "1.2 GB, 80 GB free",
    dict.fromkeys(ORDER, Mark.WORKING),
    [Bar("capture", AT), Bar(f"  {EVIL}", AT), Bar("    part-00003", Standing("tokens", 0, None))],
    [f"train/{EVIL}  step 1/2  loss 2.3451"],
)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_fits_every_width_and_names_command_nothing(width: int, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = PlainConsole(file=stream, width=width, height=24)
    console.print(VIEW)
    stream.flush()
    shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert not set(shown) & set("\x1b\x07\r")
    if encoding == "utf-8":
        assert max(map(len, shown.splitlines())) <= width - len("^C"), "which a terminal writes after the last line"
    assert "45%" in shown and ("12,345 tok" in shown) == (width >= 60) and ("2.65 M" in shown) == (width >= 90)


def test_a_low_terminal_shows_the_first_bars_and_how_many_more() -> None:
    console = PlainConsole(file=io.StringIO(), width=80, height=12)
    console.print(LiveView(bars=[Bar(f"bar-{n}", AT) for n in range(30)]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "bar-3" in shown and "bar-20" not in shown and "… and 26 more" in shown


def test_lines_that_a_narrower_terminal_breaks_are_replaced_too() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=24)
    with ResizableLive(get_renderable=lambda: VIEW, console=console, auto_refresh=False) as live:
        live.refresh()
        before = len(console.file.getvalue().splitlines())  # type: ignore[attr-defined]
        console.file.truncate(0)
        console.width = 50
        live.refresh()
        ups = console.file.getvalue().count("\x1b[1A")  # type: ignore[attr-defined]
    assert ups > before


def test_a_view_higher_than_the_terminal_leaves_nothing_when_it_ends() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, height=4)
    with ResizableLive(get_renderable=lambda: VIEW, console=console, auto_refresh=False, transient=True) as live:
        live.refresh()
        stream.truncate(0)
    assert "capture" not in stream.getvalue() and "\x1b[2K" in stream.getvalue()


def test_words_are_broken_between_them_in_a_terminal_only() -> None:
    line = "a licence of " + "several words " * 8
    for terminal in (True, False):
        console = PlainConsole(file=io.StringIO(), force_terminal=terminal, width=40)
        console.tell(line.strip(), hang=2)
        shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert " ".join(" ".join(shown).split()) == line.strip(), "no word is broken"
        assert len(shown) == (4 if terminal else 1), shown
        assert not terminal or (shown[0][0] != " " and all(each.startswith("  ") for each in shown[1:]))


def test_broken_words_are_written_at_once() -> None:
    """Other threads print between two writes."""
    written: list[str] = []
    stream = io.StringIO()
    stream.write = lambda text: written.append(text) or len(text)  # type: ignore[method-assign,func-returns-value]
    PlainConsole(file=stream, force_terminal=True, width=40).tell("several words " * 8, hang=2)
    assert len(written) == 1 and written[0].count("\n") == 4


@pytest.fixture
def half_done(tiny_recipe: Callable[..., Recipe]) -> Run:
    run = Run(tiny_recipe())
    claim_folder(run.recipe)
    do_prepare(run)
    list(do_units(run, run.units("encode")[:4]))
    return run


def test_a_recipe_and_its_folder_alone_tell_the_same_of_what_stands(half_done: Run) -> None:
    recipe = half_done.recipe
    wanted = Wanted(Run(recipe))
    exact = {(count.stage, count.source): (count.done, count.total) for count in wanted.look() if count.done}
    store = open_store(recipe.execution.folder, recipe.name)
    standing = StandingCounts(lambda: store)
    assert {(count.stage, count.source): (count.done, count.total) for count in standing.look()} == exact
    assert exact[("prepare", "")] == (3, 3) and sorted(exact.values()) == [(1, 3), (3, 3), (3, 3)]
    list(do_units(half_done, half_done.units("encode")))
    for counted in (wanted, standing):  # what was seen before is not read again, what is new is
        assert sum(count.done for count in counted.look() if count.stage == "encode") == 6
    assert not wanted.is_done(()) and standing.is_done(()) is None


def test_when_a_run_ended_is_told_in_utc(half_done: Run) -> None:
    store = half_done.store
    last = {"stages": ["prepare", "encode"], "began": 1767315840.0, "seconds": 5.0, "ended": "completed"}
    state = replace(run_state("tiny", store, StandingCounts(lambda: store)), last=last)
    assert state.view.note.endswith(". Last: prepare to encode, 2026-01-02 01:04 UTC: completed")


def test_who_is_at_work_is_seen_from_outside(half_done: Run) -> None:
    store = half_done.store
    progress = StageProgress("capture", Measure("tokens"), [Ahead(Unit("capture", "a", n), 100.0) for n in range(2)])
    progress.report(Unit("capture", "a", 0))(50, 100)
    with noting(store, progress):
        (note,) = read_notes(store)
        assert (note.stage, note.pid) == ("capture", os.getpid())
        assert [bar.name for bar in note.bars] == ["capture", "  part-00000"] and note.bars[0].done == 50
        state = run_state("tiny", store, StandingCounts(lambda: store))
        assert state.marks["capture"] is Mark.WORKING and state.marks["encode"] is Mark.PART and not state.is_over
        assert "capture: 25%, 50 of 200 tokens" in plain_line(state) and f"process {os.getpid()}" in state.view.note
        path = next(store.local(".locks").glob("progress.*"))
        told = json.loads(path.read_text())
    assert read_notes(store) == [] and not list(store.local(".locks").glob("progress.*"))
    for changed in ({"pid": 2**22 + 1}, {"pid": "x"}, {"bars": [{"name": "x"}]}, {"bars": None}):
        path.write_text(json.dumps(told | changed))
        assert read_notes(store) == [], changed
    path.write_text(json.dumps(told | {"host": "elsewhere"}))
    assert len(read_notes(store)) == 1, "another machine's process is believed while its note is fresh"
    os.utime(path, (time.time() - 3600,) * 2)
    assert read_notes(store) == []
    path.write_text("{" * 10_000)
    assert read_notes(store) == []
    killed = path.with_name(path.name.replace(f"-{os.getpid()}.json", f"-{2**22 + 1}.json"))
    path.rename(killed)
    with noting(store, progress):
        assert not killed.exists(), "what a killed process left goes with the next one"


def test_a_note_is_not_written_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    locks = tmp_path / "run" / ".locks"
    locks.mkdir(parents=True)
    host = "".join(c if c.isalnum() or c == "-" else "-" for c in socket.gethostname())
    (locks / f"progress.encode.{host}-{os.getpid()}.json").symlink_to(precious)
    with noting(LocalStore(tmp_path / "run"), StageProgress("encode", Measure("bytes"), [])):
        pass
    assert precious.read_text() == "precious"


def test_losses_are_those_of_the_newest_file_whatever_stands_in_it(tmp_path: Path) -> None:
    place = tmp_path / "train" / "fused"
    place.mkdir(parents=True)
    (place / "metrics.old.jsonl").write_text('{"step": 9, "steps": 9, "loss": 9.0}\n')
    os.utime(place / "metrics.old.jsonl", (1, 1))
    step = {"step": 2, "steps": 4, "loss": 2.5, "clm_loss": None, "fusion_loss": float("inf")}
    lines = [{**step, "step": 1, "held_out": {"mean": 0.75}}, step]
    (place / "metrics.new.jsonl").write_text(
        "cut off\n" + "".join(json.dumps(line) + "\n" for line in lines) + '{"step"'
    )
    (losses,) = newest_losses(tmp_path)
    assert str(losses) == "train/fused  step 2/4  loss 2.5000  held-out 0.7500 nats/byte"
    assert losses.facts()["fusion_loss"] is None and json.dumps(losses.facts(), allow_nan=False)
    assert newest_losses(tmp_path, since=time.time() + 60) == []


def test_losses_are_those_of_the_recipe_and_not_of_another_one_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "train" / "fused"
    place.mkdir(parents=True)
    for key, when in (("mine", 100), ("other", 200)):
        (place / f"metrics.{key}.jsonl").write_text(json.dumps({"step": 1, "steps": 1, "loss": when}) + "\n")
        os.utime(place / f"metrics.{key}.jsonl", (when, when))
    record = Record(stage="train", place="train/fused", name="model", key="mine", files=[])
    states = [UnitStatus(Unit("train", "fused"), "done", record), UnitStatus(Unit("merge"), "waiting")]
    among = Wanted(None, found={"train": states}).metrics()  # type: ignore[arg-type]
    assert [found.line["loss"] for found in newest_losses(tmp_path, among=among)] == [100]
    assert [found.line["loss"] for found in newest_losses(tmp_path)] == [200]
    assert newest_losses(tmp_path, among=set()) == []


def test_a_stage_that_is_off_is_never_ticked(half_done: Run) -> None:
    off = {"adapt", "merge", "suites"}
    exact = run_state("tiny", half_done.store, Wanted(Run(half_done.recipe)))
    assert {stage for stage, mark in exact.marks.items() if mark is Mark.OFF} == off == switched_off(half_done.recipe)
    store = half_done.store
    alone = run_state("tiny", store, StandingCounts(lambda: store))
    assert Mark.DONE not in {alone.marks[stage] for stage in off}
    overview = Overview(half_done.recipe, ORDER)
    overview.stage_begins("report")
    marks = overview.view([]).marks
    assert {marks[stage] for stage in off} == {Mark.OFF} and marks["train"] is Mark.DONE


def test_status_of_a_folder_in_json_and_refusals(half_done: Run, tmp_path: Path) -> None:
    found = answer("status", str(half_done.recipe.folder), "--json")
    facts = json.loads(found.out)
    assert found.code == 0 and facts["up_to_date"] is None and facts["units"] is None
    assert {stage["stage"]: stage["missing"] for stage in facts["stages"]}["encode"] == 2
    assert set(facts) == {"name", "place", "stages", "at_work", "losses", "bytes", "last", "up_to_date", "units"}
    assert "no recipe in it" in answer("status", str(half_done.recipe.folder), "--set", "name=x").said


def in_a_terminal_of_its_own() -> None:
    """Let Ctrl-C reach this process, also where the tests run in the background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, columns: int, *words: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns)
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
        command = [sys.executable, "-m", "logitfuse.flows.cli", *words]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
            preexec_fn=in_a_terminal_of_its_own,
        )  # fmt: skip
        os.close(slave)
        self.shown = ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def until(self, words: str, patience: float = 60.0) -> None:
        """Read until the words are shown, or the terminal is closed."""
        deadline = time.monotonic() + patience
        while words not in self.shown and time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    data = os.read(self.master, 1 << 16)
                except OSError:
                    return
                if not data:
                    return
                self.shown += data.decode()
        assert words in self.shown, self.shown


@pytest.fixture
def watched(half_done: Run) -> Iterator[Terminal]:
    terminal = Terminal(60, "status", str(half_done.recipe.folder), "--watch")
    yield terminal
    if terminal.process.poll() is None:
        os.killpg(terminal.process.pid, signal.SIGKILL)
        terminal.process.wait()
    os.close(terminal.master)


def test_in_a_terminal_it_follows_survives_resizing_and_ends_cleanly(watched: Terminal, half_done: Run) -> None:
    watched.until("✓ prepare")
    list(do_units(half_done, half_done.units("encode")))
    watched.until("✓ encode")
    watched.resize(100)
    begun, watched.shown = watched.shown, ""
    watched.until("✓ encode")
    os.write(watched.master, b"\x03")
    watched.until("\x1b[?1049l")
    assert watched.process.wait(30) == 130
    assert begun.count("\x1b[?1049h") == 1 and "\x1b[?25h" in (begun + watched.shown).rpartition("\x1b[?25l")[2]
    assert "Traceback" not in begun + watched.shown
