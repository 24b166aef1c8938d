"""What the models of a study pay for each held-out document, over the bytes that all of them score."""

# legend: M models, D documents

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from logitfuse.storage.shards import verified_path
from logitfuse.tasks.results import MEAN, gathered

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.storage.store import LocalStore

Floats = NDArray[np.float64]


class Name(NamedTuple):
    """Which model of a study: a variant's, with a seed if it was trained."""

    variant: str
    seed: int | None


@dataclass(frozen=True)
class Scores:
    """Nats [M, D] and bytes [D] of the held-out documents, with the domain of each."""

    names: tuple[Name, ...]
    domains_D: NDArray[np.str_]
    nats_MD: Floats
    bytes_D: Floats

    @cached_property
    def _row(self) -> dict[Name, int]:
        return {name: row for row, name in enumerate(self.names)}

    @property
    def domains(self) -> list[str]:
        """The domains, and `mean` for all text."""
        return [*sorted(set(self.domains_D.tolist())), MEAN]

    def inside(self, domain: str) -> NDArray[np.bool_]:
        """Return which documents are of a domain, [D]; all are of `mean`."""
        return (self.domains_D == domain) | (domain == MEAN)

    def seeds(self, variant: str) -> list[int | None]:
        """Return the seeds that a variant was evaluated with; [None] if nothing of it is trained."""
        return [name.seed for name in self.names if name.variant == variant]

    def nats(self, variant: str, seed: int | None) -> Floats:
        """Return the nats [D] of a variant's model; of an untrained one the same for every seed."""
        row = self._row.get(Name(variant, seed), self._row.get(Name(variant, None)))
        if row is None:
            raise KeyError(f"{variant}, seed {seed} was not evaluated")
        return self.nats_MD[row]

    def nats_per_byte(self, name: Name, domain: str = MEAN) -> float:
        """Return one model's nats per byte in a domain: sums over its documents, as in a run's own table."""
        inside = self.inside(domain)
        return float(self.nats_MD[self._row[name], inside].sum() / self.bytes_D[inside].sum())


def read_scores(evaluated: Sequence[tuple[Name, LocalStore, Record]]) -> Scores:
    """Gather what models were found to pay; results that several share are read once."""
    keys = [f"{record.place}/{record.key}" for _, _, record in evaluated]
    paths = {key: verified_path(store, record) for key, (_, store, record) in zip(keys, evaluated, strict=True)}
    order = {key: m for m, key in enumerate(paths)}
    found = [document for document in gathered(paths).values() if document.bytes]
    nats_SD = np.array([document.nats_S for document in found], np.float64).reshape(len(found), len(paths)).T
    return Scores(
        tuple(name for name, _, _ in evaluated),
        np.array([document.domain for document in found], np.str_),
        nats_SD[[order[key] for key in keys]],
        np.array([document.bytes for document in found], np.float64),
    )
