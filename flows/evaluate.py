"""`logitfuse evaluate`: any models on the same text, and on suites, without a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from logitfuse.flows.json_answers import answer
from logitfuse.flows.options import JsonFileOption, JsonOption, QuietOption, VerboseOption
from logitfuse.flows.show import bars, console, errors, warn_of_code
from logitfuse.flows.written_file import write_json
from logitfuse.storage.errors import BadInput

if TYPE_CHECKING:
    from logitfuse.flows.show import Bars
    from logitfuse.tasks.model_comparison import Comparison
    from logitfuse.tasks.suites_settings import SuiteSettings

Row = dict[str, Any]


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Folders, hub ids or package:NAME; LABEL=MODEL names one.")],
    text: Annotated[str | None, typer.Option(help="A file, folder or glob; all of its documents are scored.")] = None,
    corpus: Annotated[
        str | None, typer.Option(help="A corpus as recipes name it; its held-out part is scored.")
    ] = None,
    split: Annotated[str, typer.Option(help="The held-out part of --corpus: validation or test.")] = "validation",
    documents: Annotated[int | None, typer.Option(min=1, help="At most this many documents.")] = None,
    suites: Annotated[str, typer.Option(help="Suites by name, separated by commas: common_sense,bbh, …")] = "",
    tasks: Annotated[str, typer.Option(help="Further tasks of lm-evaluation-harness, separated by commas.")] = "",
    include_path: Annotated[str, typer.Option(help="A folder of task files of your own.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Examples per task.")] = None,
    execute_generated_code: Annotated[
        bool, typer.Option("--execute-generated-code", help="Let code tasks run what the model wrote (in a child).")
    ] = False,
    dtype: Annotated[Literal["bfloat16", "float32"], typer.Option(help="Precision of the models.")] = "bfloat16",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where models compute.")] = "auto",
    folder: Annotated[Path, typer.Option(help="Where results are kept, so that nothing is computed twice.")] = Path(
        "runs/evaluations"
    ),
    as_json: JsonOption = False,
    json_file: JsonFileOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare any models on the same held-out text and on benchmark suites; differences are against the first.

    Example: logitfuse evaluate package:smollm2-135m my/model --text held-out.jsonl --suites common_sense --limit 100
    """
    from logitfuse.tasks.corpus.settings import CorpusSettings
    from logitfuse.tasks.model_comparison import compare, whole_text
    from logitfuse.tasks.suites import check_suites

    asked = _suites(suites, tasks, include_path, limit, execute_generated_code)
    if (text is None) == (corpus is None) and (text is not None or not asked.wanted):
        raise BadInput(
            "logitfuse evaluate: give --text FILE or --corpus NAME, or only --suites, --tasks, --include-path."
        )
    warn_of_code(asked.code_that_runs)
    check_suites(asked)
    settings = whole_text(text, documents) if text is not None else None
    if corpus is not None:
        settings = CorpusSettings(source=corpus, held_out_documents=documents)
    found = compare(models, folder=folder, corpus=settings, split=split, dtype=dtype, device=device, suites=asked)
    with bars() as shown:
        _run(found, shown)
    facts = _facts(found, asked)
    if json_file is not None:
        write_json(json_file, facts, errors)
    if as_json:
        answer(facts)
    else:
        _show(facts)


def _suites(names: str, tasks: str, include_path: str, limit: int | None, execute: bool) -> SuiteSettings:
    from pydantic import ValidationError

    from logitfuse.tasks.settings_errors import explain
    from logitfuse.tasks.suites_settings import SuiteSettings

    content = {
        "names": [name.strip() for name in names.split(",") if name.strip()],
        "tasks": [name.strip() for name in tasks.split(",") if name.strip()],
        "include_path": include_path,
        "limit": limit,
        "execute_generated_code": execute,
    }
    try:
        return SuiteSettings.model_validate(content)
    except ValidationError as error:
        raise BadInput(f"--suites: {explain(error, SuiteSettings)}") from None


def _run(comparison: Comparison, shown: Bars) -> None:
    from logitfuse.flows.execute import summary
    from logitfuse.tasks.model_comparison import run_comparison

    for unit, outcome in run_comparison(comparison, lambda unit: shown.report(str(unit), "tokens"), shown.say):
        shown.finish(str(unit), summary(unit, outcome))


def _facts(comparison: Comparison, asked: SuiteSettings) -> dict[str, Any]:
    from logitfuse.tasks.model_comparison import loss_rows, suite_rows

    facts: dict[str, Any] = {"models": [model.label for model in comparison.models]}
    if comparison.with_text:
        facts["loss"] = loss_rows(comparison)
    if asked.wanted:
        facts["suites"], facts["differences"] = suite_rows(comparison)
    return facts


def _show(facts: dict[str, Any]) -> None:
    from logitfuse.flows.suites_table import suites_table

    if "loss" in facts:
        console.print(loss_table(facts["loss"]))
    if "suites" in facts:
        console.print(suites_table(facts["suites"], facts["differences"]))


def loss_table(rows: list[Row]) -> Table:
    """A row per domain, a column per model: nats per byte with its interval, and the difference from the first."""
    table = Table(title="Nats per byte over identical bytes (lower is better), 95% intervals by document")
    table.add_column("domain")
    for model in dict.fromkeys(row["model"] for row in rows):
        table.add_column(escape(model), justify="right")
    for domain in dict.fromkeys(row["domain"] for row in rows):
        mine = [row for row in rows if row["domain"] == domain]
        name = f"{escape(domain)}\n[dim]{mine[0]['documents']} documents[/dim]"
        table.add_row(name, _cell(mine[0], first=True), *(_cell(row, first=False) for row in mine[1:]))
    return table


def _cell(row: Row, *, first: bool) -> str:
    text = f"{row['nats_per_byte']:.4f}\n[dim]{row['low']:.3f}–{row['high']:.3f}[/dim]"
    if first:
        return text
    return f"{text}\n{row['difference']:+.4f}\n[dim]{row['difference_low']:+.4f} to {row['difference_high']:+.4f}[/dim]"
