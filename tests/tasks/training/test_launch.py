"""Training in child processes: the same result, and nothing left behind however it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from logitfuse.storage.errors import WorkFailed
from logitfuse.tasks.training.children import processes_with
from logitfuse.tasks.training.launch import run_training
from logitfuse.tasks.training.metrics import MEASURED, read_metrics
from logitfuse.tasks.training.parent import PARENT, identity
from logitfuse.tasks.training.trainer import Trainer

SLOW = {"epochs": 40, "max_steps": 12, "tokens_per_step": 800, "micro_batch_tokens": 24}  # a step takes a moment


class Cancelled(Exception):
    """What a caller's heartbeat raises."""


@pytest.fixture(autouse=True)
def one_thread_in_children(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def training_processes(parent: int | None = None) -> set[int]:
    return processes_with(PARENT, identity(parent or os.getpid()))


def workers() -> set[int]:
    return {pid for pid in training_processes() if b"launch" not in Path(f"/proc/{pid}/cmdline").read_bytes()}


def steps_of(config) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in read_metrics(config.metrics)]


def weights(config) -> bytes:
    return (config.out / "model.safetensors").read_bytes()


def when_done(config, steps: int, act) -> threading.Thread:
    """Call `act` once that many steps are in the metrics."""

    def wait() -> None:
        while len(read_metrics(config.metrics)) < steps:
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_killed_cancelled_and_resumed_is_undisturbed_to_the_bit(run):
    whole, broken = run("whole", **SLOW), run("broken", **SLOW)
    Trainer(whole, threading.Event(), print).train()
    said: list[str] = []
    beats: list[float] = []

    thread = when_done(broken, 4, lambda: [os.kill(pid, signal.SIGKILL) for pid in workers()])
    with pytest.raises(WorkFailed):
        run_training(broken, device="cpu")
    thread.join()
    assert 4 <= len(read_metrics(broken.metrics)) < 12
    assert not training_processes()

    def cancel(line: str) -> None:
        said.append(line)
        if line.startswith("saved step"):
            raise Cancelled

    said.clear()
    with pytest.raises(Cancelled):
        run_training(broken, device="cpu", log=cancel)
    assert any("resuming after step" in line for line in said)
    assert not training_processes()
    saved = max(path.name for path in broken.checkpoints.glob("checkpoint-*"))
    assert saved == f"checkpoint-{len(read_metrics(broken.metrics)):08d}"  # asked to stop, it saved what was done

    held = run_training(broken, device="cpu", log=said.append, heartbeat=lambda: beats.append(time.monotonic()))
    assert any("step 12/12" in line for line in said) and len(beats) > 2
    assert 1e8 < held < 1e10 and not any(str(held) in line for line in said), "bytes, for the record alone"
    assert steps_of(broken) == steps_of(whole)
    assert weights(broken) == weights(whole)


@pytest.mark.slow
def test_two_runs_in_one_folder_at_once_each_keep_to_their_own_settings(run):
    one, other = run("one", max_steps=3, clm_weight=1.0), run("other", max_steps=3, clm_weight=0.25)
    beside = other.model_copy(update={"metrics": one.metrics.parent / "metrics.k2.jsonl", "key": "k2"})
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda config: run_training(config, device="cpu"), [one, beside]))
    assert [line["clm_weight"] for line in steps_of(one)] == [1.0] * 3
    assert [line["clm_weight"] for line in steps_of(beside)] == [0.25] * 3


@pytest.mark.slow
def test_workers_die_with_the_process_that_started_them(run):
    config = run(**SLOW | {"max_steps": 10_000, "epochs": 5000})
    (config.metrics.parent / "config.json").write_text(config.model_dump_json())
    code = (
        "import sys; from pathlib import Path\n"
        "from logitfuse.tasks.training.config import WorkerConfig\n"
        "from logitfuse.tasks.training.launch import run_training\n"
        "run_training(WorkerConfig.model_validate_json(Path(sys.argv[1]).read_text()), device='cpu')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(config.metrics.parent / "config.json")], stdout=subprocess.DEVNULL
    ) as parent:
        try:
            known = identity(parent.pid)
            when_done(config, 1, lambda: None).join(timeout=120)
            assert len(processes_with(PARENT, known)) == 2
        finally:
            parent.kill()
    deadline = time.monotonic() + 10
    while processes_with(PARENT, known) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not processes_with(PARENT, known)


def test_a_refusal_is_told_in_its_own_words(run):
    config = run()
    config = config.model_copy(update={"shards": (config.shards[0].model_copy(update={"checksum": "sha256:0"}),)})
    with pytest.raises(WorkFailed, match=r"^training failed: .*part-0\.parquet: its bytes are not the ones"):
        run_training(config, device="cpu", log=lambda line: None)


class CancelAfterSaving(list):
    """A log that cancels the run at the first checkpoint."""

    def append(self, line: str) -> None:
        super().append(line)
        if line.startswith("saved step"):
            raise Cancelled


@pytest.mark.slow  # test_spread.py compares them, too, in one start for all
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_train_the_same_model(run, sharded):
    alone, together = (run(name, max_steps=6, epochs=2) for name in ("alone", "together"))
    Trainer(alone, threading.Event(), print).train()
    together = together.model_copy(update={"sharded": sharded})
    run_training(together, processes=2, device="cpu")
    check_same_model(alone, together)


@pytest.mark.slow
def test_two_sharded_processes_are_cancelled_and_go_on(run):
    alone, together = run("alone", **SLOW), run("together", **SLOW)
    Trainer(alone, threading.Event(), print).train()
    together = together.model_copy(update={"sharded": True})
    with pytest.raises(Cancelled):
        run_training(together, processes=2, device="cpu", log=CancelAfterSaving().append)
    assert not training_processes() and not together.out.exists()
    run_training(together, processes=2, device="cpu")
    check_same_model(alone, together)


def check_same_model(alone, together):
    for line, same in zip(read_metrics(together.metrics), read_metrics(alone.metrics), strict=True):
        for name in ("loss", "clm_loss", "fusion_loss", "grad_norm"):
            assert line[name] == pytest.approx(same[name], rel=2e-3)
        assert line["tokens"] == same["tokens"] and line["served_share"] == same["served_share"]
    left, right = load_file(alone.out / "model.safetensors"), load_file(together.out / "model.safetensors")
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert_close(tensor, right[name], rtol=0.02, atol=5e-3)


@pytest.mark.slow
def test_training_does_not_import_prefect():
    code = (
        "import sys, logitfuse.tasks.training.worker, logitfuse.tasks.training.trainer, "
        "logitfuse.tasks.training.launch; sys.exit('prefect' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_finished_process_does_not_fail_while_it_is_taken_apart():
    """Threads of gloo have aborted at interpreter teardown; nothing may happen there, and nothing said be lost."""
    aborting = (
        "import atexit, os; from logitfuse.tasks.training import worker; atexit.register(os.abort); "
        "print('x' * 100_000); print('told', flush=False); worker.end(3)"
    )
    ended = subprocess.run([sys.executable, "-c", aborting], capture_output=True, text=True)
    assert ended.returncode == 3 and ended.stdout.endswith("told\n")
