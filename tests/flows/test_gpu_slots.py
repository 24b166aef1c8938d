"""One GPU for one run, held as long as its process lives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from logitfuse.flows.gpu_slots import VISIBLE, gpus_of_host, one_gpu

HOLD = """
import sys
from pathlib import Path
from logitfuse.flows.gpu_slots import one_gpu
with one_gpu(sys.argv[2:], print, Path(sys.argv[1])) as gpu:
    print("holds", gpu, flush=True)
    sys.stdin.read()
"""


def holder(folder: Path, *gpus: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *gpus], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_runs_of_one_host_hold_different_gpus_and_a_killed_one_frees_its_own(tmp_path: Path) -> None:
    first, second = holder(tmp_path, "0", "1"), None
    try:
        assert said(first) == "holds 0"
        second = holder(tmp_path, "0", "1")
        assert said(second) == "holds 1"
        third = holder(tmp_path, "0", "1")
        try:
            assert said(third) == "waiting for a GPU: other runs on this host hold all 2"
            first.kill()
            assert said(third) == "holds 0"
        finally:
            third.kill()
            third.wait()
    finally:
        for process in (first, second):
            if process:
                process.kill()
                process.wait()


@pytest.mark.parametrize("before", [None, "4,GPU-7f"])
def test_the_process_sees_its_gpu_and_afterwards_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if before:
        monkeypatch.setenv(VISIBLE, before)
        assert gpus_of_host() == ["4", "GPU-7f"]
    with one_gpu(["4", "GPU-7f"], print, tmp_path) as gpu:
        assert os.environ[VISIBLE] == gpu == "4"
    assert os.environ.get(VISIBLE) == before


def test_a_host_without_gpus_waits_for_none(tmp_path: Path) -> None:
    with one_gpu([], print, tmp_path) as gpu:
        assert gpu is None
    assert not list(tmp_path.iterdir())
