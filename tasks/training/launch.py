"""Starts the training processes, passes on what they say, and leaves none of them behind."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import yaml

from logitfuse.storage.atomic import replacing
from logitfuse.storage.errors import BadInput, WorkFailed
from logitfuse.tasks.training import freed_memory
from logitfuse.tasks.training.children import RUN_MARK, end_processes
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.hosts import Hosts, interface_towards
from logitfuse.tasks.training.parent import PARENT, identity
from logitfuse.tasks.training.worker import ERROR_MARK, LESS_MEMORY, MEMORY_MARK, PEER_MARK, STOP_MARK

WORKER = "logitfuse.tasks.training.worker"
HELD = re.compile(re.escape(MEMORY_MARK) + r"(\d+)")
HEARTBEAT_SECONDS = 1.0
GRACE_SECONDS = 60.0  # to save a checkpoint after being asked to stop
LAST_LINES = 60
NOBODY_CAME = "DistNetworkError", "DistStoreError", "clients joined"  # of torch's rendezvous

Device = Literal["auto", "cpu", "cuda"]


def run_training(
    config: WorkerConfig,
    *,
    processes: int = 1,
    device: Device = "auto",
    hosts: Hosts | None = None,
    log: Callable[[str], None] = print,
    heartbeat: Callable[[], None] | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> int:
    """Train in child processes under `accelerate launch`, `processes` of them on this machine.

    Returns, once they are done, the most bytes that one of them held: of its GPU's memory, or altogether on a CPU.

    `log` gets every line they say; `heartbeat` is called each second and may raise to cancel. However this
    function is left, all child processes are gone afterwards: first they are asked to stop, which saves a
    checkpoint, after `grace_seconds` they are killed. They also die when this process dies. Raises `WorkFailed`
    with what they said last.

    Of several `hosts` each calls this; when one of them fails or is stopped, so do the others.
    """
    _refuse_what_is_missing(config)
    folder = config.metrics.parent
    # Two runs may train in one folder at once, each by its own settings; and several hosts share a folder.
    of_run = config.key + (f"-{hosts.rank}" if hosts else "")
    on_cpu = device == "cpu" or not _has_gpu(device)
    written = folder / f"worker.{of_run}.json"
    accelerate = folder / f"accelerate.{of_run}.yaml"
    with replacing(written) as scratch:
        scratch.write_text(config.model_dump_json(indent=1))
    with replacing(accelerate) as scratch:
        scratch.write_text(yaml.safe_dump(accelerate_settings(processes, on_cpu, hosts)))
    mark = uuid.uuid4().hex
    child = subprocess.Popen(
        launch_command(accelerate, written, processes, on_cpu, hosts, config.peer_timeout_seconds),
        env={**_network(hosts), **_allocator(on_cpu), **os.environ, **_environment(processes, on_cpu, mark)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    said: deque[str] = deque(maxlen=LAST_LINES)
    held = 0
    try:
        for line in _lines(child, heartbeat):
            if found := HELD.findall(line):  # of several processes, whose words may come as one line
                held = max(held, *map(int, found))
                line = HELD.sub("", line)
            if found and not line.strip():
                continue
            said.append(line)
            if not _launcher_ends(said):
                log(line)
        code = child.wait()
    finally:
        end_processes(mark, child.pid, grace_seconds)
        child.wait()
    if code:
        raise WorkFailed(_failure(code, said))
    return held


def launch_command(
    accelerate: Path, config: Path, processes: int, on_cpu: bool, hosts: Hosts | None, patience: int = 600
) -> list[str]:
    """Return the command that starts this machine's training processes.

    `patience`: seconds to wait for the other hosts to be started.
    """
    if on_cpu and (processes > 1 or hosts):
        # `accelerate launch` starts several processes on CPUs only through MPI.
        where = (
            ["--nnodes", str(hosts.count), "--node-rank", str(hosts.rank)]
            + ["--master-addr", hosts.address, "--master-port", str(hosts.port)]
            + ["--rdzv-conf", f"timeout={patience}"]
            if hosts
            else ["--standalone"]
        )
        launcher = ["torch.distributed.run", *where, "--nproc-per-node", str(processes)]
    else:
        launcher = ["accelerate.commands.launch", "--config_file", str(accelerate)]
        launcher += ["--num_cpu_threads_per_process", str(threads_of(processes))]
        launcher += ["--rdzv_conf", f"timeout={patience}"] if hosts else []
    return [sys.executable, "-m", *launcher, "-m", WORKER, str(config)]


def accelerate_settings(processes: int, on_cpu: bool, hosts: Hosts | None) -> dict[str, object]:
    """Return accelerate's configuration file, so that one a user has for other work does not change ours."""
    total = processes * (hosts.count if hosts else 1)
    return {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": "MULTI_GPU" if total > 1 and not on_cpu else "NO",
        "downcast_bf16": "no",
        "enable_cpu_affinity": False,
        "machine_rank": hosts.rank if hosts else 0,
        "main_process_ip": hosts.address if hosts else None,
        "main_process_port": hosts.port if hosts else 0,
        "main_training_function": "main",
        "mixed_precision": "no",
        "num_machines": hosts.count if hosts else 1,
        "num_processes": total,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": on_cpu,
    }


