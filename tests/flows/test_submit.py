"""`logitfuse submit`: what a server is given, what is refused before it is asked, and how waiting ends."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from command_line import answer, refused
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from logitfuse.flows import submitted
from logitfuse.flows.form import checked_recipe
from logitfuse.flows.heartbeats import NOT_BEGUN
from logitfuse.flows.submitted import followed
from logitfuse.flows.worker_paths import for_worker, not_here
from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.recipe import read_recipe

API = "http://prefect.example.org:4200/api"


def state(kind: str, message: str = "") -> State[Any]:
    return State(type=StateType(kind), name=kind.title(), message=message)


class Server:
    """Prefect's client at its boundary: a server with the pipeline's deployment and the states of its runs to come."""

    api_url = API

    def __init__(self, folder: str | None = "/shared") -> None:
        self.made: list[dict[str, Any]] = []
        self.states: list[State[Any] | Exception] = [state("COMPLETED", "ran prepare to report")]
        self.refuses: Exception | None = None
        self.deployment = SimpleNamespace(
            id=uuid.uuid4(), job_variables={"working_dir": folder} if folder else {}, status=None
        )

    def api_healthcheck(self) -> Exception | None:
        return None

    def read_deployment_by_name(self, name: str) -> Any:
        if self.refuses:
            raise self.refuses
        assert name == "pipeline/pipeline"
        return self.deployment

    def create_flow_run_from_deployment(self, deployment: uuid.UUID, **given: Any) -> Any:
        assert deployment == self.deployment.id
        self.made.append(given)
        return SimpleNamespace(id=uuid.uuid4(), name=given["name"], state=state("SCHEDULED"))

    def read_flow_run(self, run: uuid.UUID) -> Any:
        found = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(state=found)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()

    @contextmanager
    def client(**_: Any) -> Iterator[Server]:
        yield found

    monkeypatch.setattr(submitted, "get_client", client)
    monkeypatch.setattr(submitted, "get_current_settings", lambda: SimpleNamespace(api=SimpleNamespace(url=API)))
    monkeypatch.setattr(submitted, "url_for", lambda run: f"http://prefect.example.org:4200/runs/flow-run/{run.id}")
    return found


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with relative paths, in the folder that it is submitted from."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "models" / "target").mkdir(parents=True)
    content = {
        "name": "mine", "target": {"model": "models/target"}, "sources": [{"model": "owner/name"}, {"model": "./gone"}],
        "corpus": {"source": "*.jsonl"},
    }  # fmt: skip
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "my.yaml"


def test_a_run_gets_the_recipe_as_the_form_would_send_it(server: Server, recipe: Path) -> None:
    told = answer("submit", "my.yaml", "--set", "fuse.rule=avg_ce", "--stop-after", "fuse")
    (given,) = server.made
    assert told.code == 0 and given["name"] == "pipeline-mine" and "runs/flow-run/" in told.out
    assert (given["parameters"]["start_at"], given["parameters"]["stop_after"]) == ("prepare", "fuse")
    seen = checked_recipe(given["parameters"]["recipe"])
    assert seen.fuse.rule == "avg_ce" and seen.corpus.source == str(recipe.parent / "*.jsonl")
    assert seen.target.model == str(recipe.parent / "models" / "target")
    assert [source.model for source in seen.sources] == ["owner/name", "./gone"]
    assert "corpus.source" in told.said and "made absolute" in told.said
    assert "sources.1.model: ./gone is not here" in told.said and "Results: /shared/runs/mine" in told.said


def test_where_workers_start_here_paths_stay(recipe: Path) -> None:
    """A run folder knows its text by how the recipe calls it: `run` and `submit` must call it alike."""
    content = read_recipe("my.yaml").model_dump(mode="json", exclude_defaults=True)
    assert for_worker(content, os.getcwd()) == (content, {})
    assert set(for_worker(content, None)[1]) == {"target.model", "corpus.source"}
    assert set(not_here(content)) == {"sources.1.model"}


def test_bad_input_is_refused_before_the_server_is_asked(server: Server, recipe: Path) -> None:
    for wrong in (["--set", "capture.k=0"], ["--set", "execution.folder=s3://me:hidden@bucket/runs"],
                  ["--start-at", "prepair"], ["--start-at", "fuse", "--stop-after", "map"]):  # fmt: skip
        server.refuses = AssertionError("it was asked")
        assert "hidden" not in refused("submit", "my.yaml", *wrong)
    assert not server.made


def http_error(code: int, detail: str) -> PrefectHTTPStatusError:
    request = httpx.Request("POST", f"{API}/deployments")
    found = httpx.Response(code, json={"detail": detail}, request=request)
    return PrefectHTTPStatusError(detail, request=request, response=found)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ObjectNotFound(Exception()), "has no deployment pipeline/pipeline. Put it there: logitfuse deploy"),
        (http_error(401, "no"), "PREFECT_API_AUTH_STRING"),
        (
            http_error(409, "recipe.capture.x: unexpected"),
            "recipe.capture.x: unexpected). If it was deployed by another",
        ),
        (httpx.ConnectError("refused"), "no Prefect server answers at"),
    ],
)
def test_what_a_server_says_is_told_with_what_to_do(server: Server, recipe: Path, error: Exception, words: str) -> None:
    server.refuses = error
    assert words in refused("submit", "my.yaml")


def test_without_a_server_it_says_how_to_start_one_and_finds_that_of_this_folder(
    server: Server, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setattr(submitted, "get_current_settings", lambda: SimpleNamespace(api=SimpleNamespace(url=None)))
    assert "in another terminal: logitfuse up" in refused("submit", "my.yaml") and not server.made
    state_of_up = recipe.parent / "runs" / ".prefect"
    state_of_up.mkdir(parents=True)
    of_up = {"host": os.uname().nodename, "pid": 1, "url": "", "api": "http://127.0.0.1:4391/api", "folder": "."}
    (state_of_up / "up.json").write_text(json.dumps(of_up))
    assert answer("submit", "my.yaml", "--quiet").code == 0 and len(server.made) == 1


@pytest.mark.parametrize(("kind", "code"), [("COMPLETED", 0), ("FAILED", 2), ("CANCELLED", 2)])
def test_waiting_ends_with_the_runs_end(server: Server, recipe: Path, kind: str, code: int) -> None:
    server.states = [state(kind, "as it went")]
    found = answer("submit", "my.yaml", "--wait", "--json")
    facts = json.loads(found.out)
    assert found.code == code and (facts["state"], facts["message"]) == (kind.lower(), "as it went")
    assert set(facts) == {"name", "id", "page", "api", "place", "absolute", "state", "message"}


def follow(server: Server, *states: State[Any] | Exception) -> tuple[State[Any], list[str]]:
    said: list[str] = []
    server.states, seconds = list(states), iter(range(0, 10_000, 10))
    clock: Callable[[], float] = lambda: float(next(seconds))  # noqa: E731
    return followed(server, uuid.uuid4(), said.append, lambda _: None, clock), said  # type: ignore[arg-type]


def test_a_server_that_is_away_and_a_run_that_comes_back_are_waited_for(server: Server) -> None:
    away = httpx.ConnectError("refused")
    last, said = follow(server, state("RUNNING"), away, away, state("CRASHED", "no heartbeat"), state("RUNNING"),
                        state("COMPLETED", "done"))  # fmt: skip
    assert last.is_completed() and said == [
        "running", "the server does not answer; it is asked again until it does", "crashed: no heartbeat", "running",
        "completed: done",
    ]  # fmt: skip
    assert follow(server, state("CRASHED"))[0].is_crashed(), "one that stays crashed has ended"
    slow = [state("CRASHED", NOT_BEGUN)] * 9
    assert follow(server, *slow, state("FAILED", "no text"))[0].is_failed(), "it was slow to begin"


def test_a_folder_of_another_run_is_refused_here(server: Server, recipe: Path) -> None:
    server.deployment.job_variables["working_dir"] = str(recipe.parent)
    claim_folder(read_recipe("my.yaml", ["corpus.source=other.jsonl"]))
    assert "it was made by other settings: corpus" in refused("submit", "my.yaml") and not server.made
