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
FEW_POSITIONS = 100  # fewer are shown, never judged
MANY_RULED_OUT = 0.001

# A row: split, subject (fused, or a source's label), domain, class; positions, taught (those with a target), compared
# (of these, those whose true token the target does not rule out); student and targets (mean nats of the true token
# where taught), difference (targets less student; below 0 is headroom), ruled_out (share of taught), elsewhere (the
# difference where compared). A mean over a ruled-out position is infinite: targets and difference are None then, as
# they are where nothing is taught.
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
    student = found.own / found.taught if found.taught else found.own_anywhere / max(found.positions, 1)
    targets = found.targets / found.taught if found.taught and not found.ruled_out else None
    return {
        "split": split,
        "subject": subject,
        "domain": domain,
        "class": kind,
        "positions": int(found.positions),
        "taught": int(found.taught),
        "compared": int(found.compared),
        "student": student,
        "targets": targets,
        "difference": None if targets is None else targets - student,
        "ruled_out": found.ruled_out / found.taught if found.taught else 0.0,
        "elsewhere": (found.targets - found.own_compared) / found.compared if found.compared else None,
    }


def pick_rows(rows: list[Row], **wanted: str) -> list[Row]:
    """Return the rows with these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def warnings(rows: list[Row]) -> list[str]:
    """Say where the fused targets are worse than the student they are to teach, the gravest first."""
    fused = pick_rows(rows, subject=FUSED)
    overall = pick_rows(fused, domain=ALL, **{"class": ALL})
    return [
        *(_ruled_out(row) for row in overall if rules_out(row)),
        *(_worse_overall(row) for row in overall if not rules_out(row) and _is_worse(row, 0.0)),
        *_worse_parts(fused, "domain", 0.0),
        *_worse_parts(fused, "class", MUCH_WORSE),
        *(_too_few(row) for row in overall if row["taught"] < FEW_POSITIONS),
    ]


def rules_out(row: Row) -> bool:
    """Return whether true tokens are ruled out too often to be an accident: the targets are infinitely worse."""
    return bool(row["taught"] >= FEW_POSITIONS and row["ruled_out"] > MANY_RULED_OUT)


def _is_worse(row: Row, by: float) -> bool:
    """Return whether the targets lose more than `by` nats: a few accidents aside, which `elsewhere` leaves out."""
    return rules_out(row) or bool(row["compared"] >= FEW_POSITIONS and row["elsewhere"] > by)


def _ruled_out(row: Row) -> str:
    return (
        f"On held-out text ({row['split']}) the fused targets are worse than the target model itself: they rule out "
        f"the true token at {row['ruled_out']:.1%} of the positions they teach, where their loss is infinite and no "
        "gain elsewhere makes up for it. Set train.residual to 'bucket', which spreads what a target leaves out over "
        "the other tokens, or capture more with a larger capture.k."
    )


def _worse_overall(row: Row) -> str:
    student, elsewhere = row["student"], row["elsewhere"]
    return (
        f"On held-out text ({row['split']}) the fused targets predict the true tokens worse than the target model "
        f"itself does: {student + elsewhere:.3f} against {student:.3f} nats per token. Learning from them will cost "
        "more than it gives. Try another map, alignment or fusion rule, a larger capture.k, or other sources."
    )


def _worse_parts(fused: list[Row], part: str, by: float) -> list[str]:
    other = {"domain": "class", "class": "domain"}[part]
    rows = [row for row in pick_rows(fused, **{other: ALL}) if row[part] != ALL]
    found = []
    for split in dict.fromkeys(row["split"] for row in rows):
        worse = [f"{row[part]} ({_by_how_much(row)})" for row in pick_rows(rows, split=split) if _is_worse(row, by)]
        if worse:
            called = "on" if part == "domain" else "where the next token is"
            found.append(f"On {split} text the fused targets lose to the target model {called}: {', '.join(worse)}.")
    return found


def _by_how_much(row: Row) -> str:
    return f"{row['ruled_out']:.1%} ruled out" if rules_out(row) else f"{row['elsewhere']:+.2f}"


def _too_few(row: Row) -> str:
    return (
        f"Whether the fused targets are better than the target model is not known: only {row['taught']} positions of "
        f"held-out text ({row['split']}) are taught, too few to tell. Hold out more text (corpus.held_out_share)."
    )