def _refuse_what_is_missing(config: WorkerConfig) -> None:
    from logitfuse.tasks.training.loading import refuse_what_is_missing  # loads transformers

    refuse_what_is_missing(config.settings)


def _has_gpu(device: Device) -> bool:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device 'cuda' is asked for, but torch finds no GPU here. Set device to 'auto' or 'cpu'.")
    return torch.cuda.is_available()


def threads_of(processes: int) -> int:
    """Return the CPU threads of each process: the caller's choice, else all cores, shared out."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, len(os.sched_getaffinity(0)) // processes))


def _environment(processes: int, on_cpu: bool, mark: str) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(threads_of(processes)),
        "ACCELERATE_USE_CPU": str(on_cpu).lower(),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        PARENT: identity(os.getpid()),
        RUN_MARK: mark,
    }


def _allocator(on_cpu: bool) -> dict[str, str]:
    """Return how memory is kept; a user's own setting of it goes first."""
    return freed_memory.environment() if on_cpu else {}


def _network(hosts: Hosts | None) -> dict[str, str]:
    """Return what gloo has to know of the network; a user's own setting of it goes first."""
    interface = interface_towards(hosts) if hosts else None
    return {"GLOO_SOCKET_IFNAME": interface} if interface else {}


def _lines(child: subprocess.Popen[str], heartbeat: Callable[[], None] | None) -> Iterator[str]:
    """Yield the child's lines as they come and call `heartbeat` each second until its output ends."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(child, lines), daemon=True).start()
    beat = time.monotonic()
    while True:
        if heartbeat and time.monotonic() >= beat:
            beat = time.monotonic() + HEARTBEAT_SECONDS
            heartbeat()
        try:
            line = lines.get(timeout=HEARTBEAT_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return
        yield line


def _read(child: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def _launcher_ends(said: deque[str]) -> bool:
    """Whether the last line is of the launcher's own traceback, after a worker told in a line what is wrong."""
    lines = list(said)
    began = next((at for at, line in enumerate(lines) if line.startswith("Traceback ")), len(lines))
    told = any(mark in line for line in lines[:began] for mark in (ERROR_MARK, STOP_MARK))
    return told and began < len(lines) and not any(mark in lines[-1] for mark in (ERROR_MARK, STOP_MARK, PEER_MARK))


def _failure(code: int, said: deque[str]) -> str:
    told = [line.partition(ERROR_MARK)[2] for line in said if ERROR_MARK in line]
    lost = [line.partition(PEER_MARK)[2] for line in said if PEER_MARK in line]
    stopped = [line.partition(STOP_MARK)[2] for line in said if STOP_MARK in line]
    # What went wrong first stands in its own words; that others then lost it says nothing more.
    for prefix, lines in (("training failed: ", told), ("training was stopped: ", stopped), ("", lost)):
        if lines:
            return prefix + "\n".join(dict.fromkeys(lines))
    hint = ""
    if any("SIGKILL" in line or "Signal 9" in line for line in said) or code == -signal.SIGKILL:
        hint = f"A process was killed from outside, most often because memory ran out: {LESS_MEMORY}. "
    elif any(sign in line for line in said for sign in NOBODY_CAME):
        hint = "The other hosts did not come in time: start all of them, and check execution.hosts.address and port. "
    return f"training failed with exit code {code}. {hint}The next run goes on from the last checkpoint. It said:\n" + (
        "\n".join(said)
    )
