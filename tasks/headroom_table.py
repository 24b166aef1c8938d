"""What headroom found, as rows and as warnings in plain words."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from logitfuse.kernels.headroom import Compared, Tally, TokenClass

FUSED = "fused"
ALL = "all"
CLASS_NAMES = {
    TokenClass.SAME: "same token",
    TokenClass.LONGER: "source longer",
    TokenClass.SHORTER: "source shorter",
    TokenClass.UNKNOWN: "end not known",
    TokenClass.OWN: "own",
    TokenClass.UNSERVED: "not served",
}
MUCH_WORSE = 0.15  # nats; a class may lose a little where the others gain
FEW_POSITIONS = 100  # a class or domain with fewer is shown, never warned about
MANY_RULED_OUT = 0.001

# A row: split, subject (fused, or a source's label), domain, class, positions, taught (those with a target), student
# and targets (mean nats of the true token where taught and not ruled out), difference (targets less student; below 0
# is headroom), ruled_out (share of taught positions whose true token the target excludes).
Row = dict[str, Any]


def table_rows(tally: Tally) -> list[Row]:
    """Return a row per split, subject, domain and class, with the sums over domains and classes as `all`."""
    sums: dict[tuple[str, str, str, str], Compared] = defaultdict(Compared)
    for (split, subject, domain, kind), found in tally.groups.items():
        for at_domain in (ALL, domain):
            for at_class in (ALL, CLASS_NAMES[kind]):
                key = (split, subject, at_domain, at_class)
                sums[key] = Compared(*(np.array(sums[key]) + np.array(found)).tolist())
    order = [ALL, *CLASS_NAMES.values()]
    keys = sorted(sums, key=lambda k: (k[0], k[1] != FUSED, k[1], k[2] != ALL, k[2], order.index(k[3])))
    return [_row(*key, sums[key]) for key in keys]


def _row(split: str, subject: str, domain: str, kind: str, found: Compared) -> Row:
    compared = found.taught - found.ruled_out
    student = found.own / compared if compared else found.own_anywhere / max(found.positions, 1)
    targets = found.targets / compared if compared else None
    return {
        "split": split,
        "subject": subject,
        "domain": domain,
        "class": kind,
        "positions": int(found.positions),
        "taught": int(found.taught),
        "student": student,
        "targets": targets,
        "difference": None if targets is None else targets - student,
        "ruled_out": found.ruled_out / found.taught if found.taught else 0.0,
    }


def pick_rows(rows: list[Row], **wanted: str) -> list[Row]:
    """Return the rows with these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def warnings(rows: list[Row]) -> list[str]:
    """Say where the fused targets are worse than the student they are to teach, the gravest first."""
    fused = pick_rows(rows, subject=FUSED)
    overall = pick_rows(fused, domain=ALL, **{"class": ALL})
    return [
        *(_worse_overall(row) for row in overall if _is_worse(row, 0.0)),
        *(_ruled_out(row) for row in overall if row["ruled_out"] > MANY_RULED_OUT),
        *_worse_parts(fused, "domain", 0.0),
        *_worse_parts(fused, "class", MUCH_WORSE),
    ]


def _is_worse(row: Row, by: float) -> bool:
    return row["difference"] is not None and row["difference"] > by


def _worse_overall(row: Row) -> str:
    return (
        f"On held-out text ({row['split']}) the fused targets predict the true tokens worse than the target model "
        f"itself does: {row['targets']:.3f} against {row['student']:.3f} nats per token. Learning from them will cost "
        "more than it gives. Try another map, alignment or fusion rule, a larger capture.k, or other sources."
    )


def _ruled_out(row: Row) -> str:
    return (
        f"On held-out text ({row['split']}) the fused targets rule out the true token at {row['ruled_out']:.1%} of "
        "their positions; those have infinite loss and are not in the means. The residual rule 'bucket' rules out none."
    )


def _worse_parts(fused: list[Row], part: str, by: float) -> list[str]:
    other = {"domain": "class", "class": "domain"}[part]
    rows = [row for row in pick_rows(fused, **{other: ALL}) if row[part] != ALL and row["positions"] >= FEW_POSITIONS]
    found = []
    for split in dict.fromkeys(row["split"] for row in rows):
        worse = [
            f"{row[part]} ({row['difference']:+.2f})" for row in pick_rows(rows, split=split) if _is_worse(row, by)
        ]
        if worse:
            called = "on" if part == "domain" else "where the next token is"
            found.append(f"On {split} text the fused targets lose to the target model {called}: {', '.join(worse)}.")
    return found
