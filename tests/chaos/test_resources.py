"""Full disks, quotas, refusals, few handles, signals, closed pipes: told in a line, and going on works."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runs_in_trouble import TOLD, WORKED, Ended, Troubled, ended, stands
from runs_under_fire import Forks, Undisturbed

pytestmark = pytest.mark.slow
BEFORE_TRAINING = ("prepare", "encode", "check", "capture", "map", "align", "fuse", "headroom")
Mount = Callable[[Path, int], None]


@pytest.fixture
def troubled(forks: Forks, wanted: Undisturbed, request: pytest.FixtureRequest) -> Troubled:
    return Troubled(forks, wanted, request.node.name)


@pytest.fixture
def disk() -> Iterator[Mount]:
    """Put a folder on a disk of its own; called again, make that smaller or larger."""
    mounted: list[Path] = []

    def mount(folder: Path, kilobytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        again = "remount," if folder in mounted else ""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"{again}size={kilobytes}k", "tmpfs", str(folder)], capture_output=True
        )
        if done.returncode:
            pytest.skip(f"mounting a disk needs root: {done.stderr.decode().strip()}")
        mounted.append(folder)

    yield mount
    for folder in dict.fromkeys(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def used(folder: Path) -> int:
    """Return the kilobytes used on the disk of a folder."""
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize // 1024


def fill_and_go_on(troubled: Troubled, disk: Mount, more: int) -> list[Ended]:
    """Run on a disk that is full again and again, each time `more` kilobytes larger; return how each run ended."""
    folder, ends = troubled.wanted.run_folder(troubled.name), []
    stood: dict[str, int] = {}
    size = 0
    while not ends or ends[-1].code != WORKED:
        size = max(size, used(folder.parent)) + more  # what a failed attempt wrote is removed, but it needed that
        disk(folder.parent, size)
        ends.append(troubled.end())
        if ends[-1].code != WORKED:
            assert ends[-1].code == TOLD, ends[-1].said
            assert "is full" in ends[-1].told and "Make room, or move the run folder" in ends[-1].told
        assert stood.items() <= stands(troubled).items()
        stood = stands(troubled)
        assert len(ends) < 60
    disk(folder.parent, 1 << 20)
    return ends


def test_a_disk_that_is_full_again_and_again(troubled: Troubled, disk: Mount) -> None:
    disk(troubled.wanted.run_folder(troubled.name).parent, 1 << 10)
    troubled.given("train", "encode", "capture")
    assert len(fill_and_go_on(troubled, disk, 160)) > 2
    troubled.as_undisturbed()


@pytest.mark.timeout(1800)
def test_a_disk_that_is_full_in_every_stage(troubled: Troubled, disk: Mount) -> None:
    disk(troubled.wanted.run_folder(troubled.name).parent, 12)
    full = [end.told for end in (troubled.end(), *fill_and_go_on(troubled, disk, 36)) if end.code]
    for stage in ("prepare", "capture", "align", "train"):  # training needs more than what comes after it
        assert any(stage in line for line in full), stage
    troubled.as_undisturbed()


def test_refusals_one_after_the_other(troubled: Troubled) -> None:
    troubled.given("train", "prepare", "encode", "capture")
    refusals = [
        (1, errno.EROFS, "Read-only file system"),
        (10, errno.EDQUOT, "the quota on the disk of"),
        (30, errno.EMFILE, "too many files are open at once"),
        (50, errno.EIO, "Input/output error"),
        (70, errno.ESTALE, "Stale file handle"),
    ]
    for at, number, words in refusals:
        end = troubled.end(["refuse", troubled.below(), at, number, 1000])
        assert end.code == TOLD, end.said
        assert words in end.told and "run the same command again" in end.told
    end = troubled.end(["few_handles", 12], command=troubled.stage("align", "--redo"))  # opens four shards at once
    assert end.code == TOLD and "ulimit -n 4096; it is 12 now" in end.told, end.said
    troubled.as_undisturbed()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "failing"])
def test_a_refusal_at_every_change(troubled: Troubled, number: int) -> None:
    refused = 0
    for at in range(5, 400, 20):
        fresh = Troubled(troubled.forks, troubled.wanted, f"{troubled.name}-{at}").given("train")
        end = fresh.end(["refuse", fresh.below(), at, number])
        assert end.code in (WORKED, TOLD), end.said
        assert not end.code or end.told
        refused += bool(end.code)
        fresh.as_undisturbed()
    assert refused > 8


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("at", "number"), [(2, errno.EROFS), (8, errno.ENOSPC), (14, errno.EDQUOT), (20, errno.EIO), (26, errno.ENOSPC)]
)
def test_a_refusal_while_training(troubled: Troubled, at: int, number: int) -> None:
    troubled.given(*BEFORE_TRAINING)
    end = troubled.end(training=["refuse", troubled.below(), at, number])
    assert end.code == TOLD, end.said
    assert os.strerror(number) in end.told or "is full" in end.told or "quota" in end.told
    troubled.as_undisturbed()


def test_a_folder_that_is_mounted_read_only(troubled: Troubled, disk: Mount) -> None:
    folder = troubled.wanted.run_folder(troubled.name)
    disk(folder.parent, 1 << 12)
    troubled.given("train", *BEFORE_TRAINING)
    subprocess.run(["mount", "-o", "remount,ro", str(folder.parent)], check=True)
    assert "Read-only file system. What was finished stays. See that" in troubled.end().told
    recipe = str(troubled.wanted.recipe(troubled.name))
    assert troubled.end(command=["verify", recipe]).code == WORKED  # reading is as good as ever
    assert "Traceback" not in troubled.end(command=["status", recipe]).said
    subprocess.run(["mount", "-o", "remount,rw", str(folder.parent)], check=True)
    troubled.as_undisturbed()


def test_output_that_nobody_takes_a_clock_that_jumps_and_answers_that_come_late(troubled: Troubled) -> None:
    troubled.given("train", "capture", "align")
    late = ["slow", troubled.below(), 0.002]
    end = troubled.end(["closed_pipe"], ["jumping_clock", 30 * 86400.0], late, ["few_handles", 64])
    assert (end.code, end.said) == (WORKED, "")
    troubled.as_undisturbed()
    end = troubled.end(["full_output"], command=troubled.stage("fuse", "--redo"))
    assert end.code == WORKED and "No space left on device); the work goes on" in end.told
    troubled.as_undisturbed()


def test_a_signal_ends_it_tidily(troubled: Troubled) -> None:
    troubled.given("train", "prepare", "encode", "capture")
    for number, how in ((signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "its terminal was closed")):
        end = troubled.end(["signalled", number, troubled.below(), 40])
        assert end.code == 128 + number, end.said
        assert f"stopped: {how}. What was finished stays; the same command goes on" in end.told
    troubled.as_undisturbed()


@pytest.mark.timeout(900)
def test_training_that_is_stopped_saves_a_checkpoint_and_goes_on(troubled: Troubled) -> None:
    troubled.given(*BEFORE_TRAINING)
    command = troubled.start(training=["slow", troubled.below(), 0.1])
    folder = troubled.wanted.run_folder(troubled.name) / "train" / "fused"
    while not any(path.stat().st_size for path in folder.glob("metrics.*")):
        time.sleep(0.05)
    os.kill(command.pid, signal.SIGTERM)
    end = ended(command)
    assert end.code == 128 + signal.SIGTERM and "stopped: SIGTERM" in end.told
    assert list(folder.glob("checkpoints.*/checkpoint-*")) and not list(folder.glob("model.*"))
    assert not list(folder.rglob(".scratch-*"))
    troubled.as_undisturbed()


@pytest.mark.timeout(900)
def test_a_training_process_that_the_kernel_kills_for_its_memory(troubled: Troubled) -> None:
    troubled.given(*BEFORE_TRAINING)
    end = troubled.end(training=["killed", troubled.below(), 12])
    assert end.code == TOLD and "most often because memory ran out: lower train.micro_batch_tokens" in end.said
    troubled.as_undisturbed()
