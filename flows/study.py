"""`logitfuse study` and `logitfuse results`: variants of a recipe against each other, and the page about them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from logitfuse.flows.exit_codes import ExitCode
from logitfuse.flows.show import bars, console, errors
from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from logitfuse.flows.show import Bars
    from logitfuse.tasks.engine import Progress
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.study.session import Session
    from logitfuse.tasks.unit import Unit

WIDEST = 10_000  # columns: what a table would take if it could


def study(
    path: Annotated[str, typer.Argument(metavar="STUDY", help="A YAML file, or the name of a shipped study.")],
    only: Annotated[list[str] | None, typer.Option(help="Do only this variant. May be repeated.")] = None,
    locked: Annotated[bool, typer.Option("--locked", help="Then look at the locked split, once.")] = False,
    scale: Annotated[float, typer.Option(min=1e-6, help="Multiply documents and training steps.")] = 1.0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field of the base recipe. May be repeated.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Put all numbers into this file.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Do nothing; show what is done.")] = False,
) -> None:
    """Do a study: every variant with every seed, and what the contrasts come to. Run it again to go on.

    Exit code 1 if a run failed. Example: logitfuse study main --scale 0.1 --json results.json
    """
    from logitfuse.tasks.study.facts import study_facts
    from logitfuse.tasks.study.results_file import add_study, read_results

    if json_file is not None:
        read_results(json_file)  # a file of something else is refused before the work, not after it
    session = _open(path, overrides or [], scale)
    failed = {} if show else _do(session, only or [], locked)
    facts = study_facts(session)
    if json_file is not None:
        add_study(json_file, facts)
        console.print(f"Written: {json_file}", soft_wrap=True, highlight=False, markup=False)
    show_study(facts)
    for job, message in failed.items():
        errors.print(f"[bold red]Failed:[/] {escape(job)}: {escape(message)}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(ExitCode.ANSWERED_NO)


def results(
    path: Annotated[Path, typer.Argument(metavar="RESULTS", help="The file that `logitfuse study --json` wrote.")],
    page: Annotated[Path | None, typer.Option(help="The page; by default results.md beside the file.")] = None,
    words: Annotated[Path | None, typer.Option(help="Hand-written words that the page includes.")] = None,
) -> None:
    """Make the results page, with its tables and plots, from the numbers alone.

    Example: logitfuse results docs/results.json --words docs/results.words.md
    """
    from logitfuse.tasks.study.page import write_page

    if not path.name:
        raise BadInput(f"{path}: this is no file of results. Give the one that `logitfuse study --json` wrote.")
    for file in write_page(path, page or path.with_suffix(".md"), words):
        console.print(f"Written: {file}", soft_wrap=True, highlight=False, markup=False)


def _open(path: str, overrides: Sequence[str], scale: float) -> Session:
    from logitfuse.tasks.study.reading import read_study
    from logitfuse.tasks.study.session import Session

    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")
    session = Session(*read_study(path, overrides), scale=scale)
    session.check()
    return session


def _do(session: Session, only: Sequence[str], locked: bool) -> dict[str, str]:
    """Do what is missing, then look at the locked split if asked; return what failed."""
    from logitfuse.flows.execute import journal
    from logitfuse.flows.training_plot import training_lines

    with journal(session.folder.parent, "study", session.study.name), bars() as shown, training_lines(shown.say):
        watch = Shown(shown)
        found = session.do(watch, only)
        shown.say(f"{found.done} runs done, {found.kept} up to date, {len(found.failed)} failed")
        if locked and not found.failed:
            looks = session.look_at_locked(watch)
            shown.say(f"The {session.study.lock} split was looked at {len(looks)} time{'s' if len(looks) > 1 else ''}.")
    return found.failed


class Shown:
    """Shows a study's stages as bars, with a line at the end of each."""

    def __init__(self, shown: Bars) -> None:
        self._shown = shown

    @contextmanager
    def stage(self, run: Run, stage: str, units: Sequence[Unit]) -> Iterator[Callable[[Unit], Progress]]:
        """Show a stage while the block does its units."""
        from logitfuse.flows.progress_notes import noting
        from logitfuse.flows.work_ahead import stage_progress

        progress, began = stage_progress(run, stage, units), time.monotonic()
        with self._shown.showing(progress), noting(run.store, progress):
            yield progress.report
        self.say(f"  {stage}: {time.monotonic() - began:.1f} s")

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._shown.say(line)


def show_study(facts: dict[str, Any]) -> None:
    """Print losses and contrasts as far as they are known, and what must be known to judge them."""
    from logitfuse.tasks.study.page import cautions, headline, multiple_line

    _show_losses(facts)
    _show_contrasts(facts["contrasts"], facts["split"])
    if facts["locked"]:
        _show_contrasts(facts["locked"]["contrasts"], f"{facts['locked']['split']} (locked)")
        _say(headline(facts["locked"]))
    if line := multiple_line(facts):
        _say(line)
    for line in cautions(facts):
        errors.print(f"[bold yellow]Caution:[/] {escape(line)}", highlight=False, soft_wrap=True)
    if facts["missing"]:
        _say(f"Not done yet: {', '.join(facts['missing'])}")


def _say(line: str) -> None:
    console.print(line.replace("**", ""), highlight=False, markup=False, soft_wrap=True)


def _show_losses(facts: dict[str, Any]) -> None:
    from logitfuse.tasks.headroom_table import rules_out
    from logitfuse.tasks.results import MEAN
    from logitfuse.tasks.study.plots import losses_by_variant, overall

    losses, headroom = losses_by_variant(facts), {found["variant"]: overall(found) for found in facts["headroom"]}
    columns = list(next(iter(losses.values()))) if losses else []

    def table_of(shown: Sequence[str]) -> Table:
        table = Table(title=f"Nats per byte of {facts['split']} text (lower is better)", title_justify="left")
        table.add_column("variant", no_wrap=True)
        for column in ("headroom", *shown):
            table.add_column(column, justify="right", no_wrap=True)
        for variant in dict.fromkeys([*losses, *headroom]):
            row = headroom.get(variant)
            room = "" if row is None or row["elsewhere"] is None else f"{row['elsewhere']:+.3f}"
            room = "∞" if row is not None and rules_out(row) else room
            cells = (f"{losses[variant][column]:.4f}" for column in shown) if variant in losses else ()
            table.add_row(escape(variant), room, *cells)
        return table

    table = table_of(columns)
    if console.measure(table, options=console.options.update(max_width=WIDEST)).maximum > console.width:
        table = table_of([column for column in columns if column == MEAN])  # half a number is none
        _say("Losses by domain: in a wider terminal, or with --json and `logitfuse results`.")
    console.print(table)


def _show_contrasts(contrasts: list[dict[str, Any]], split: str) -> None:
    if not contrasts:
        return
    table = Table(title=f"Differences in nats per byte of {split} text", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("Δ", "95%", "p", "p (Holm)", "seeds"):
        table.add_column(column, justify="right")
    for row in contrasts:
        name = escape(f"{row['of']} − {row['against']}")
        interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
        adjusted = f"{row['p_holm']:.4f}" if "p_holm" in row else "primary"
        cells = [f"{row['delta']:+.4f}", interval, f"{row['p']:.4f}", adjusted, str(len(row["seeds"]))]
        table.add_row(name, *cells)
    console.print(table)
