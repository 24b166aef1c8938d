"""The server's database: PostgreSQL by its URL, whose password stays off command lines, logs and terminals."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

OPTION = "--database-url"
VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"  # Prefect's own
EXAMPLE = "postgresql+asyncpg://USER:PASSWORD@HOST:5432/DATABASE"
SECONDS_TO_CONNECT = 15


def hide_from_command_line(url: str) -> None:
    """Start this process anew with `url` in its environment, if it is on its command line, which all users can read."""
    rest = without_option(sys.orig_argv, OPTION)
    if len(rest) < len(sys.orig_argv):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *rest[1:]], os.environ | {VARIABLE: url})


def without_option(arguments: list[str], option: str) -> list[str]:
    """Return the arguments without `option VALUE` and `option=VALUE`."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument != option and not argument.startswith(f"{option}="):
            kept.append(argument)
        skip = argument == option and not skip
    return kept


class Database:
    """A database that a Prefect server can use; raises `BadInput` for a URL that is none."""

    def __init__(self, url: str) -> None:
        self._url = _parsed(url)

    @property
    def url(self) -> str:
        """The URL with its password: for the server's environment, and nowhere else."""
        return self._url.render_as_string(hide_password=False)

    def __str__(self) -> str:
        if self._url.drivername.startswith("sqlite"):
            return f"SQLite, {self._url.database}"
        port = f":{self._url.port}" if self._url.port else ""
        return f"PostgreSQL, database {self._url.database} at {self._url.host or 'localhost'}{port}"

    def without_password(self, text: str) -> str:
        """Return `text` with the password blotted out, as it is and as it stands in the URL."""
        password = self._url.password
        if password:
            written = self.url.partition("://")[2].rpartition("@")[0].partition(":")[2]
            for secret in {str(password), written} - {""}:
                text = text.replace(secret, "***")
        return text

    def check(self) -> None:
        """Connect once, as the server will; raise `BadInput` that says why it cannot."""
        try:
            asyncio.run(self._connect())
        except Exception as error:  # of the driver, of SQLAlchemy, of the network
            why = self.without_password(f"{error}".splitlines()[0] if f"{error}" else type(error).__name__)
            raise BadInput(
                f"the database cannot be used ({self}): {why}. Create it (createdb --owner USER DATABASE), start it, "
                f"or correct {OPTION} {EXAMPLE} or ${VARIABLE}."
            ) from None  # its traceback may show the password

    async def _connect(self) -> None:
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = create_async_engine(self._url)
        try:
            async with asyncio.timeout(SECONDS_TO_CONNECT), engine.connect() as connection:
                await connection.execute(text("select 1"))
        finally:
            await engine.dispose()


def _parsed(given: str) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(given)
    except (ArgumentError, ValueError):  # their messages show the URL
        raise BadInput(f"{OPTION}: no database URL. Write {EXAMPLE}; in PASSWORD, @ is %40, / is %2F.") from None
    if url.drivername in ("postgresql", "postgres", "postgresql+asyncpg"):
        if not url.database:
            raise BadInput(f"{OPTION}: it names no database. Write {EXAMPLE}.")
        return url.set(drivername="postgresql+asyncpg")
    if url.drivername == "sqlite+aiosqlite":
        return url
    raise BadInput(f"{OPTION} {url.drivername}://…: Prefect's server stores in PostgreSQL or SQLite. Write {EXAMPLE}.")
