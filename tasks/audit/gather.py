"""Gathering the sample of one source from its shards; what cannot be read or compared is told instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from logitfuse.kernels.positions import NO_LABEL
from logitfuse.storage.arrow_errors import UNREADABLE
from logitfuse.storage.errors import ShardCorrupt, ShardMismatch
from logitfuse.storage.records import Record
from logitfuse.tasks.audit.rounding import Rounding
from logitfuse.tasks.audit.sample import Sampled, ShardFiles, choose, read_sample, shares
from logitfuse.tasks.models.source import Source
from logitfuse.tasks.unit import Unit
from logitfuse.tasks.verify.faults import ShardFaults
from logitfuse.tasks.verify.plans import captured_reader, once_compact
from logitfuse.tasks.verify.shard import check_files
from logitfuse.tasks.verify.standing import StandingRun


class Gathering:
    """The sampled chunks of one source; `faults` fills while they are read."""

    def __init__(self, run: StandingRun, source: Source) -> None:
        self._run, self._source = run, source
        self._reader = captured_reader(run, source)
        self.faults: list[str] = []

    def sample(self, records: Mapping[int, Record], documents: int, seed: int) -> Iterator[Sampled]:
        """Yield a chunk of each of some documents of captured shards, as evenly as shards and domains allow."""
        domains, missing = Counter[str](), 0
        for (shard, record), share in zip(records.items(), shares(documents, len(records)), strict=True):
            wanted = share + missing
            count = 0
            for one in self._shard(shard, record, wanted, domains, seed):
                count += 1
                yield one
            missing = wanted - count

    def _shard(self, shard: int, record: Record, documents: int, domains: Counter[str], seed: int) -> Iterator[Sampled]:
        try:
            if (files := self._files(shard, record)) is None:
                return
            for one in read_sample(files, self._reader, choose(files.prepared, documents, domains, seed)):
                if why := self._unlike(one):
                    self.faults.append(f"shard {shard}, document {one.doc_id!r}, chunk {one.chunk}: {why}")
                else:
                    yield one
        except (ShardCorrupt, ShardMismatch, KeyError, *UNREADABLE) as error:
            self.faults.append(f"{record.label} cannot be read: {' '.join(str(error).split())[:300]}")

    def _files(self, shard: int, captured: Record) -> ShardFiles | None:
        """Return where a shard's files are after checking their bytes; None where one is damaged."""
        encoded = self._run.record(Unit("encode", self._source.tokenizer_label, shard))
        paths = []
        for record in (self._run.prepared(shard), encoded, captured):
            found = ShardFaults(Unit(record.stage, None, shard), record.label, "")
            check_files(self._run.store, record, found)
            self.faults += [f"{record.label}: {fault.what}" for fault in found.faults]
            paths.append(None if found.faults else self._run.store.file(record, record.files[0]))
        if paths[0] is None or paths[1] is None or paths[2] is None:
            return None
        return ShardFiles(shard, paths[0], paths[1], paths[2], Rounding(once_compact(self._run, captured)))

    def _unlike(self, one: Sampled) -> str | None:
        """Say why a chunk cannot be compared at all, None if it can."""
        stored, positions = one.stored, len(one.inputs)
        if one.first != (0 if self._reader.start is not None else 1) or len(stored["counts"]) != positions:
            return (
                f"it has {len(stored['counts'])} positions from {one.first} on, where its tokens give {positions}: "
                "another start token, end token or longest input"
            )
        entries, counts = len(stored["ids"]), stored["counts"]
        draws_fit = len(stored["draws"]) in (0, entries)
        fits = counts.min() >= 0 and counts.sum() == entries == len(stored["logprobs"]) and draws_fit
        if not fits or any(len(stored[name]) != positions for name in ("tail", "gold_logprob", "gold_rank")):
            return "its lists do not belong together; logitfuse verify says more"
        there = one.labels != NO_LABEL
        numbers = (stored["logprobs"], stored["tail"], stored["gold_logprob"][there])
        known = entries == 0 or 0 <= stored["ids"].min() <= stored["ids"].max() < self._source.head_width
        if not known or not all(np.isfinite(values).all() for values in numbers):
            return "it holds ids outside the model's head, or numbers that are not finite; logitfuse verify says more"
        return None
