"""Several machines, each a network namespace: they meet, train as one, and end together."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.hosts import Hosts, HostSettings, first_node, hosts_of, interface_towards, own_address
from logitfuse.tasks.training.launch import accelerate_settings, launch_command, run_training
from logitfuse.tasks.training.metrics import read_metrics

PROBE = Path(__file__).with_name("host_probe.py")
SLOW = {"epochs": 40, "max_steps": 12, "tokens_per_step": 1600, "micro_batch_tokens": 48, "batching": "padded"}
PATIENCE = 20  # seconds that a host waits for a silent one in these tests
BOUND = 60  # within which it must have ended


def test_one_host_needs_nothing():
    assert hosts_of(HostSettings()) is None
    assert hosts_of(HostSettings(given_by="slurm"), {"SLURM_NNODES": "1", "SLURM_NODEID": "0",
                                                     "SLURM_JOB_NODELIST": "n1"}) is None  # fmt: skip


def test_several_hosts_share_a_rendezvous():
    hosts = hosts_of(HostSettings(count=2, rank=1, address="10.0.0.1", port=29501))
    settings = accelerate_settings(4, False, hosts)
    assert settings["num_processes"] == 8 and settings["machine_rank"] == 1 and settings["num_machines"] == 2
    assert (settings["main_process_ip"], settings["main_process_port"]) == ("10.0.0.1", 29501)
    assert settings["distributed_type"] == "MULTI_GPU"
    command = launch_command(Path("a.yaml"), Path("c.json"), 4, True, hosts, 77)
    assert command[command.index("--node-rank") :][:2] == ["--node-rank", "1"]
    assert "timeout=77" in command and "timeout=77" in launch_command(Path("a"), Path("c"), 4, False, hosts, 77)
    assert accelerate_settings(1, False, None)["distributed_type"] == "NO"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 2, "rank": 2, "address": "a"}, r"rank is 2, but 2 hosts have ranks 0-1"),
        ({"count": 2, "rank": 1}, r"address is empty"),
        ({"given_by": "slurm"}, r"SLURM_NNODES, SLURM_NODEID, SLURM_JOB_NODELIST is not set"),
    ],
)
def test_what_is_missing_is_named(settings, message):
    with pytest.raises(BadInput, match=message):
        hosts_of(HostSettings(**settings), {})


def test_a_slurm_job_names_its_hosts():
    job = {"SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "gpu[003-004],login1"}
    assert hosts_of(HostSettings(given_by="slurm"), job) == Hosts(2, 1, "gpu003", 29500)
    assert hosts_of(HostSettings(given_by="slurm", address="10.0.0.9"), job).address == "10.0.0.9"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[1,4-6]", "n1"), ("r1-n[007-009]-ib,x", "r1-n007-ib"), ("a-b.c,d", "a-b.c")],
)
def test_the_first_node_of_a_list(nodes, first):
    assert first_node(nodes) == first


def test_the_interface_is_the_one_that_leads_there():
    assert interface_towards(Hosts(2, 0, "127.0.0.1", 1)) == "lo"
    assert interface_towards(Hosts(2, 0, "no-such-host.invalid", 1)) is None


@dataclass(frozen=True)
class Machine:
    """A network namespace that stands for a machine."""

    namespace: str
    rank: int
    address: str

    def start(self, config: Path, main: str, port: int) -> subprocess.Popen:
        command = ["ip", "netns", "exec", self.namespace, sys.executable, str(PROBE)]
        return subprocess.Popen(
            [*command, str(config), str(self.rank), main, str(port)],
            env={name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"}
            | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def processes(self) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]

    def die(self) -> None:
        """Kill all that runs there at once."""
        while living := self.processes():
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def cut_off(self) -> None:
        _ip("-n", self.namespace, "link", "set", "lf0", "down")

    def connect(self) -> None:
        _ip("-n", self.namespace, "link", "set", "lf0", "up")


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    """Two machines with a cable between them."""
    if not shutil.which("ip"):
        pytest.skip("no `ip` command to make network namespaces with")
    made = [Machine(f"lf{os.getpid()}-{rank}", rank, f"10.77.0.{rank + 1}") for rank in range(2)]
    try:
        for machine in made:
            _ip("netns", "add", machine.namespace)
        left, right = (machine.namespace for machine in made)
        _ip("link", "add", "lf0", "netns", left, "type", "veth", "peer", "name", "lf0", "netns", right)
        for machine in made:
            _ip("-n", machine.namespace, "addr", "add", f"{machine.address}/24", "dev", "lf0")
            _ip("-n", machine.namespace, "link", "set", "lo", "up")
            machine.connect()
    except OSError as error:
        for machine in made:
            subprocess.run(["ip", "netns", "del", machine.namespace], capture_output=True)
        pytest.skip(f"network namespaces are not allowed here ({error})")
    yield made
    for machine in made:
        machine.die()
        _ip("netns", "del", machine.namespace)


class Training:
    """A run on two machines."""

    def __init__(self, machines: list[Machine], config: WorkerConfig, port: int) -> None:
        self.machines, self.config = machines, config
        written = config.metrics.parent / "config.json"
        written.write_text(config.model_dump_json())
        self.running = [machine.start(written, machines[0].address, port) for machine in machines]

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 200
        while len(read_metrics(self.config.metrics)) < step:
            assert time.monotonic() < deadline and all(p.poll() is None for p in self.running), "it never got there"
            time.sleep(0.02)

    def end(self, rank: int, seconds: float) -> tuple[int, str]:
        """Return a machine's exit code and what it said; fail if that takes longer."""
        said, _ = self.running[rank].communicate(timeout=seconds)
        return self.running[rank].returncode, said

    def finish(self) -> list[str]:
        ends = [self.end(rank, 400) for rank in range(2)]
        assert [code for code, _ in ends] == [0, 0], ends
        return [said for _, said in ends]


