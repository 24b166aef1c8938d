"""`logitfuse up`: everything comes up, a second one finds the first, runs run, and nothing stays behind."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_postgres import PASSWORD, QUOTED, local_postgres, why_not
from local_up import LOGITFUSE, Up, wait_until

from logitfuse.flows.heartbeats import NAME
from logitfuse.tasks.recipe import Recipe

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "project").mkdir()
    started = Up(tmp_path / "project")
    try:
        yield started
    finally:
        if started.process is not None and started.code is None:
            started.stop(signal.SIGTERM)


def test_from_an_empty_folder_to_a_finished_run_and_back(up: Up, tiny_recipe: Callable[..., Recipe]) -> None:
    up.start()
    queues = up.answers("print(json.dumps([q.name for q in client.read_work_queues(work_pool_name='logitfuse')]))")
    assert {"capture", "data", "train", "orchestrate"} <= set(queues)

    second = up.command(*LOGITFUSE, "up")
    assert second.returncode == 0 and f"Prefect is up already: http://127.0.0.1:{up.port}" in second.stdout
    (up.folder / "elsewhere").mkdir()
    third = up.command(*LOGITFUSE, "up", "--folder", "elsewhere", "--port", str(up.port))
    assert third.returncode == 2 and "is taken by the `logitfuse up` of" in " ".join(third.stderr.split())

    here = {"folder": "runs", "min_free_gb": 0, "device": "cpu"}
    parameters = json.dumps({"recipe": tiny_recipe(execution=here).model_dump(mode="json")})
    run = up.command(sys.executable, "-m", "prefect", "deployment", "run", "prepare/prepare", "--params", parameters)
    assert run.returncode == 0, run.stderr
    wait_until(lambda: "prepare-tiny completed: prepare: 3 done" in up.said, lambda: up.said)
    assert list((up.folder / "runs" / "tiny" / "prepare").glob("part-*.parquet"))

    assert up.processes()
    up.stop(signal.SIGKILL)
    wait_until(lambda: not up.processes(), lambda: str(up.processes()))

    up.start()
    assert "was killed; this one takes over" in up.said
    automations = up.answers("print(json.dumps([a.name for a in client.read_automations()]))")
    assert automations.count(NAME) == 1
    assert up.stop(signal.SIGTERM) == 0 and "Stopped." in up.said
    assert not up.processes()


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_postgresql_is_used_and_its_password_is_shown_nowhere(up: Up) -> None:
    with local_postgres() as server:
        missing = up.command(*LOGITFUSE, "up", "--database-url", f"postgresql://{server}/nowhere")
        assert missing.returncode == 2 and "nowhere" in missing.stderr and "does not exist" in missing.stderr
        up.start("--database-url", f"postgresql://{server}/postgres")
        assert "PostgreSQL, database postgres at 127.0.0.1" in up.said
        assert not list((up.folder / "runs" / ".prefect").glob("*.db"))
        commands = "\n".join(path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        logs = "\n".join(path.read_text() for path in (up.folder / "runs" / ".prefect").glob("*.log"))
        for shown in (commands, logs, up.said, missing.stdout, missing.stderr):
            assert PASSWORD not in shown and QUOTED not in shown
        assert up.stop(signal.SIGHUP) == 0
    assert not up.processes()
