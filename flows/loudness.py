"""`--quiet` and `--verbose`: how much a command says while it works."""

from __future__ import annotations

import logging
import os
from enum import IntEnum

import typer

PREFECTS_LEVEL = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"


class Loudness(IntEnum):
    """How much is said. Results, warnings and errors always are."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


_present = Loudness.NORMAL
_traced = False  # outlives the command, whose errors are told after it


def loudness() -> Loudness:
    """Return how much this command says."""
    return _present


def wants_traceback() -> bool:
    """Return whether an error is to be shown with where it comes from, and forget that."""
    global _traced
    wanted, _traced = _traced, False
    return wanted


def quietly(ctx: typer.Context, asked: bool) -> bool:
    """Option callback of --quiet."""
    if asked:
        _set(ctx, Loudness.QUIET)
    return asked


def verbosely(ctx: typer.Context, asked: bool) -> bool:
    """Option callback of --verbose."""
    global _traced
    _traced = asked
    if asked:
        _set(ctx, Loudness.VERBOSE)
        os.environ.setdefault(PREFECTS_LEVEL, "INFO")
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
        logging.getLogger("logitfuse").setLevel(logging.INFO)
    return asked


def _set(ctx: typer.Context, wanted: Loudness) -> None:
    global _present
    if _present not in (Loudness.NORMAL, wanted):
        raise typer.BadParameter("--quiet and --verbose exclude each other.")
    _present = wanted
    ctx.call_on_close(as_usual)


def as_usual() -> None:
    """Say again what is said without either option."""
    global _present
    _present = Loudness.NORMAL
