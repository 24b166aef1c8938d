"""What a plan knows better than any estimate: the counts in the records of stages that stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfuse.storage.errors import ShardCorrupt, ShardMissing
from logitfuse.tasks.plan.estimates import Estimate, exact
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run


def recorded(run: Run) -> dict[str, Estimate]:
    """Return what the records of stages prepare and encode count, under the names of `Amounts`."""
    found: dict[str, Estimate] = {}
    try:
        shards = run.shards
    except (ShardMissing, ShardCorrupt):
        return found
    for name in ("documents", "chunks", "bytes"):
        found[name] = exact(sum(record.counts[name] for record in shards))
    for split in {split for record in shards for split in record.counts["splits"]}:
        found[f"documents/{split}"] = exact(sum(record.counts["splits"].get(split, 0) for record in shards))
    for label in run.tokenizers:
        try:
            records = [run.record(Unit("encode", label, shard)) for shard in run.shard_numbers]
        except (ShardMissing, ShardCorrupt):
            continue
        found[f"tokens/{label}"] = exact(sum(record.counts["tokens"] for record in records))
    return found
