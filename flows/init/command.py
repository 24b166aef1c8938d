"""`logitfuse init`: write a recipe to begin with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from logitfuse.flows.init.recipe_text import Answers, recipe_text
from logitfuse.flows.init.sizes import Model, Place, Sizes, Text, fits, suitable
from logitfuse.flows.show import console, errors
from logitfuse.flows.typed_recipe import typed
from logitfuse.flows.written_file import write_text
from logitfuse.storage.errors import BadInput
from logitfuse.storage.yaml_text import parse_yaml

NOT_LOOKED_AT = Text(MOST := 100_000, MOST * 4096, counted=False)


def init(
    target: Annotated[
        str | None, typer.Option(help="The model that is trained: a folder, hub id or package:NAME.")
    ] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--source", help="A model to learn from. May be repeated.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="The text: a file, a folder, a hub id, or package:demo.")] = None,
    text_column: Annotated[str, typer.Option(help="Column that holds a document's text.")] = "text",
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: the target's, and -fused.")] = None,
    out: Annotated[Path | None, typer.Option(help="The recipe to write. Default: the run's name, and .yaml.")] = None,
    folder: Annotated[str, typer.Option(help="Where runs lie: a folder, or s3://bucket/folder.")] = "runs",
    control: Annotated[bool, typer.Option(help="Also train a control on the labels alone.")] = True,
    check: Annotated[bool, typer.Option(help="Look at models and text first, and refuse what `run` would.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented recipe for models and text of your own, with sizes that suit this machine.

    Asks in a terminal, unless models and text are given. Examples: logitfuse init ·
    logitfuse init --target package:smollm2-135m --source package:gemma3-270m --corpus texts/ --out my.yaml
    """
    if out is not None:
        _refuse_standing(out, force)
    if target is None and not sources and corpus is None and _is_asked_in_a_terminal():
        answers, content = _with_a_free_name(*_asked(name, folder, control, check), check)
    else:
        answers, known, text = _given(target, sources, corpus, text_column, name, folder, control, check)
        _refuse_standing(out or Path(f"{answers.name}.yaml"), force)
        content = _written(answers, known, text, check)
    file = out or Path(f"{answers.name}.yaml")
    _refuse_standing(file, force)
    write_text(file, content)
    named = typed(str(file))
    following = f"Next: logitfuse plan {named} tells what it will cost; then logitfuse run {named}"
    console.print(following, highlight=False, markup=False, soft_wrap=True)


def _is_asked_in_a_terminal() -> bool:
    return sys.stdin.isatty()


def _refuse_standing(file: Path, force: bool) -> None:
    if file.exists() and not force:
        raise BadInput(f"{file} is there already. Give another --out, or --force to write over it.")


Found = tuple[Answers, dict[str, Model], Text | None]


def _asked(name: str | None, folder: str, control: bool, check: bool) -> Found:
    from logitfuse.flows.init.asking import ask_models, ask_name, ask_text

    target, sources, known = ask_models(check)
    corpus, column, text = ask_text(check)
    return Answers(name or ask_name(target), target, sources, corpus, column, control, folder), known, text


def _with_a_free_name(answers: Answers, known: dict[str, Model], text: Text | None, check: bool) -> tuple[Answers, str]:
    """Return the recipe's text, under another name where another run has that folder already."""
    from logitfuse.flows.init.asking import ask_name, told

    while True:
        try:
            return answers, _written(answers, known, text, check)
        except BadInput as error:
            if not str(error).startswith("run folder"):
                raise
            told(error)
            answers = replace(answers, name=ask_name(answers.target))


def _given(
    target: str | None,
    sources: list[str] | None,
    corpus: str | None,
    column: str,
    name: str | None,
    folder: str,
    control: bool,
    check: bool,
) -> Found:
    from logitfuse.flows.init.asking import default_name
    from logitfuse.flows.init.looks import look_at_model

    needed = {"--target MODEL": target, "--source MODEL": sources, "--corpus TEXT": corpus}
    if missing := [option for option, value in needed.items() if not value]:
        raise BadInput(
            f"logitfuse init: {', '.join(missing)} is missing. Give it; in a terminal, init without options asks."
        )
    assert target and sources and corpus
    answers = Answers(name or default_name(target), target, sources, corpus, column, control, folder)
    _recipe(recipe_text(answers, suitable(NOT_LOOKED_AT, Model(), Place())))  # names and urls first: they cost nothing
    known = {model: look_at_model(model) if check else Model() for model in dict.fromkeys([target, *sources])}
    return answers, known, _text(answers) if check else None


def _text(answers: Answers) -> Text:
    from logitfuse.flows.init.looks import look_at_text
    from logitfuse.tasks.corpus.documents import BadColumn
    from logitfuse.tasks.corpus.settings import CorpusSettings

    try:
        return look_at_text(CorpusSettings(source=answers.corpus, text_column=answers.text_column))
    except BadColumn as error:  # it names the recipe's field, and what was given here is an option
        raise error.advising("--text-column") from error


def _written(answers: Answers, known: dict[str, Model], text: Text | None, check: bool) -> str:
    """Return the recipe's text, which `run` will accept."""
    from logitfuse.flows.init.looks import check_recipe, look_at_machine

    place, target = look_at_machine(), known[answers.target]
    sizes = suitable(text or NOT_LOOKED_AT, target, place, list(known.values()))
    if warning := fits(target, [known[source] for source in answers.sources], place):
        errors.tell(f"WARNING: {warning}.")
    content = recipe_text(answers, sizes, _about(known, text, place, sizes))
    recipe = _recipe(content)
    if check:
        check_recipe(recipe)
    return content


def _about(known: dict[str, Model], text: Text | None, place: Place, sizes: Sizes) -> list[str]:
    """Return what the sizes were chosen for, as lines."""
    from logitfuse.flows.init.looks import parameters_said

    lines = [", ".join(f"{name}: {said}" for name, said in zip(known, parameters_said(known.values()), strict=True))]
    if text is not None:
        lines.append(
            f"{'' if text.counted else 'At least '}{text.documents:,} documents, {text.bytes / 1e6:,.1f} MB of text."
        )
    where = f"{place.gpus} GPUs of {place.gpu_gb:.0f} GB" if place.gpus else "a machine without a GPU"
    return [*(line for line in lines if line.isprintable()), f"Sizes suit {where}."]


def _recipe(content: str):  # type: ignore[no-untyped-def]  # Recipe, which takes seconds to import
    from logitfuse.tasks.recipe import parse_recipe

    return parse_recipe(parse_yaml(content), "the recipe")
