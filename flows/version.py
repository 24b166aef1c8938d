"""`logitfuse --version`: what is installed, asked of the packages' own records, without importing them."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

BESIDE = ("torch", "transformers", "prefect")  # what a report of a defect should name


def versions() -> str:
    """Return the versions of logitfuse, of Python and of the packages that matter most, a line each."""
    return "\n".join([_of("logitfuse"), f"python {platform.python_version()}", *map(_of, BESIDE)])


def _of(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed"


def _show(wanted: bool) -> None:
    if wanted:
        print(versions())
        raise typer.Exit


def begin(
    shows_version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show, help="Show which versions are installed, and exit."),
    ] = False,
) -> None:
    """Take the options that stand before a command."""
