"""What each source gave: whose predictions were kept, for how much of the text, and with how much of their mass."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from logitfuse.storage.shards import Rows, read_batches, verified_path
from logitfuse.tasks.reporting.winners import Winners
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run


def fusion_facts(run: Run) -> dict[str, Any]:
    """Return the sources' shares of the documents, who won how many positions where, and how much is served."""
    labels = list(run.teachers)
    weights: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(labels)))
    documents: dict[str, int] = defaultdict(int)
    records = [run.record(unit) for unit in run.units("fuse") if unit.source is None]  # not those of one source each
    winners = Winners(labels)
    for domain, weights_S in (row for record in records for row in _documents(run, record, winners)):
        weights[domain] += weights_S
        documents[domain] += 1
    return {
        "rule": run.recipe.fuse.rule,
        "shuffled": run.recipe.fuse.shuffled,
        "weights": _shares(labels, sum(weights.values(), np.zeros(len(labels)))),
        "by_domain": {
            domain: {"documents": documents[domain], "weights": _shares(labels, weights[domain])}
            for domain in sorted(weights)
        },
        "winners": winners.facts(),
        **_served(records),
        **_held_back(records),
        "documents": sum(record.counts["documents"] for record in records),
    }


def alignment_facts(run: Run) -> dict[str, dict[str, Any]]:
    """Return for each source the share of target positions it serves, and the mass it keeps there."""
    found = {}
    for label in run.teachers:
        captured = [run.record(Unit("capture", label, shard)) for shard in run.shard_numbers]
        beyond = sum(record.counts["beyond_context"] for record in captured)
        read = beyond + sum(record.counts["positions"] for record in captured)
        aligned = [run.record(Unit("align", label, shard)) for shard in run.shard_numbers]
        found[label] = {**_served(aligned), "beyond_context_share": beyond / read if read else 0.0}
    return found


def _served(records: list[Record]) -> dict[str, Any]:
    positions, served, mass = (sum(r.counts[name] for r in records) for name in ("positions", "served", "mass"))
    return {
        "positions": positions,
        "served_share": served / positions if positions else 0.0,
        "mass_kept": mass / served if served else 0.0,
    }


def _held_back(records: list[Record]) -> dict[str, float]:
    """Return the share of the positions whose target was not worth learning from, where the recipe asks that."""
    if not any("held_back" in record.counts for record in records):
        return {}
    positions, held = (sum(record.counts[name] for record in records) for name in ("positions", "held_back"))
    return {"held_back_share": held / positions if positions else 0.0}


def _shares(labels: list[str], weights_S: np.ndarray) -> dict[str, float]:
    total = weights_S.sum()
    return {label: float(w / total) if total else 0.0 for label, w in zip(labels, weights_S, strict=True)}


def _documents(run: Run, record: Record, winners: Winners) -> Iterator[tuple[str, np.ndarray]]:
    """Yield domain and weights [S] of each document of a fused shard, the same in all its chunks; count winners."""
    before = None
    for batch in read_batches(verified_path(run.store, record), ["doc_id", "domain", "winner", "weights"]):
        rows = Rows(batch)
        for row in range(len(rows)):
            winners.add(rows.value("domain", row), rows.values("winner", row))
            if (document := rows.value("doc_id", row)) != before:
                before = document
                yield rows.value("domain", row), rows.values("weights", row).astype(np.float64)
