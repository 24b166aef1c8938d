"""Prefect's temporary server, started so that it lives as long as the run, however that ends."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import logitfuse.flows.prefect_settings  # noqa: F401

# isort: split
import prefect
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

from logitfuse.flows.up.child import CHILD, OWNER
from logitfuse.tasks.training.parent import identity

EPHEMERAL = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class TemporaryServer(SubprocessASGIServer):
    """Prefect's own temporary server, in a session of its own.

    A terminal sends Ctrl-C to all of a command's processes, and `timeout`, Slurm and systemd send SIGTERM to them.
    Were the server among them, Prefect would try for minutes to tell a dead server that the run was interrupted.
    """

    def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
        """Start what Prefect's method of this name starts; it ends with this process even where that is killed."""
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        app = ["--app-dir", str(prefect.__module_path__.parent), "--factory", "prefect.server.api.server:create_app"]
        serve = ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error", "--lifespan", "on"]
        return subprocess.Popen(
            [*CHILD, "uvicorn", *app, *serve],
            env={**os.environ, **EPHEMERAL, **settings, OWNER: identity(os.getpid())},
            start_new_session=True,
        )
