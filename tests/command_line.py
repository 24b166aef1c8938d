"""The command line in the test's own process: what a user is told, with which exit code, and in how much time."""

import contextlib
import io
import sys
import time
from dataclasses import dataclass

import pytest

PATIENCE = 60.0  # CPU seconds for one answer to tiny input: time that others take on a shared machine is not counted


@dataclass(frozen=True)
class Answer:
    """What one command said."""

    code: int
    out: str
    err: str
    seconds: float  # of CPU, in this process

    @property
    def said(self) -> str:
        return " ".join((self.out + self.err).split())


def answer(*arguments: str) -> Answer:
    """Run `logitfuse` with these arguments; whatever is raised past its `main` is raised here: it is a traceback."""
    from logitfuse.flows.cli import main

    out, err, code, began = io.StringIO(), io.StringIO(), 0, time.process_time()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["logitfuse", *arguments])
        patch.setenv("COLUMNS", "400")
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Answer(code, out.getvalue(), err.getvalue(), time.process_time() - began)


def refused(*arguments: str) -> str:
    """Expect exit code 2, a message and no traceback; return the message."""
    found = answer(*arguments)
    check_answer(found)
    assert found.code == 2, found
    assert "logitfuse: " in found.err or "Usage" in found.err, found
    return found.said


def check_answer(found: Answer) -> None:
    """What holds for every answer: in time, an exit code that is documented, no traceback, no terminal's commands."""
    assert found.code in (0, 1, 2), found
    assert found.seconds < PATIENCE, found
    assert "Traceback" not in found.out + found.err, found
    assert "\x1b" not in found.out + found.err, found
