"""Killed at any moment, also in the middle of a save, and resumed: the model is the undisturbed one to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logitfuse.storage.atomic import SCRATCH_PREFIX
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.launch import WORKER
from logitfuse.tasks.training.metrics import read_metrics
from logitfuse.tasks.training.trainer import Trainer

NURSERY = Path(__file__).with_name("worker_nursery.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
Start = Callable[[Path, Path], tuple[int, Callable[[], int]]]  # (configuration, log) → process, wait for its exit code
# Small steps with some work in each, so that there is time to be killed in one.
BUSY = {"epochs": 400, "tokens_per_step": 600, "micro_batch_tokens": 48, "batching": "padded"}


class Nursery:
    """Forks training processes from one that has loaded everything."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(NURSERY)], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, config: Path, log: Path) -> tuple[int, Callable[[], int]]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([str(config), str(log)]) + "\n")
        self.process.stdin.flush()
        answers = self.process.stdout
        return int(answers.readline()), lambda: int(answers.readline())

    def close(self) -> None:
        self.process.communicate()


def start_afresh(config: Path, log: Path) -> tuple[int, Callable[[], int]]:
    """Start a training process as a launcher does."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(config)], env=ENVIRONMENT, stdout=stream, stderr=subprocess.STDOUT
        )
    return process.pid, process.wait


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


class Worker:
    """A training process that writes what it says to a file."""

    def __init__(self, config: WorkerConfig, start: Start) -> None:
        self.config = config
        self.log = config.metrics.parent / "said.txt"
        self.log.unlink(missing_ok=True)
        written = config.metrics.parent / "config.json"
        written.write_text(config.model_dump_json())
        self.pid, self.exit_code = start(written, self.log)

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_until(self, true: Callable[[], object]) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + 240
        while not true():
            assert time.monotonic() < deadline and "training error" not in self.said, self.said
            time.sleep(0.0005)

    def signal(self, number: int) -> int:
        """Send a signal and return the exit code that follows from it."""
        os.kill(self.pid, number)
        return self.exit_code()

    def kill(self) -> None:
        assert self.signal(signal.SIGKILL) == -signal.SIGKILL, self.said


def undisturbed(config: WorkerConfig) -> WorkerConfig:
    Trainer(config, threading.Event(), print).train()
    return config


def weights(config: WorkerConfig) -> bytes:
    return (config.out / "model.safetensors").read_bytes()


def half_written(config: WorkerConfig) -> list[Path]:
    return list(config.checkpoints.glob(f"{SCRATCH_PREFIX}*"))


def checkpoints(config: WorkerConfig) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in config.checkpoints.glob("checkpoint-*"))


def steps_of(config: WorkerConfig) -> int:
    return len(read_metrics(config.metrics))


def kill_in_a_step(worker: Worker, draw: random.Random) -> None:
    worker.wait_until(lambda: "sequences, 1 process" in worker.said or "resuming after" in worker.said)
    wanted = max(steps_of(worker.config) + draw.randint(0, 5), 5)  # two checkpoints stand after five steps
    worker.wait_until(lambda: steps_of(worker.config) >= wanted)
    time.sleep(draw.random() * 0.02)
    worker.kill()


def kill_in_a_save(worker: Worker, draw: random.Random) -> None:
    before = set(half_written(worker.config))
    worker.wait_until(lambda: set(half_written(worker.config)) - before)
    time.sleep(draw.random() * 0.003)
    worker.kill()


def damage_the_newest(config: WorkerConfig) -> str:
    """Flip a bit of the newest checkpoint; return its name."""
    newest = max(config.checkpoints.glob("checkpoint-*"))
    file = newest / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    return newest.name


def disturb(config: WorkerConfig, kills: int, seed: int, start: Start) -> tuple[int, int]:
    """Kill and resume a run; return how many kills hit a save, and how many resumed past a damaged checkpoint."""
    draw = random.Random(seed)
    in_saves = passed_over = 0
    for number in range(kills):
        damaged = damage_the_newest(config) if number % 7 == 2 and len(checkpoints(config)) > 1 else ""
        worker = Worker(config, start)
        (kill_in_a_save if number % 2 else kill_in_a_step)(worker, draw)
        in_saves += bool(half_written(config))
        assert len(checkpoints(config)) <= config.keep_checkpoints + 1  # killed before the oldest was removed
        if damaged:
            assert f"{damaged}: optimizer.safetensors is not as it was written" in worker.said
            assert "looking for an older checkpoint" in worker.said and "resuming after step" in worker.said
            passed_over += 1
    return in_saves, passed_over


def check_chaos(run: Callable[..., WorkerConfig], kills: int, steps: int, seed: int, start: Start) -> None:
    whole = undisturbed(run("whole", max_steps=steps, **BUSY))
    broken = run("broken", every=2, max_steps=steps, **BUSY).model_copy(update={"keep_checkpoints": 3})
    in_saves, passed_over = disturb(broken, kills, seed, start)
    at = steps_of(broken)
    last = Worker(broken, start)
    assert last.exit_code() == 0, last.said
    print(f"{kills} kills, {in_saves} in a save, {passed_over} damaged; last resumed at about step {at} of {steps}")
    assert in_saves >= kills // 4 and passed_over >= 1
    assert "resuming after step" in last.said
    assert weights(broken) == weights(whole)
    assert [line["step"] for line in read_metrics(broken.metrics)] == list(range(1, steps + 1))
    assert not half_written(broken) and len(checkpoints(broken)) == 3


@pytest.mark.slow
def test_three_kills_change_no_bit(run, nursery):
    check_chaos(run, kills=3, steps=40, seed=0, start=nursery.start)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_twenty_kills_change_no_bit(run):
    check_chaos(run, kills=20, steps=200, seed=1, start=start_afresh)


@pytest.mark.slow
def test_sigterm_saves_and_leaves_with_its_own_code(run, nursery):
    config = run(every=1000, max_steps=100, **BUSY)
    worker = Worker(config, nursery.start)
    worker.wait_until(lambda: steps_of(config) >= 3)
    assert worker.signal(signal.SIGTERM) == 143
    done = steps_of(config)
    assert f"training stop: stopped after step {done} of 100, which is saved" in worker.said
    assert checkpoints(config) == [done] and not config.out.exists()
