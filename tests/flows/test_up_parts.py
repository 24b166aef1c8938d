"""What `logitfuse up` decides before it starts anything, and what it makes of logs."""

import json
import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from logitfuse.flows.up.child import CHILD, UP
from logitfuse.flows.up.database import Database, without_option
from logitfuse.flows.up.place import CLIENT_AUTH, DATABASE, SERVER_AUTH, Place, chosen_place
from logitfuse.flows.up.record import AlreadyUp, check_port, holding, read_record
from logitfuse.flows.up.runs import Serious
from logitfuse.flows.up.service import Service
from logitfuse.storage.errors import BadInput, WorkFailed
from logitfuse.tasks.training.parent import identity

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in (SERVER_AUTH, CLIENT_AUTH, "PREFECT_HOME", DATABASE):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return chosen_place("127.0.0.1", port, tmp_path)


def test_the_wheel_ships_the_prefect_yaml_of_the_repository() -> None:
    assert (ROOT / "flows" / "prefect.yaml").resolve() == ROOT / "prefect.yaml"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:s%40cret@db:5433/prefect", "PostgreSQL, database prefect at db:5433"),
        ("postgresql+asyncpg://me@db/prefect?ssl=require", "PostgreSQL, database prefect at db"),
        ("sqlite+aiosqlite:////tmp/x.db", "SQLite, /tmp/x.db"),
    ],
)
def test_a_database_is_named_without_its_password(given: str, shown: str) -> None:
    database = Database(given)
    assert str(database) == shown
    assert database.url.startswith(("postgresql+asyncpg://me", "sqlite+aiosqlite:"))
    assert "cret" not in database.without_password(f"asked {given}, that is {database.url}")


@pytest.mark.parametrize(
    "given", ["mysql://me:hidden@db/prefect", "postgresql://me:hidden@db", "hidden", "postgresql://me:hidden@db:x/y"]
)
def test_what_is_no_database_is_refused_without_showing_it(given: str) -> None:
    with pytest.raises(BadInput, match="--database-url") as refused:
        Database(given)
    assert "hidden" not in str(refused.value) and "postgresql+asyncpg://USER" in str(refused.value)


def test_an_unreachable_database_is_refused_before_anything_starts() -> None:
    with pytest.raises(BadInput, match=r"database prefect at 127\.0\.0\.1:1") as refused:
        Database("postgresql://me:hidden@127.0.0.1:1/prefect").check()
    assert "hidden" not in str(refused.value)


def test_an_option_is_taken_out_of_a_command_line() -> None:
    command = ["python", "logitfuse", "up", "--database-url", "URL", "--port", "1", "--database-url=URL"]
    assert without_option(command, "--database-url") == ["python", "logitfuse", "up", "--port", "1"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_are_let_in_with_a_password_only(
    place: Place, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=f"export {SERVER_AUTH}=USER:PASSWORD"):
        chosen_place(host, 4200, place.folder)
    monkeypatch.setenv(SERVER_AUTH, "me:hidden")
    open_place = chosen_place(host, 4200, place.folder)
    environment = open_place.environment("1:2")
    assert environment[CLIENT_AUTH] == "me:hidden" and SERVER_AUTH not in environment
    assert open_place.server_environment("1:2", None)[SERVER_AUTH] == "me:hidden"
    monkeypatch.setenv(CLIENT_AUTH, "me:other")
    with pytest.raises(BadInput, match="differ"):
        chosen_place(host, 4200, place.folder)


def test_runs_get_no_secret_of_the_server_and_nothing_of_other_servers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE, "postgresql+asyncpg://me:hidden@db/prefect")
    monkeypatch.setenv("PREFECT_API_KEY", "another's")
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "7")
    environment = place.environment("1:2")
    assert not {DATABASE, "PREFECT_API_KEY"} & environment.keys()
    assert environment["PREFECT_WORKER_QUERY_SECONDS"] == "7", "what a user has set stays"
    assert environment["PREFECT_API_URL"] == place.api and environment[UP] == "1:2"
    assert environment["PREFECT_HOME"] == str(place.folder / "runs" / ".prefect")


