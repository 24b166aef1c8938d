"""A stage's work cut into portions, each for one deployment run on whatever machine takes it."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any

from logitfuse.tasks.unit import Unit


@dataclass(frozen=True)
class Portion:
    """Units of one stage that one run does: a source's shards from the first to the last, or what is not cut."""

    stage: str
    source: str | None
    shards: tuple[int, int] | None  # both included
    units: tuple[Unit, ...]
    rank: int | None = None  # of the host, where several do the same units together

    @property
    def parameters(self) -> dict[str, Any]:
        """What the stage's deployment is given beside the recipe."""
        given: dict[str, Any] = {} if self.source is None else {"source": self.source}
        return given if self.shards is None else given | {"shards": "{}-{}".format(*self.shards)}

    def __str__(self) -> str:
        shards = None if self.shards is None else "{}-{}".format(*self.shards)
        host = None if self.rank is None else f"host-{self.rank}"
        return "/".join(part for part in (self.stage, self.source, shards, host) if part)


def portions(units: Iterable[Unit], shards_per_run: int, takes: Set[str]) -> list[Portion]:
    """Cut units of one stage into portions, in order.

    `takes`: the parameters of the stage's flow; without `source` or `shards` it cannot be cut by them. Borders are
    multiples of `shards_per_run`, whatever is missing: a later attempt cuts as the first one did.
    """
    cut: dict[tuple[str | None, int | None], list[Unit]] = {}
    for unit in units:
        source = unit.source if "source" in takes else None
        block = unit.shard // shards_per_run if unit.shard is not None and "shards" in takes else None
        cut.setdefault((source, block), []).append(unit)
    return [
        Portion(
            chosen[0].stage,
            source,
            None if block is None else (block * shards_per_run, _last(chosen)),
            tuple(chosen),
        )
        for (source, block), chosen in cut.items()
    ]


def by_host(units: Iterable[Unit], hosts: int) -> list[Portion]:
    """Give the same units of a training stage to each of so many hosts, which do them together."""
    chosen = tuple(units)
    return [Portion(chosen[0].stage, None, None, chosen, rank) for rank in range(hosts)] if chosen else []


def _last(units: list[Unit]) -> int:
    return max(unit.shard for unit in units if unit.shard is not None)