def weights(config: WorkerConfig) -> bytes:
    return (config.out / "model.safetensors").read_bytes()


@pytest.fixture
def one_machine(run, monkeypatch) -> WorkerConfig:
    """The same run with its two processes on one machine, undisturbed."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = run("one-machine", **SLOW)
    run_training(config, processes=2, device="cpu", log=lambda line: None)
    return config


@pytest.mark.slow
def test_two_hosts_train_as_one_and_end_together(run, machines, one_machine):
    config = run("two-machines", **SLOW).model_copy(update={"peer_timeout_seconds": PATIENCE})
    for port, (dead, how) in enumerate([(1, "die"), (0, "die"), (1, "cut_off")], start=29611):
        done = len(read_metrics(config.metrics))
        training = Training(machines, config, port)
        training.wait_for_step(done + 2 if done else 4)
        getattr(machines[dead], how)()
        began = time.monotonic()
        code, said = training.end(1 - dead, BOUND)
        print(f"host {dead} {how}: the other ended after {time.monotonic() - began:.1f} s")
        assert code == 1
        assert "state: another process of this run is gone or does not answer" in said, said
        assert "go on from the last checkpoint" in said
        code, _ = training.end(dead, BOUND)  # cut off, it too must come to an end
        assert code == (1 if how == "cut_off" else -signal.SIGKILL)
        assert not machines[0].processes() and not machines[1].processes()
        machines[dead].connect()
    said = Training(machines, config, 29620).finish()
    assert "resuming after step" in said[0] and "2 processes (DDP)" in said[0]
    assert weights(config) == weights(one_machine)
    files = {path.name for path in config.metrics.parent.iterdir()}
    assert {"worker.k1-0.json", "worker.k1-1.json", "accelerate.k1-0.yaml", "accelerate.k1-1.yaml"} <= files
    assert yaml.safe_load((config.metrics.parent / "accelerate.k1-1.yaml").read_text())["machine_rank"] == 1


@pytest.mark.slow
def test_hosts_with_different_recipes_are_refused(run, machines):
    config = run("mixed", **SLOW)
    other = config.metrics.parent / "other.json"
    other.write_text(config.model_copy(update={"key": "k2"}).model_dump_json())
    mine = config.metrics.parent / "mine.json"
    mine.write_text(config.model_copy(update={"peer_timeout_seconds": PATIENCE}).model_dump_json())
    running = [m.start(path, machines[0].address, 29630) for m, path in zip(machines, (mine, other), strict=True)]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert "this host trains run k2, process 0 run k1" in said[1], said[1]
    assert "state: another process of this run is gone" in said[0], said[0]
    assert not machines[0].processes() and not machines[1].processes()


def test_machine_0_goes_by_an_address_that_the_others_can_reach(monkeypatch):
    hosts = hosts_of(HostSettings(count=2))
    assert hosts.address == own_address() and hosts.rank == 0
    assert not hosts.address.startswith("127.")
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")  # as on a machine whose name is 127.0.1.1 to itself
    assert not own_address("127.0.0.1").startswith("127.")  # a server on this host does not say how others see it


def test_without_a_network_machine_0_goes_by_its_name(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.setattr("logitfuse.tasks.training.hosts.ELSEWHERE", "127.0.0.1")
    assert own_address() == "localhost"
