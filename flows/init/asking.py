"""Asking what a new recipe shall be about, in a terminal; a wrong answer is told at once, and asked again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import typer

from logitfuse.flows.init.looks import columns_of, is_an_id, look_at_model, look_at_text
from logitfuse.flows.init.sizes import Model, Text
from logitfuse.flows.show import console, errors
from logitfuse.storage.errors import LogitfuseError
from logitfuse.tasks.model_labels import model_label

Found = TypeVar("Found")


def ask_models(check: bool) -> tuple[str, list[str], dict[str, Model]]:
    """Ask for the target and its sources; return them with what was seen of each."""
    say("Models are local folders, hub ids (owner/name), or package:smollm2-135m and package:gemma3-270m to try.")
    known: dict[str, Model] = {}
    target = _model("Target, the model that is trained", known, check)
    sources: list[str] = []
    while source := _model(
        f"Source {len(sources) + 1}" + (" (empty: no more)" if sources else ""), known, check, empty=bool(sources)
    ):
        sources.append(source)
    return target, sources, known


def _model(question: str, known: dict[str, Model], check: bool, *, empty: bool = False) -> str:
    while True:
        model = str(typer.prompt(question, default="" if empty else None, show_default=False)).strip()
        if not model and empty:
            return ""
        if model in known:
            say(f"{model} is named already.")
            continue
        found = _tried(lambda: look_at_model(model)) if check else Model()  # noqa: B023 - called in this very turn
        if found is not None:
            known[model] = found
            return model


def ask_text(check: bool) -> tuple[str, str, Text | None]:
    """Ask for the corpus, and for its text column where it has none called `text`; return both and what was seen."""
    from logitfuse.tasks.corpus.settings import CorpusSettings

    while True:
        source = str(
            typer.prompt("Text: a .jsonl, .parquet or .txt file, a folder of them, a hub id, or package:demo")
        ).strip()
        if not check:
            return source, "text", None
        settings = _tried(lambda: CorpusSettings(source=source))  # noqa: B023
        if settings is None:
            continue
        columns = columns_of(settings)
        column = "text"
        if columns and "text" not in columns:
            proposed = None if is_an_id(columns[0]) else columns[0]
            column = str(typer.prompt(f"Which column holds the text? ({', '.join(columns)})", default=proposed))
            settings = settings.model_copy(update={"text_column": column})
        if found := _tried(lambda: look_at_text(settings)):  # noqa: B023
            return source, column, found


def ask_name(target: str) -> str:
    """Ask what the run shall be called."""
    return str(typer.prompt("Name of the run and of its folder", default=default_name(target))).strip()


def default_name(target: str) -> str:
    """Return a name for a run with this target."""
    return f"{model_label('', target)}-fused"


def _tried(look: Callable[[], Found]) -> Found | None:
    try:
        return look()
    except (LogitfuseError, ValueError) as error:
        told(error)
        return None


def told(error: Exception) -> None:
    """Print why an answer cannot be taken."""
    errors.print(str(error), style="red", highlight=False, markup=False, soft_wrap=not errors.is_terminal)


def say(line: str) -> None:
    """Print a line."""
    console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)
