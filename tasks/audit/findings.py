"""What an audit finds of one source: its numbers, the verdict, and what to do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from logitfuse.storage.records import Record
from logitfuse.tasks.audit.measures import Measures
from logitfuse.tasks.audit.sample import Sampled
from logitfuse.tasks.audit.verdict import Allowance

Verdict = Literal["as captured", "differs", "nothing captured"]
PACKAGES = ("torch", "transformers", "tokenizers")


@dataclass
class SourceAudit:
    """One source: the store, and the model in a batch (`control`), each against the live model alone."""

    source: str
    wanted: int  # shards that the recipe asks for
    standing: int  # shards that are captured
    floor: float  # nats by which capture's own computation may be off
    shards: dict[int, Measures] = field(default_factory=dict)  # of the store, by shard that was looked into
    control: Measures = field(default_factory=Measures)
    live_nats: float = 0.0
    bytes: int = 0
    chunks: int = 0
    domains: Counter[str] = field(default_factory=Counter)
    drawn: int = 0  # tokens of mode sampled, whose numbers are right on average only
    faults: list[str] = field(default_factory=list)  # what cannot be compared
    other_versions: list[str] = field(default_factory=list)

    def count(self, one: Sampled) -> None:
        """Count a chunk that was compared."""
        self.chunks += 1
        self.bytes += one.bytes
        self.domains[one.domain] += 1
        self.drawn += int((one.stored["draws"] > 0).sum())

    @property
    def stored(self) -> Measures:
        whole = Measures()
        for part in self.shards.values():
            whole.join(part)
        return whole

    @property
    def reasons(self) -> list[str]:
        """Return why the store is not what the model predicts, empty where it is."""
        return [*self.faults, *Allowance(self.floor).reasons(self.stored, self.control)]

    @property
    def verdict(self) -> Verdict:
        if not self.standing:
            return "nothing captured"
        return "differs" if self.reasons else "as captured"

    @property
    def odd_shards(self) -> list[int]:
        """Return the shards whose numbers differ, where others' do not; empty where all do, or none does."""
        allowance = Allowance(self.floor)
        odd = [shard for shard, found in self.shards.items() if allowance.odd(found, self.control)]
        return odd if len(odd) < len(self.shards) else []

    def per_token(self) -> dict[str, float]:
        """Return nats per token, end tokens included: as stored, live alone, and live in a batch."""
        return {name: nats / max(self.control.gold.count, 1) for name, nats in self._nats().items()}

    def per_byte(self) -> dict[str, float]:
        """Return the same nats per byte of text."""
        return {name: nats / max(self.bytes, 1) for name, nats in self._nats().items()}

    def _nats(self) -> dict[str, float]:
        return {"stored": self.stored.nats, "live": self.live_nats, "again": self.control.nats}

    def facts(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "source": self.source, "verdict": self.verdict, "reasons": self.reasons,
            "shards": {"wanted": self.wanted, "captured": self.standing, "looked_into": sorted(self.shards),
                       "differing": self.odd_shards},
            "chunks": self.chunks, "domains": dict(sorted(self.domains.items())), "positions": self.control.positions,
            "tokens": self.control.gold.count, "bytes": self.bytes, "drawn_tokens_not_compared": self.drawn,
            "nats_per_token": self.per_token(), "nats_per_byte": self.per_byte(),
            "stored": self.stored.facts(), "control": self.control.facts(), "other_versions": self.other_versions,
        }  # fmt: skip


def advice(found: SourceAudit, recipe: str) -> str:
    """Say what to do about a source that differs."""
    command = f"logitfuse stage capture {recipe} --source {found.source}"
    shards = found.odd_shards
    where = f"Only {_named(shards)} of those looked into. " if shards else ""
    captured = f"It was captured with {', '.join(found.other_versions)}. " if found.other_versions else ""
    redo = "; ".join(f"{command} --shards {shard} --redo" for shard in shards) or f"{command} --redo"
    return (
        f"{found.source}: {'; '.join(found.reasons)}. {where}{captured}These are not the predictions of this model as "
        "it is read now: damaged or exchanged shards, other weights, another precision or start token, or another "
        "version of a library. If the shards were made on another kind of machine, audit them there before you redo "
        f"them: {redo}"
    )


def _named(shards: list[int]) -> str:
    return ("shard " if len(shards) == 1 else "shards ") + ", ".join(map(str, shards))


def other_versions(records: list[Record]) -> list[str]:
    """Return packages whose version was another one when these shards were made, as `name was (now is)`."""
    found = []
    for package in PACKAGES:
        was = {record.made.get("versions", {}).get(package) for record in records} - {None}
        try:
            now = version(package)
        except PackageNotFoundError:
            continue
        if others := sorted(was - {now}):
            found.append(f"{package} {' and '.join(others)} (now {now})")
    return found
