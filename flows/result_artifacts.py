"""What Prefect's UI shows of a finished run: its result in words and numbers, pictures, and where the report is."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from socket import gethostname
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact

from logitfuse.flows.artifacts import artifact_key
from logitfuse.tasks.markdown_text import plain
from logitfuse.tasks.report import in_short, told_report
from logitfuse.tasks.reporting.formats import percent
from logitfuse.tasks.reporting.headline import gained, headline, what
from logitfuse.tasks.reporting.verdict import answer
from logitfuse.tasks.run import Run

NONE = "–"
MADE = ["fused", "merged", "control", "pair"]  # roles, in the order of the table; all others follow


def publish_result(run: Run, warn: Callable[[str], None]) -> None:
    """Publish a run's report as a text and its plots; a server that cannot take them is warned of."""
    from logitfuse.tasks.reporting.summary_plot import levels_picture, summary_plot, training_plot

    facts, page = told_report(run)
    try:
        said, key = plain(headline(facts)), artifact_key(run.recipe.name, "result")
        create_markdown_artifact(result_text(facts, page), key=key, description=said)
        pictures = {
            "result-by-domain": summary_plot(facts),
            "result-losses": levels_picture(facts),
            "result-training": training_plot(facts),
        }
        for called, image in ((called, image) for called, image in pictures.items() if image):
            url = "data:image/png;base64," + b64encode(image).decode()
            create_image_artifact(url, key=artifact_key(run.recipe.name, called), description=said)
    except Exception as error:  # the server's trouble is not the work's
        warn(f"the result cannot be shown: {type(error).__name__}: {error}. It is in {page}.")


def log_result(run: Run, info: Callable[[str], None]) -> None:
    """Say whether fusing paid, what to heed before believing it, and where the report is."""
    facts, page = told_report(run)
    for line in in_short(facts):
        info(line)
    info(f"The report: {page.resolve()}")


def result_text(facts: dict[str, Any], page: Path) -> str:
    """Return a report's facts as Markdown: the answer, loss by domain and model, warnings, sources, where it is.

    The models that were made come first: a narrow page cuts a table off at its right.
    """
    from logitfuse.tasks.reporting.marks import shown_domain

    models = list(dict.fromkeys((row["model"], row["role"]) for row in facts["results"]))
    models.sort(key=lambda model: MADE.index(model[1]) if model[1] in MADE else len(MADE))
    domains = list(dict.fromkeys(row["domain"] for row in facts["results"]))
    cells = {(row["domain"], row["model"], row["role"]): row for row in facts["results"]}
    said = f"**{plain(answer(facts))}** {plain(f'{what(facts)} {gained(facts)}')}"
    lines = [f"# {plain(facts['run'])}", "", said, "", _where(page), ""]
    lines += ["Held-out nats per byte, lower is better; in brackets 95% intervals by document.", ""]
    lines += [
        _row(["domain", *(model if model == role else f"{model} ({role})" for model, role in models)]),
        "|---" * (len(models) + 1) + "|",
    ]
    lines += [
        _row([shown_domain(domain), *(_cell(cells.get((domain, *model))) for model in models)]) for domain in domains
    ]
    lines += ["", *(f"- {plain(warning)}" for warning in facts["warnings"]), "", *_sources(facts)]
    return "\n".join(lines).strip() + "\n"


def _sources(facts: dict[str, Any]) -> list[str]:
    """Say of each source what reached the target and how many tokens it won."""
    from logitfuse.tasks.reporting.tables import source_rows, winner_rows

    won = dict(zip(facts["fusion"]["weights"], winner_rows(facts)["by_domain"][0]["cells"], strict=True))
    rows = [
        [row["name"], percent(row["served_share"]), percent(row["mass_kept"]), percent(won[row["name"]]["share"])]
        for row in source_rows(facts)
        if row["name"] in won
    ]
    head = ["source", "served", "mass kept", "won"]
    said = "Of the target's tokens, what each source gave:"
    return [said, "", _row(head), "|---" * len(head) + "|", *(_row(row) for row in rows)]


def _where(page: Path) -> str:
    """Say where the report is and how to open it: a page of Prefect's cannot link to a file."""
    host = gethostname()
    return (
        f"The report, one file for a browser, with all plots, domains and costs: `{page.resolve()}` on `{host}`. "
        f"From another machine: `scp {host}:{page.resolve()} .`"
    )


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(plain(cell) for cell in cells) + " |"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["nats_per_byte"] is None:
        return NONE
    interval = "" if row["low"] is None else f" ({row['low']:.3f}–{row['high']:.3f})"
    return f"{row['nats_per_byte']:.4f}{interval}"
