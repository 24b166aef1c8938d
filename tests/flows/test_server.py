"""A real server, a real worker: deploy everything, run the pipeline from the API, leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from local_postgres import free_port

from logitfuse.flows.prefect_settings import DEFAULTS
from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.execute import do_prepare, do_units, is_up_to_date
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.training.adapt_settings import AdaptSettings
from logitfuse.tasks.unit import Unit

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
PREFECT = [sys.executable, "-m", "prefect"]
BUSY_TRIES = 30  # two seconds apart
PATIENCE = 400.0  # seconds for one flow run: a machine that CI shares is at times three times slower
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Server:
    """A Prefect server with its own database and settings; `folder` is where its runs start."""

    folder: Path
    port: int

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        own = {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PWD": str(self.folder),  # as if `prefect deploy` were called from there
        }
        return inherited | DEFAULTS | own

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a Prefect process that stays."""
        with (self.folder / f"{command[0]}.log").open("wb") as log:
            return subprocess.Popen(
                [*PREFECT, *command], env=self.environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def call(self, *command: str) -> None:
        """Run a Prefect command to its end."""
        done = subprocess.run([*PREFECT, *command], env=self.environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def get(self, path: str) -> Any:
        return self.answer("GET", path).raise_for_status().json()

    def answer(self, method: str, path: str, content: Any = None) -> httpx.Response:
        """Ask the server, again while it says that it is busy (503), as Prefect's own clients do: SQLite is locked."""
        for _ in range(BUSY_TRIES):
            found = httpx.request(method, f"{self.api}{path}", json=content, timeout=60)
            if found.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(2)
        return found

    def create_run(self, deployment: str, parameters: dict[str, Any]) -> httpx.Response:
        found = self.get(f"/deployments/name/{deployment}/{deployment}")
        return self.answer("POST", f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})

    def submitted(self, recipe: Recipe, *options: str) -> dict[str, Any]:
        """Return what `logitfuse submit --wait` answers about a recipe's run."""
        file = self.folder / "submitted.yaml"
        file.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True)))
        command = [sys.executable, "-m", "logitfuse.flows.cli", "submit", file, "--wait", "--json", *options]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def state_after(self, run: httpx.Response, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait for a flow run's final state."""
        assert run.status_code == 201, run.text
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state: dict[str, Any] = self.get(f"/flow_runs/{run.json()['id']}")["state"]
            if state["type"] in FINAL:
                return state
            time.sleep(0.5)
        raise AssertionError(f"still {state['name']} after {seconds} s\n{(self.folder / 'worker.log').read_text()}")

    def processes(self) -> list[str]:
        """Return the command lines of living processes that carry this server's settings."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
            except OSError:
                continue
            if str(self.folder / "prefect").encode() in environment:
                found.append(command.replace(b"\0", b" ").decode())
        return found


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.3)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end as a user would with Ctrl-C, and end it and its group if it does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), free_port())
    process = server.start("server", "start", "--host", "127.0.0.1", "--port", str(server.port))
    try:
        wait_until(lambda: _answers(server), 90, "the server's start")
        server.call("work-pool", "create", "logitfuse", "--type", "process")
        server.call("--no-prompt", "deploy", "--all")
        yield server
    finally:
        stop(process)
    wait_until(lambda: not server.processes(), 30, f"the end of {server.processes()}")


def _answers(server: Server) -> bool:
    try:
        return httpx.get(f"{server.api}/health").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def worker(server: Server) -> Iterator[None]:
    process = server.start("worker", "start", "--pool", "logitfuse", "--name", "test")
    try:
        yield
    finally:
        stop(process)


def test_every_deployment_stands_with_its_queue_and_working_folder(server: Server) -> None:
    found = server.answer("POST", "/deployments/filter", {}).json()
    queues = {deployment["name"]: deployment["work_queue_name"] for deployment in found}
    assert queues == {
        "pipeline": "orchestrate", "prepare": "data", "encode": "data", "check": "capture", "adapt": "train",
        "capture": "capture", "map": "data", "align": "data", "fuse": "data", "headroom": "data", "train": "train",
        "merge": "train", "evaluate": "train", "suites": "train", "report": "data",
        "rebuild-fused": "orchestrate",
    }  # fmt: skip
    for deployment in found:
        assert deployment["enforce_parameter_schema"] is True and not deployment["pull_steps"]
        assert deployment["job_variables"]["working_dir"] == str(server.folder)


def test_the_nightly_schedule_exists_and_is_inactive(server: Server) -> None:
    (schedule,) = server.get("/deployments/name/rebuild-fused/rebuild-fused")["schedules"]
    assert schedule["slug"] == "nightly" and schedule["active"] is False
    assert schedule["schedule"]["cron"] == "0 3 * * *"


@pytest.mark.parametrize(
    "parameters",
    [
        {"recipe": {"capture": {"k": 0}}},
        {"recipe": {"capture": {"kk": 4}}},
        {"recipe": {}, "start_at": "prepair"},
        {"recipe": {"execution": {"device": "tpu"}}},
        {},
    ],
    ids=str,
)
def test_a_bad_parameter_is_refused_by_the_api(server: Server, parameters: dict[str, Any]) -> None:
    assert server.create_run("pipeline", parameters).status_code in (409, 422)


@pytest.mark.usefixtures("worker")
def test_the_pipeline_runs_under_a_worker_and_a_second_run_does_nothing(
    server: Server, tiny_recipe: Callable[..., Recipe]
) -> None:
    given = tiny_recipe()
    target = given.target.model_copy(update={"adapt": AdaptSettings(dtype="fp32", max_steps=2)})
    here = {"folder": "runs", "min_free_gb": 0, "device": "cpu"}
    recipe = tiny_recipe(target=target.model_dump(), execution=here)
    parameters = {"recipe": recipe.model_dump(mode="json")}
    state = server.state_after(server.create_run("pipeline", parameters))
    assert state["type"] == "COMPLETED", state["message"]
    ran = [stage for stage in ORDER if stage not in ("merge", "suites")]  # nothing to do unless asked for
    assert state["message"].startswith(f"ran {', '.join(ran)}")
    here = recipe.model_copy(
        update={"execution": recipe.execution.model_copy(update={"folder": str(server.folder / "runs")})}
    )
    run = Run(here)
    assert is_up_to_date(run) and run.record(Unit("train", "fused")).files

    nightly = server.create_run("rebuild-fused", parameters)
    wrong = server.create_run("capture", parameters | {"source": "nobody"})
    assert server.state_after(nightly)["message"] == "nothing to do: prepare to fuse are up to date"
    state = server.state_after(wrong)
    assert state["type"] == "FAILED" and "there is no such source. Known: first, second" in state["message"]


@pytest.mark.usefixtures("worker")
def test_shards_are_handed_out_to_workers_in_runs(server: Server, tiny_recipe: Callable[..., Recipe]) -> None:
    """One pipeline's run and its runs of fuse, three shards in runs of two, are all that is started."""
    here = {"folder": str(server.folder / "handed-out"), "min_free_gb": 0, "device": "cpu", "shards_per_run": 2}
    recipe = tiny_recipe(execution=here)
    claim_folder(recipe)
    run = Run(recipe)
    for stage in ORDER[: ORDER.index("fuse")]:
        do_prepare(run) if stage == "prepare" else list(do_units(run, run.units(stage)))
    found = server.submitted(recipe, "--start-at", "fuse", "--stop-after", "fuse")
    assert (found["name"], found["state"], found["absolute"]) == ("pipeline-tiny", "completed", {}), found
    pipeline = server.get(f"/flow_runs/{found['id']}")
    started = server.answer("POST", "/flow_runs/filter", {}).json()
    names = {run["name"] for run in started if run["created"] >= pipeline["created"]}
    assert names == {"pipeline-tiny", "fuse-tiny-0-1", "fuse-tiny-2-2"}
    assert is_up_to_date(Run(recipe), ["fuse"])
