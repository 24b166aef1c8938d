"""The results page: Markdown from the file of results and a hand-written file of words. No number is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from logitfuse.storage.errors import BadInput, LogitfuseError
from logitfuse.tasks.markdown_text import no_markup
from logitfuse.tasks.study.choices import choice_table
from logitfuse.tasks.study.page_tables import (
    contrast_table,
    cost_table,
    domain_table,
    gap_table,
    headroom_table,
    loss_table,
    run_table,
)
from logitfuse.tasks.study.plots import draw_plots
from logitfuse.tasks.study.results_file import read_results

Facts = dict[str, Any]
FIRST, LAST = "first", "last"  # sections of the words that stand before and after all studies
ALT = {
    "contrasts": "Differences with 95% intervals",
    "losses": "Nats per byte by domain",
    "tokens": "Loss over training tokens",
    "headroom": "Headroom of the fused targets",
}


def write_page(results: Path, page: Path, words: Path | None = None) -> list[Path]:
    """Write the page and its plots, in a folder of the page's name beside it; return all files."""
    content = read_results(results)
    if not content["studies"]:
        raise BadInput(f"{results}: it holds no study yet. Run: logitfuse study STUDY --json {results}")
    with _as_written(results):
        return _written(content, results, page, words)


@contextmanager
def _as_written(results: Path) -> Iterator[None]:
    """Let whatever numbers that no study wrote bring about be a `BadInput`; the file has hundreds, in any form."""
    try:
        yield
    except LogitfuseError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{results}: it does not hold what `logitfuse study --json` writes ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}). Make it again with that command; studies that are done are kept."
        ) from error


def _written(content: Facts, results: Path, page: Path, words: Path | None) -> list[Path]:
    spoken = read_words(words, list(content["studies"])) if words else {}
    folder, files = page.with_suffix(""), []
    parts = [
        "# Results",
        f"Made by `logitfuse results {results.name}`: every number below comes from that file.",
        spoken.get(FIRST, ""),
        headline(content),
    ]
    for name, facts in content["studies"].items():
        drawn = draw_plots(facts, folder)
        files += [folder / file for file in drawn]
        parts += [*study_section(facts), *(_image(folder.name, file) for file in drawn), spoken.get(name, "")]
    parts.append(spoken.get(LAST, ""))
    page.write_text("\n\n".join(part.strip() for part in parts if part.strip()) + "\n", encoding="utf-8")
    return [page, *files]


def read_words(path: Path, studies: list[str]) -> dict[str, str]:
    """Return the hand-written words by section: a line `<!-- NAME -->` begins the words for study NAME, first or last.

    Raises `BadInput` for words about a study that is not there.
    """
    try:
        pieces = re.split(r"^<!-- *(\S+) *-->$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from None
    found = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    if unknown := sorted(set(found) - {FIRST, LAST, *studies}):
        known = ", ".join((FIRST, *studies, LAST))
        raise BadInput(f"{path}: words about {', '.join(unknown)}, which is no study of the results. Known: {known}.")
    return found


def headline(content: Facts) -> str:
    """Say what the locked contrast `primary` came to."""
    primary = content["primary"]
    if primary is None:
        return (
            "**The locked test has not been looked at** with the models of these results; what follows is validation."
        )
    effect = "better" if primary["high"] < 0 else "worse" if primary["low"] > 0 else "not told apart"
    return (
        f"**Locked test: {primary['delta']:+.4f} nats per byte** (95%: {primary['low']:+.4f} to "
        f"{primary['high']:+.4f}; {primary['seeds']} paired seeds, {primary['tokens']:,} training tokens): {effect}."
    )


def study_section(facts: Facts) -> list[str]:
    """Return a study's part of the page: tables, and what one must know to judge them."""
    parts = [no_markup(part) for part in (f"## {facts['study']}", facts["about"], _setting(facts))]
    if facts["missing"]:
        parts.append(no_markup(f"Not done yet: {', '.join(facts['missing'])}."))
    tables = [("", loss_table(facts)), (f"Contrasts, {facts['split']}", contrast_table(facts["contrasts"]))]
    if facts["locked"]:
        tables.append((f"Contrasts, {facts['locked']['split']} (locked)", contrast_table(facts["locked"]["contrasts"])))
        tables.append((f"The same by domain, {facts['locked']['split']}", domain_table(facts["locked"]["contrasts"])))
    tables += [("By domain", domain_table(facts["contrasts"])), ("Token multiple", no_markup(multiple_line(facts)))]
    tables += [("Share of the gap to the best source or ensemble that is closed", gap_table(facts["gaps"]))]
    tables += [("Headroom, choice by choice", choice_table(facts["headroom"]))]
    tables += [("Headroom before training", headroom_table(facts["headroom"])), ("Runs", run_table(facts))]
    tables += [("What it cost", cost_table(facts))]
    parts += [f"### {no_markup(title)}\n\n{table}" if title else table for title, table in tables if table]
    return [*parts, *(f"> **Caution.** {no_markup(line)}" for line in cautions(facts))]


def _setting(facts: Facts) -> str:
    text = facts.get("text", {})
    held_out = "; ".join(
        f"{split}: {sum(counts.values()):,} documents" for split, counts in text.get("documents", {}).items()
    )
    overlap = "; ".join(
        f"{split}: at most {max(shares.values()):.2%} of a domain's 13-word runs stand in the training text"
        for split, shares in text.get("overlap_13_words", {}).items()
        if shares
    )
    scale = "" if facts["scale"] == 1 else f" Scale {facts['scale']:g}."
    seeds = ", ".join(map(str, facts["seeds"]))
    return (
        f"Base recipe `{facts['recipe']}`; seeds {seeds}; {facts['hardware']}, Python {facts['python']}.{scale} "
        f"Documents: {held_out}. Overlap that is left: {overlap or 'not measured'}."
    )


def multiple_line(facts: Facts) -> str:
    """Say how many times the tokens plain training needs."""
    found = facts["token_multiple"]
    if not found:
        return ""
    value, low, high = (
        end if isinstance(end, str) else f"{end:.2f}" for end in (found["value"], found["low"], found["high"])
    )
    return f"Plain training needs **{value} times** the tokens (95%: {low} to {high}) for the loss of {found['of']}."


def cautions(facts: Facts) -> list[str]:
    """Say what must be known before the numbers are believed."""
    locked, text = facts["locked"], facts.get("text", {})
    found = [locked["caution"]] if locked and locked["caution"] else []
    if few := text.get("few_documents"):
        found.append(f"Fewer than 30 documents: {', '.join(few)}; their own numbers say little.")
    found += [f"{run['variant']}, seed {run['seed']}: {note}" for run in facts["runs"] for note in run["notes"]]
    return found


def _image(folder: str, file: str) -> str:
    kind = file.removesuffix(".svg").rpartition("-")[2]
    return f"![{ALT[kind]}]({folder}/{file})"
