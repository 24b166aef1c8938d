"""`logitfuse deploy`: put the work pool, the deployments and the automations on a Prefect server."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from logitfuse.flows.show import console
from logitfuse.storage.errors import BadInput, WorkFailed

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL = "logitfuse"  # as prefect.yaml calls it
LINES_OF_A_FAILURE = 15


def deploy(
    folder: Annotated[
        Path, typer.Option(help="Runs start in this folder, so that a relative execution.folder such as runs is in it.")
    ] = Path(),
    patience: Annotated[float, typer.Option(help="Seconds to wait for the server.", hidden=True)] = 0,
) -> None:
    """Create or update everything that a Prefect server needs: work pool, queues, deployments, automations.

    The server is the one of $PREFECT_API_URL. `logitfuse up` does this by itself; this is for a server of your own:
    once, and again after an update of logitfuse. Schedules that were switched on or off stay so.

    Example: PREFECT_API_URL=http://prefect.example.org:4200/api logitfuse deploy --folder /shared/project
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise BadInput(
            "PREFECT_API_URL is not set. For a server of your own: export PREFECT_API_URL=http://HOST:4200/api. "
            "To start one here, which deploys by itself: logitfuse up"
        )
    if not folder.is_dir():
        raise BadInput(f"--folder {folder}: there is no such folder. Create it, or give the one that shall hold runs/.")
    whole = folder.resolve()
    os.environ |= {"PWD": str(whole), "PREFECT_CLI_COLORS": "false"}  # prefect.yaml asks for PWD
    import logitfuse.flows.pipeline  # noqa: F401  # takes seconds, in which a server may be starting

    put_pool_and_automations(patience)
    count = put_deployments()
    console.print(
        f"{os.environ['PREFECT_API_URL']} has {count} deployments, whose runs start in {whole}. "
        f"A worker for them: prefect worker start --pool {POOL}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip


def put_pool_and_automations(patience: float = 0) -> None:
    """Create the work pool if there is none, and the automations; wait so many seconds for the server."""
    import logitfuse.flows.prefect_settings  # noqa: F401

    # isort: split
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    from logitfuse.flows.heartbeats import put_automations

    with get_client(sync_client=True) as client:
        _wait_for(client, patience)
        template = ProcessWorker.get_default_base_job_template()
        with suppress(ObjectAlreadyExists):  # whatever its operators changed of it stays
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        put_automations(client)


def _wait_for(client: SyncPrefectClient, patience: float) -> None:
    deadline = time.monotonic() + patience
    while (error := client.api_healthcheck()) is not None:
        if time.monotonic() > deadline:
            raise BadInput(
                f"no Prefect server answers at {client.api_url}: {error}. Start it, or correct PREFECT_API_URL."
            )
        time.sleep(0.3)


def put_deployments() -> int:
    """Create or update the deployments of the shipped prefect.yaml, for runs in $PWD; return how many.

    That is `prefect deploy --all`, in this process, which has loaded the flows already; but schedules and parameters
    that users have set stay. Raises `WorkFailed`.
    """
    from prefect.cli import app
    from prefect.client.orchestration import get_client
    from yaml import safe_dump, safe_load

    from logitfuse.flows.kept_deployments import as_users_left_them

    said = io.StringIO()
    content = safe_load((files("logitfuse.flows") / "prefect.yaml").read_text())
    with get_client(sync_client=True) as client:
        content["deployments"] = as_users_left_them(client, content["deployments"])
    with TemporaryDirectory() as folder:
        adapted = Path(folder) / "prefect.yaml"
        adapted.write_text(safe_dump(content))
        command = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(adapted)]
        with redirect_stdout(said), _arguments(command):
            try:
                app()
            except SystemExit as ended:
                if ended.code:
                    end = "\n".join(said.getvalue().splitlines()[-LINES_OF_A_FAILURE:])
                    raise WorkFailed(f"`{' '.join(command)}` failed. The end of what it said:\n{end}") from None
    return len(content["deployments"])


@contextmanager
def _arguments(command: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, command
    try:
        yield
    finally:
        sys.argv = before
