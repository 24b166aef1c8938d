"""The tables of the results page, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from logitfuse.tasks.headroom_table import rules_out
from logitfuse.tasks.markdown_text import no_markup
from logitfuse.tasks.results import MEAN
from logitfuse.tasks.study.plots import MOST_ROWS, losses_by_variant, overall

Facts = dict[str, Any]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the first column is text, the others numbers. No rows give no table."""
    lines = [" | ".join(map(no_markup, row)) for row in rows]
    if not lines:
        return ""
    ruler = "|".join(["---"] + ["---:"] * (len(head) - 1))
    return "\n".join([f"| {' | '.join(map(no_markup, head))} |", f"|{ruler}|", *(f"| {line} |" for line in lines)])


def loss_table(facts: Facts) -> str:
    """A row per variant: nats per byte by domain, seeds averaged, with their spread for the mean."""
    losses = losses_by_variant(facts)
    if not losses:
        return ""
    domains = list(next(iter(losses.values())))
    best = {domain: min(found[domain] for found in losses.values()) for domain in domains}
    rows = []
    for variant, found in losses.items():
        cells = [f"**{found[d]:.4f}**" if found[d] == best[d] else f"{found[d]:.4f}" for d in domains]
        cells[0] += _spread(facts, variant)
        rows.append([variant, *cells])
    return markdown_table([f"nats per byte, {facts['split']}", *domains], rows)


def _spread(facts: Facts, variant: str) -> str:
    values = [run["nats_per_byte"][MEAN] for run in facts["runs"] if run["variant"] == variant]
    return f" ± {np.std(values, ddof=1):.4f} ({len(values)})" if len(values) > 1 else ""


def contrast_table(contrasts: Sequence[Facts]) -> str:
    """A row per contrast: the difference with its interval, p-values, seeds, documents."""
    head = ["contrast", "Δ nats per byte", "95%", "t over seeds", "bootstrap", "p", "p (Holm)", "seeds", "documents"]
    rows = []
    for row in contrasts:
        name = f"{row['of']} − {row['against']}"
        rows.append(
            [
                f"**{name}** (primary)" if row["primary"] else name,
                f"{row['delta']:+.4f}",
                _interval((row["low"], row["high"])),
                _interval(row["t_interval"]),
                _interval(row["bootstrap_interval"]),
                f"{row['p']:.4f}",
                f"{row['p_holm']:.4f}" if "p_holm" in row else "",
                str(len(row["seeds"])),
                str(row["documents"]),
            ]
        )
    return markdown_table(head, rows)


def domain_table(contrasts: Sequence[Facts]) -> str:
    """A row per contrast, a column per domain; an asterisk where there are few documents."""
    if not contrasts or len(contrasts[0]["domains"]) < 2:
        return ""
    domains = list(contrasts[0]["domains"])
    rows = [
        [f"{row['of']} − {row['against']}", *(_domain_cell(row["domains"][domain]) for domain in domains)]
        for row in contrasts
    ]
    return markdown_table(["Δ nats per byte", *domains], rows)


def _domain_cell(found: Facts) -> str:
    return f"{found['delta']:+.4f} {_interval((found['low'], found['high']))}{' *' if found['few'] else ''}"


def gap_table(gaps: Sequence[Facts]) -> str:
    """A row per variant and domain whose gap is large enough to be shared."""
    rows = [[g["variant"], g["domain"], g["best"], f"{g['gap']:.4f}", f"{g['closed']:.0%}"] for g in gaps]
    return markdown_table(["variant", "domain", "best source or ensemble", "gap", "closed"], rows)


def headroom_table(headroom: Sequence[Facts]) -> str:
    """A row per variant, the best first: fused targets against the student where no true token is ruled out.

    Those that rule out more than an accident stand last: elsewhere they may be good, there their loss is infinite.
    """
    rows = [(found["variant"], row) for found in headroom if (row := overall(found))]
    rows.sort(key=lambda pair: (rules_out(pair[1]), np.inf if pair[1]["elsewhere"] is None else pair[1]["elsewhere"]))
    cells = [
        [
            name,
            f"{row['student']:.3f}",
            "" if row["elsewhere"] is None else f"{row['elsewhere']:+.3f}",
            f"{row['ruled_out']:.2%}",
            f"{row['taught'] / max(row['positions'], 1):.1%}",
        ]
        for name, row in rows
    ]
    head = ["variant", "student", "fused targets less student", "true token ruled out", "taught"]
    more = f"\n\nThe best {MOST_ROWS} of {len(cells)}; the JSON file has all." if len(cells) > MOST_ROWS else ""
    return markdown_table(head, cells[:MOST_ROWS]) + more


def run_table(facts: Facts) -> str:
    """A row per variant: what differs, tokens, steps, seeds."""
    rows = []
    for variant in dict.fromkeys(run["variant"] for run in facts["runs"]):
        runs = [run for run in facts["runs"] if run["variant"] == variant]
        settings = "; ".join(f"`{name}={value}`" for name, value in runs[0]["settings"].items())
        tokens = sorted({run["tokens"] for run in runs if run["tokens"]})
        seeds = [str(run["seed"]) for run in runs if run["seed"] is not None]
        counted = " to ".join(f"{t:,}" for t in dict.fromkeys((tokens[0], tokens[-1]))) if tokens else "–"
        rows.append([variant, settings or "–", counted, ", ".join(seeds) or "–", runs[0]["about"]])
    return markdown_table(["variant", "settings that differ", "training tokens", "seeds", ""], rows)


def cost_table(facts: Facts) -> str:
    """A row per variant: seconds of each stage, averaged over its runs; shared stages stand in every row."""
    stages = list(dict.fromkeys(stage for run in facts["runs"] for stage in run["seconds"]))
    rows = []
    for variant in dict.fromkeys(run["variant"] for run in facts["runs"]):
        runs = [run for run in facts["runs"] if run["variant"] == variant]
        means = [[run["seconds"][stage] for run in runs if stage in run["seconds"]] for stage in stages]
        rows.append([variant, *(f"{np.mean(found):.0f}" if found else "" for found in means)])
    return markdown_table(["seconds", *stages], rows)


def _interval(ends: Sequence[float] | None) -> str:
    return f"[{ends[0]:+.4f}, {ends[1]:+.4f}]" if ends else ""
