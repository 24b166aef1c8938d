"""What a generated program can do in its child, and what becomes of it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from logitfuse.tasks.suite_tasks.programs import Limits, check_programs_run, run_program

SMALL = Limits(seconds=30, memory_mb=256)  # machines that run tests are busy
SHORT = Limits(seconds=1, memory_mb=256)


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        ("assert sorted([2, 1]) == [1, 2]", "passed"),
        ("import hashlib, collections, re, math, typing", "passed"),
        ("for i in range(10_000): print('x' * 100)", "passed"),
        ("assert 1 == 2", "failed"),
        ("def f(:", "failed"),
        ("while True: pass", "timed out"),
        ("import time; time.sleep(60)", "timed out"),
        ("x = bytearray(10**10)", "out of memory"),
        ("import os\nwhile True: os.fork()", "failed"),
        ("import threading; threading.Thread(target=print).start()", "failed"),
        ("import subprocess; subprocess.run(['/bin/true'])", "failed"),
        ("open('big', 'wb').write(b'0' * (64 << 20))", "failed"),
        ("files = [open(f'f{n}', 'w') for n in range(1000)]", "failed"),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "failed"),
        ("import os; os._exit(0)", "failed"),
        ("raise SystemExit(0)", "failed"),
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("def f(n): return f(n + 1)\nf(0)", "failed"),
    ],
)
def test_a_program_ends_as_it_should(program: str, outcome: str) -> None:
    assert run_program(program, SHORT if outcome == "timed out" else SMALL).outcome == outcome


def test_a_program_that_ignores_the_alarm_ends_too() -> None:
    program = "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass"
    began = time.monotonic()
    assert run_program(program, SHORT).outcome in ("timed out", "killed")
    assert time.monotonic() - began < 60


def test_the_environment_and_the_folder_are_empty_and_what_is_written_is_gone(tmp_path: Path) -> None:
    os.environ["LOGITFUSE_SECRET"] = "s"
    try:
        found = run_program(
            "import os\nassert 'LOGITFUSE_SECRET' not in os.environ\nassert 'PATH' not in os.environ", SMALL
        )
    finally:
        del os.environ["LOGITFUSE_SECRET"]
    assert found.outcome == "passed"
    where = run_program("import os\nopen('left', 'w').write('x')\nraise ValueError(os.getcwd())", SMALL)
    folder = Path(where.detail.removeprefix("ValueError: "))
    assert folder.name.startswith("logitfuse-program-") and not folder.exists()


def test_no_network_where_the_system_allows_that() -> None:
    found = run_program("import socket\ns = socket.socket(); s.settimeout(0.5); s.connect(('192.0.2.1', 9))", SMALL)
    assert found.outcome == "failed"
    assert found.network or "unreachable" in found.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files to protect from nobody")
def test_root_gives_up_its_rights(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("x")
    assert "PermissionError" in run_program(f"open({str(mine)!r}, 'w')", SMALL).detail
    assert "PermissionError" in run_program("import os; os.kill(os.getppid(), 15)", SMALL).detail


def test_no_process_is_left() -> None:
    run_program("import os\nos.setsid() if os.getpid() != os.getsid(0) else 0\nwhile True: pass", SHORT)
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listing.splitlines() if "program_runner.py" in line and sys.executable in line]


def test_a_harmless_program_runs_here() -> None:
    check_programs_run()
