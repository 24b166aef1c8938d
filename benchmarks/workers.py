"""Shards handed out to machines: does a second one double the speed, and is nothing lost when one dies?

    python benchmarks/workers.py --json workers.json      # needs root (network namespaces) and PostgreSQL; ~10 minutes

Each machine is a network namespace with a Prefect worker that takes one capture run at a time; server, PostgreSQL and
the pipeline's own run are on this host. The source sleeps for each shard as a GPU would compute. Measured in turn:

scaling_2: time of stage capture with one machine over the time with two.
lost_machine_s: seconds that the stage takes longer when one of two machines dies in the middle of a shard, never to
come back: its run has to be noticed (90 s without heartbeat) and its shards done by the other.
same_bytes, once_at_a_time: 1 if all shards are, byte for byte, what one machine wrote, and no two processes ever
worked on one shard at once.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from corpus_growth import tiny_model
from machines import HEAD, Machine, free_port, machines, postgres
from measure import at_least, at_most, options, show, write

from logitfuse.flows.prefect_settings import DEFAULTS
from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.execute import do_prepare, do_units
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run

GOALS = {
    "scaling_2": at_least(1.6),
    "lost_machine_s": at_most(180),
    "same_bytes": at_least(1),
    "once_at_a_time": at_least(1),
}
PREFECT = [sys.executable, "-m", "prefect"]
SLOW = Path(__file__).with_name("slow_capture")
LONGEST = 900.0  # seconds of one measurement
NOTES_BEFORE_A_DEATH = 6


def main() -> None:
    """Print the table and write the JSON."""
    parser = options(__doc__)
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0, help="that the source sleeps for each shard")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that machines and servers are taken away
    shards, rounds = (8, 1) if arguments.quick else (arguments.shards, arguments.rounds)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        made = stack.enter_context(machines(2))
        cluster = stack.enter_context(cluster_at(Path(scratch), stack.enter_context(postgres()).url, arguments.seconds))
        seconds: dict[str, list[float]] = defaultdict(list)
        runs = []
        for number in range(rounds):
            for count in (1, 2)[:: -1 if number % 2 else 1]:
                runs.append(cluster.prepared(f"{count}-machines-{number}", shards))
                seconds[f"{count} machines"].append(cluster.captured(runs[-1], made[:count]))
        runs.append(cluster.prepared("one-dies", shards))
        seconds["2 machines, one dies"].append(cluster.captured(runs[-1], made, dying=made[0]))
        medians = {side: statistics.median(values) for side, values in seconds.items()}
        metrics = {
            "scaling_2": medians["1 machines"] / medians["2 machines"],
            "lost_machine_s": medians["2 machines, one dies"] - medians["2 machines"],
            "same_bytes": float(len({checksums(run) for run in runs}) == 1),
            "once_at_a_time": float(all(cluster.once_at_a_time(run) for run in runs)),
        }
    show("captures handed out to machines", metrics, GOALS, seconds)
    inputs = {"shards": shards, "seconds_a_shard": arguments.seconds, "rounds": rounds, "seconds": dict(seconds)}
    write(arguments.json, metrics, GOALS, inputs)


class Cluster:
    """A server with its database, and a worker on this host for the pipeline's own runs."""

    def __init__(self, folder: Path, port: int, seconds: float) -> None:
        self.folder, self._seconds = folder, seconds
        self.api = f"http://{HEAD}:{port}/api"
        self._model: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What all of its processes are given."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return inherited | DEFAULTS | {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def prepared(self, name: str, shards: int) -> Recipe:
        """Return a recipe whose next stage is capture."""
        self._model = self._model or tiny_model("gpt-2", self.folder)
        corpus = self.folder / f"{shards}.jsonl"
        texts = (
            f"Document {number} is about fusing models that do not share a vocabulary." for number in range(shards)
        )
        corpus.write_text("".join(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts)))
        recipe = Recipe.model_validate(
            {
                "name": name,
                "target": {"model": str(self._model), "dtype": "float32"},
                "sources": [],
                "check": {"nats_per_byte": None},
                "corpus": {"source": str(corpus), "documents_per_shard": 1, "near_duplicate_overlap": None},
                "execution": {
                    "folder": str(self.folder / "runs"), "min_free_gb": 0, "device": "cpu", "shards_per_run": 4,
                },
            }
        )  # fmt: skip
        claim_folder(recipe)
        run = Run(recipe)
        do_prepare(run)
        for stage in ("encode", "check"):
            list(do_units(run, run.units(stage)))
        return recipe

    def captured(self, recipe: Recipe, workers: Sequence[Machine], dying: Machine | None = None) -> float:
        """Return the seconds that stage capture takes on these machines; `dying` is killed in its second run."""
        notes = self.folder / f"{recipe.name}.notes"
        slow = {"PYTHONPATH": f"{SLOW}:{os.environ.get('PYTHONPATH', '')}", "SLOW_CAPTURE_NOTES": str(notes)}
        environment = self.environment | slow | {"SLOW_CAPTURE_SECONDS": str(self._seconds)}
        for machine in workers:
            command = [*PREFECT, "worker", "start", "--pool", "logitfuse", "--work-queue", "capture", "--limit", "1"]
            machine.start([*command, "--name", machine.name], environment, self.folder / f"{machine.name}.log")
        began = time.monotonic()
        run = self.start(recipe, "capture")
        while not self._has_completed(run):
            if time.monotonic() - began > LONGEST:
                raise TimeoutError(f"{recipe.name} is not done after {LONGEST} s; see the logs in {self.folder}")
            if dying and notes.exists() and len(noted(notes)) > NOTES_BEFORE_A_DEATH:
                dying.die()
                dying = None
            time.sleep(0.5)
        seconds = time.monotonic() - began
        for machine in workers:
            machine.die()
        return seconds

    def start(self, recipe: Recipe, stage: str) -> str:
        """Start a run of the pipeline for one stage; return its id."""
        parameters = {"recipe": recipe.model_dump(mode="json"), "start_at": stage, "stop_after": stage}
        deployment = self._call("get", "/deployments/name/pipeline/pipeline")["id"]
        run = self._call("post", f"/deployments/{deployment}/create_flow_run", json={"parameters": parameters})
        return str(run["id"])

    def retry(self, run: str) -> None:
        """Do what the button Retry of a run's page does."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry"}
        self._call("post", f"/flow_runs/{run}/set_state", json={"state": state, "force": True})

    def state(self, run: str) -> dict[str, Any]:
        """Return a run's state as the server has it."""
        return dict(self._call("get", f"/flow_runs/{run}")["state"])

    def _has_completed(self, run: str) -> bool:
        state = self.state(run)
        if state["type"] in ("FAILED", "CRASHED", "CANCELLED"):
            raise RuntimeError(f"the pipeline is {state['name']}: {state['message']}")
        return bool(state["type"] == "COMPLETED")

    def once_at_a_time(self, recipe: Recipe) -> bool:
        """Whether no two processes worked on one shard at the same time."""
        return not overlaps(noted(self.folder / f"{recipe.name}.notes"))

    def _call(self, method: str, path: str, **given: Any) -> Any:
        return httpx.request(method, f"{self.api}{path}", timeout=60, **given).raise_for_status().json()