def test_a_taken_port_is_refused_with_who_has_it_and_a_free_one(place: Place) -> None:
    check_port(place)
    with socket.socket() as other:
        other.bind((place.host, place.port))
        other.listen()
        with pytest.raises(BadInput, match=f"is taken by process {os.getpid()} .* --port {place.port + 1}"):
            check_port(place)


def test_the_state_is_held_by_one_and_what_a_killed_one_left_is_known(place: Place) -> None:
    with holding(place) as left:
        assert left is None
        record = read_record(place.home)
        assert record is not None and record.pid == os.getpid() and record.api == place.api
        with pytest.raises(AlreadyUp), holding(place):
            pass
        remains = (place.home / "up.json").read_text()
    assert read_record(place.home) is None
    (place.home / "up.json").write_text(json.dumps(json.loads(remains) | {"pid": 4_000_000}))
    with holding(place) as left:
        assert left is not None and left.pid == 4_000_000


def test_a_log_s_errors_are_shown_once_and_without_tracebacks() -> None:
    lines = [
        "12:00:00.000 | INFO    | prefect.worker - nothing", "12:00:01.000 | ERROR   | prefect.x - bad thing 1",
        "Traceback (most recent call last):", "ValueError: bad", "12:00:02.000 | ERROR   | prefect.x - bad thing 2",
        "12:00:03.000 | ERROR   | prefect.y - cannot write", "sqlite3.OperationalError: database is locked",
        "ERROR:    Exception in ASGI application",
    ]  # fmt: skip
    shown = Serious().among(lines)
    assert [line.partition("- ")[2] or line for line in shown[:1]] == ["bad thing 1"]
    assert "PostgreSQL" in shown[1] and shown[2].startswith("ERROR:") and len(shown) == 3


def test_a_process_that_dies_again_and_again_is_given_up_with_the_end_of_its_log(place: Place) -> None:
    place.home.mkdir(parents=True)
    service = Service("worker", ["nowhere_at_all"], place.folder, place.home / "worker.log", dict(os.environ))
    said: list[str] = []

    def die_and_restart() -> None:
        while service.exit_code is None:
            pass
        service.restart_if_dead(said.append)

    service.start()
    die_and_restart()
    die_and_restart()
    with pytest.raises(WorkFailed, match="No module named nowhere_at_all"):
        die_and_restart()
    assert len(said) == 2 and "starting it again" in said[0]


@pytest.mark.parametrize("survived", [False, True])
def test_what_a_killed_service_had_started_is_killed_before_it_starts_again_unless_it_shall_live(
    place: Place, tmp_path: Path, survived: bool
) -> None:
    """A server's API holds its port; a worker's runs go on."""
    place.home.mkdir(parents=True)
    code = (
        "import subprocess, time; print('child', subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    )
    (tmp_path / "starting.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    service = Service("server", ["starting"], place.folder, place.home / "server.log", environment)
    service.survived = survived
    service.start()
    while not (lines := service.new_lines()):
        time.sleep(0.05)
    orphan = psutil.Process(int(lines[0].split()[1]))
    orphan.parent().kill()
    while service.exit_code is None:
        time.sleep(0.05)
    try:
        service.restart_if_dead(lambda line: None)
        gone = psutil.wait_procs([orphan], 5 if not survived else 0.5)[0]
        assert bool(gone) is not survived
    finally:
        service.stop(time.sleep, 0)
        with suppress(psutil.NoSuchProcess):
            orphan.kill()


def test_a_child_dies_with_its_up_however_that_ends(tmp_path: Path) -> None:
    (tmp_path / "sleeping.py").write_text("import time; print('here', flush=True); time.sleep(600)")
    parent = subprocess.Popen(["sleep", "600"])
    environment = os.environ | {
        UP: identity(parent.pid),
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    }
    child = subprocess.Popen([*CHILD, "sleeping"], env=environment, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"here\n"
    parent.kill()
    parent.wait()
    assert child.wait(60) == -9
    child.stdout.close()
