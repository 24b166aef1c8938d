"""Audit of captured predictions: a sample is computed again by the live model and compared with the store."""

# legend: P positions, H hidden size

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from logitfuse.kernels.head import LOGPROB_ERROR
from logitfuse.kernels.positions import NO_LABEL
from logitfuse.storage.errors import BadInput
from logitfuse.storage.records import Record
from logitfuse.tasks.audit.findings import SourceAudit, other_versions
from logitfuse.tasks.audit.gather import Gathering
from logitfuse.tasks.audit.live import alone, batches, in_company
from logitfuse.tasks.audit.measures import Measures
from logitfuse.tasks.audit.readings import dense, stored_reading
from logitfuse.tasks.audit.sample import Sampled, spread
from logitfuse.tasks.engine import Progress, silent
from logitfuse.tasks.models.causal import CausalModel
from logitfuse.tasks.models.source import Source
from logitfuse.tasks.verify.rounded import SLACK
from logitfuse.tasks.verify.standing import StandingRun, standing_units

POSITIONS = 64  # whose whole distributions exist at a time
RAW_FLOOR = {"float32": 2.0**-8, "bfloat16": 2.0**-5}  # logits next to a rounding border fall on either side of it


class Auditor:
    """Compares each source's store with its model, on `documents` documents; `recipe` is its name in commands."""

    def __init__(self, run: StandingRun, recipe: str, documents: int, seed: int = 0) -> None:
        self.run, self.recipe, self.documents, self.seed = run, recipe, documents, seed

    def sources(self, only: str | None = None) -> list[str]:
        """Return the labels of the sources to audit; raise `BadInput` where one is unknown, or nothing is captured."""
        known = list(self.run.teachers)
        if only is not None and only not in known:
            raise BadInput(f"--source {only}: there is no such source. Known: {', '.join(known)}.")
        chosen = known if only is None else [only]
        if not any(self._standing(label)[1] for label in chosen):
            raise BadInput(
                f"{', '.join(chosen)}: nothing is captured with these settings, so there is nothing to audit. "
                f"Run: logitfuse stage capture {self.recipe}"
            )
        return chosen

    def source(self, label: str, progress: Progress = silent) -> SourceAudit:
        """Audit one source; shards that are not captured yet are left out."""
        source, capture = self.run.model(label), self.run.recipe.capture
        wanted, records = self._standing(label)
        chosen = {shard: records[shard] for shard in spread(sorted(records), self.documents)}
        gathering = Gathering(self.run, source)
        found = SourceAudit(label, wanted, len(records), self._floor(source), faults=gathering.faults)
        found.other_versions = other_versions(list(chosen.values()))
        sample = gathering.sample(chosen, self.documents, self.seed)
        for batch in batches(sample, capture.tokens_per_batch):
            model = self.run.loaded(source)
            for one, hidden_PH in zip(batch, in_company(model, batch, source.context), strict=True):
                self._compare(model, one, hidden_PH, found)
                progress(found.chunks, self.documents)
        return found

    def _standing(self, label: str) -> tuple[int, dict[int, Record]]:
        """Return how many shards are wanted of a source, and the records of those that stand, by shard."""
        every = [one for one in standing_units(self.run, "capture") if one.unit.source == label]
        return len(every), {one.unit.needed_shard: one.record for one in every if one.record}

    def _floor(self, source: Source) -> float:
        """Return by how many nats capture's own way of computing log-probabilities may be off."""
        dtype = source.home.settings.dtype
        if self.run.recipe.capture.raw_logits:
            return RAW_FLOOR[dtype]
        return LOGPROB_ERROR if dtype == "bfloat16" else SLACK

    def _compare(self, model: CausalModel, one: Sampled, again_PH: Tensor, found: SourceAudit) -> None:
        """Count one chunk: the store, and the hidden states of another run, against the model alone."""
        capture = self.run.recipe.capture
        stored, alone_PH = stored_reading(one.stored), alone(model, one)
        there_P = torch.from_numpy(one.labels != NO_LABEL)
        gold_P = torch.from_numpy(one.labels.astype(np.int64)).clamp_min(0)
        mine = found.shards.setdefault(one.shard, Measures())
        for start in range(0, len(gold_P), POSITIONS):
            rows = slice(start, start + POSITIONS)
            gold, there = gold_P[rows].to(model.device), there_P[rows].to(model.device)
            live, again = (
                dense(model, hidden_PH[rows], gold, capture.temperature, rounded=capture.raw_logits)
                for hidden_PH in (alone_PH, again_PH)
            )
            reading = stored.rows(rows, model.device)
            mine.add(live, reading, there, one.rounding)
            found.control.add(live, again.kept(reading.there_PK), there, None)
            found.live_nats -= float(live.gold_P[there].double().sum())
        found.count(one)