@contextmanager
def cluster_at(folder: Path, database: str, seconds: float) -> Iterator[Cluster]:
    """Start the server and the worker for pipelines, with everything deployed; end them afterwards."""
    cluster = Cluster(folder, free_port(), seconds)
    port = cluster.api.rpartition(":")[2].partition("/")[0]
    environment = cluster.environment | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
    log = (folder / "server.log").open("wb")
    server = subprocess.Popen(
        [*PREFECT, "server", "start", "--host", HEAD, "--port", port], env=environment, stdout=log, stderr=log
    )
    worker: subprocess.Popen[bytes] | None = None
    try:
        deploy = [sys.executable, "-m", "logitfuse.flows.cli", "deploy", "--folder", str(folder), "--patience", "120"]
        subprocess.run(deploy, env=cluster.environment, check=True)
        command = [*PREFECT, "worker", "start", "--pool", "logitfuse", "--work-queue", "orchestrate", "--name", "head"]
        worker = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log)
        yield cluster
    finally:
        for process in (worker, server):
            if process:
                process.terminate()
                process.wait(60)


def noted(notes: Path) -> list[dict[str, Any]]:
    """Return what captures have noted."""
    return [json.loads(line) for line in notes.read_text().splitlines()]


def overlaps(lines: list[dict[str, Any]]) -> list[int]:
    """Return the shards on which two processes worked at once; one that never ended counts until the next began."""
    spans: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for line in lines:
        if "ended" in line:
            spans[line["shard"]].append((line["began"], line["ended"]))
    found = []
    for shard, times in spans.items():
        ordered = sorted(times)
        if any(later[0] < earlier[1] for earlier, later in pairwise(ordered)):
            found.append(shard)
    return found


def checksums(recipe: Recipe) -> tuple[str, ...]:
    """Return the checksums of a run's captured shards, in order."""
    run = Run(recipe)
    return tuple(run.record(unit).checksum for unit in run.units("capture"))


if __name__ == "__main__":
    main()
