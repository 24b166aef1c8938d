"""`--json`: the answer alone on standard output, as JSON; all else that a command says goes to standard error."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from logitfuse.flows.show import console
from logitfuse.flows.written_file import as_json
from logitfuse.storage.errors import SystemRefused

FLAG = "--json"
TAKES_A_FILE = "study"  # the one command whose --json names a file that several studies share


def json_asked(ctx: typer.Context, asked: bool) -> bool:
    """Option callback: keep standard output for the answer as soon as JSON is asked for."""
    if asked:
        console.stderr = True
        ctx.call_on_close(words_again)
    return asked


def words_again() -> None:
    """Let words go to standard output, as they do where no JSON is asked for."""
    console.stderr = False


def is_json_wanted() -> bool:
    """Whether this command is to answer in JSON, also where its options could not be read."""
    given = sys.argv[1:]
    return FLAG in given and given[0] != TAKES_A_FILE


def answer(facts: Any) -> None:
    """Print an answer; a reader that went away is no error. Raises `SystemRefused` where it cannot be written whole."""
    try:
        sys.stdout.write(as_json(facts))
        sys.stdout.flush()
    except OSError as error:  # what is still in its buffer must not fail again when the process ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise SystemRefused(
                f"the answer cannot be written ({error.strerror}). Let standard output go elsewhere, and run the same "
                "command again."
            ) from error


def answer_error(kind: str, message: str, code: int) -> None:
    """Print why there is no answer."""
    answer({"error": {"kind": kind, "message": message, "exit_code": code}})
