"""A generated program in a child process with limits. It stops accidents, not an attacker: see docs/evaluation.md."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from logitfuse.storage.errors import WorkFailed

RUNNER = Path(__file__).with_name("program_runner.py")
LONGEST_REPORT = 4096
SECONDS_TO_START = 20.0  # for Python itself, on a busy machine; the program's own time begins after it
PROBE = (
    "import collections, functools, hashlib, heapq, itertools, math, re, string, typing\nassert math.gcd(12, 18) == 6\n"
)


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 10.0  # on the clock; of processor time it gets as much, rounded up
    memory_mb: int = 1024  # address space
    file_mb: int = 16  # of each file that it writes
    open_files: int = 64


@dataclass(frozen=True)
class Judged:
    """What became of a program: passed, failed, timed out, out of memory or killed; with the error's text."""

    outcome: str
    detail: str = ""
    network: bool = False  # whether it could have reached one


def run_program(program: str, limits: Limits) -> Judged:
    """Run a Python program to its end in a child with limits; it passed if it reached its end without an error.

    The child has an empty environment, a temporary folder as its working folder, standard library only, and may
    start no process. What it prints is thrown away. It and its group are killed when their time is over.
    """
    with tempfile.TemporaryDirectory(prefix="logitfuse-program-", ignore_cleanup_errors=True) as folder:
        word = secrets.token_hex(16)  # so that leaving early, as by os._exit(0), does not look like success
        order = {"program": program, "word": word, "folder": folder, **asdict(limits)}
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(RUNNER)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd=folder, env={}, start_new_session=True,
        )  # fmt: skip
        try:
            in_time = _await(process, json.dumps(order).encode(), limits.seconds)
        finally:
            _kill_group(process)
        return _judge(process.returncode, in_time, _reported(Path(folder)), word)


def _await(process: subprocess.Popen[bytes], order: bytes, seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.communicate(order, timeout=seconds + SECONDS_TO_START)
        return True
    return False


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reported(folder: Path) -> dict[str, object]:
    try:
        with (folder / "report").open("rb") as stream:
            found = json.loads(stream.read(LONGEST_REPORT))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _judge(code: int, in_time: bool, report: dict[str, object], word: str) -> Judged:
    network = bool(report.get("network", True))
    if not in_time or code in (-signal.SIGALRM, -signal.SIGXCPU):
        return Judged("timed out", network=network)
    if code == 0 and report.get("word") == word:
        return Judged("passed", network=network)
    detail = str(report.get("error", ""))[:200]
    if detail.startswith("MemoryError"):
        return Judged("out of memory", network=network)
    if code < 0:
        return Judged("killed", f"signal {-code}", network)
    return Judged("failed", detail or f"left early with exit code {code}", network)


@lru_cache(maxsize=1)
def check_programs_run() -> None:
    """Run a harmless program as generated ones are run; raise `WorkFailed` where even that fails."""
    judged = run_program(PROBE, Limits())
    if judged.outcome != "passed":
        raise WorkFailed(
            f"suites: a harmless test program {judged.outcome} in the child that is to run generated code "
            f"({judged.detail}). Its Python, {sys.executable}, must be readable for every user where this one is root. "
            "Run as a normal user, or leave the code tasks out."
        )
