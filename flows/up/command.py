"""`logitfuse up`: a Prefect server with everything in it, and a worker, in one terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from logitfuse.flows.up.database import EXAMPLE, OPTION, VARIABLE


def up(
    host: Annotated[str, typer.Option(help="Address to listen at; all but loopback need a password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 4200,
    database_url: Annotated[
        str | None,
        typer.Option(
            OPTION,
            help=f"PostgreSQL, for teams and for many runs: {EXAMPLE}. Default: SQLite in runs/.prefect.",
            metavar="URL",
            envvar=VARIABLE,
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Runs start here; runs/ in it gets their files and Prefect's state.")
    ] = Path(),
    limit: Annotated[
        int | None, typer.Option(help="So many runs at once here, such as the GPUs. Default: no limit.", min=1)
    ] = None,
    worker: Annotated[bool, typer.Option(help="Start a worker, too; without, runs wait for other machines.")] = True,
) -> None:
    """Start Prefect's server, its deployments and a worker; Ctrl-C stops all of it. A second one finds the first.

    Examples: logitfuse up · logitfuse up --port 4300 --limit 2 ·
    logitfuse up --database-url postgresql+asyncpg://me:secret@db.example.org/prefect
    """
    from logitfuse.flows.up.database import Database, hide_from_command_line
    from logitfuse.flows.up.place import chosen_place
    from logitfuse.flows.up.serve import serve

    if database_url:
        hide_from_command_line(database_url)
    place = chosen_place(host, port, folder)
    database = Database(database_url) if database_url else None
    raise typer.Exit(serve(place, database, worker=worker, limit=limit))
