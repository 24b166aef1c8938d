"""Looking at documents of one run: what is read and computed for each, as one set of plain JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from logitfuse.storage.errors import BadInput, ShardMissing
from logitfuse.tasks.arms import pair_arms
from logitfuse.tasks.evaluate import model_of
from logitfuse.tasks.inspect.nats import Nats, nats_of
from logitfuse.tasks.inspect.position import explain
from logitfuse.tasks.inspect.predictions import computed
from logitfuse.tasks.inspect.reading import Maps, ShardFiles
from logitfuse.tasks.inspect.view import View, agrees, chunks_of, gather, numbering, token_at
from logitfuse.tasks.inspect.wording import flowing, rounded, score_unit, settings_of, token_text

if TYPE_CHECKING:
    from logitfuse.tasks.inspect.documents import Place
    from logitfuse.tasks.inspect.predictions import Predictions
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run

FORMAT = 1
Facts = dict[str, Any]


class Inspector:
    """Shows documents of a run whose shards are fused; `models`: whether models may be run where the store lacks them.

    `top`: tokens of each distribution that are shown.
    """

    def __init__(self, run: Run, *, models: bool = True, top: int = 10) -> None:
        self.run, self.models, self.top = run, models, top
        self._maps = Maps(run)
        self._files: ShardFiles | None = None

    def document(
        self, place: Place, *, at: int | None = None, byte: int | None = None, most: int = 2048, every: bool = False
    ) -> Facts:
        """Return a stretch of at most `most` tokens of a document, and one of its tokens explained, or `every` one.

        The token is `at` (counted from 0), the one at a `byte`, or else one that the targets make likelier. Raises
        `BadInput` for one that there is not.
        """
        files = self._of_shard(place.shard)
        counted = numbering(self.run, files, place)
        if at is not None and not 0 <= at < counted.tokens:
            raise BadInput(f"--at {at}: document {place.doc_id!r} has {counted.tokens:,} tokens, counted from 0.")
        if byte is not None and at is None and counted.tokens:
            at = token_at(files, place, counted, byte)
        if not counted.tokens:
            raise BadInput(f"document {place.doc_id!r} is empty: it has no token to look at. Choose another one.")
        view = gather(self.run, files, self._maps, place, counted, at, most)
        view.before = self._captured(view)
        if at is None:
            at = telling_token(view)
        self._predict(view, range(view.begin, view.end) if every else [at])
        nats = nats_of(view)
        numbers = range(view.begin, view.end) if every else [at]
        found = [explain(view, nats, number, self.top) for number in numbers]
        return self._facts(view, nats, at) | {"positions": found}

    def number(self, place: Place, chunk: int, position: int) -> int:
        """Return the number of the token that the n-th target position of a chunk predicts."""
        begins = numbering(self.run, self._of_shard(place.shard), place).begins
        return int(begins[chunk]) + position + (0 if self.run.target.start_id is not None else 1)

    def _of_shard(self, shard: int) -> ShardFiles:
        if self._files is None or self._files.shard != shard:
            self._files = ShardFiles(self.run, shard)
        return self._files

    def _captured(self, view: View) -> Predictions | None:
        """Return what the student predicts before training, if it is one of the sources."""
        label = self.run.target.label
        return view.sources[label].captured if label in view.sources else None

    def _predict(self, view: View, numbers: Sequence[int]) -> None:
        """Let the models predict what the store does not hold of these tokens."""
        label = self.run.target.label
        if view.before is None and self.models:
            view.before = self._computed(view, self.run.model(label), numbers)
            view.cautions.append(f"What {label} predicts before training was computed just now: it is no source.")
        if not self.models:
            return
        try:
            trained, _ = model_of(self.run, "fused")
        except ShardMissing:
            view.cautions.append("Nothing is trained yet, so there is no prediction after training.")
            return
        view.after = self._computed(view, trained, numbers)
        for arm in pair_arms(self.run.recipe):
            try:
                view.pairs[arm] = self._computed(view, model_of(self.run, arm)[0], numbers)
            except ShardMissing:
                view.cautions.append(f"{arm} is not trained yet.")

    def _computed(self, view: View, source: Source, numbers: Sequence[int]) -> Predictions:
        capture = self.run.recipe.capture
        chunks = chunks_of(view, numbers)
        return computed(self.run.loaded(source), source, chunks, self.top, capture.max_length)

    def _facts(self, view: View, nats: Nats, at: int) -> Facts:
        run, place, taught = self.run, view.place, view.taught
        t = view.position(at)
        column = 0 if t is None else t
        there = taught.scores_ST.shape[1] > 0
        return {
            "format": FORMAT,
            "run": run.recipe.name,
            "target": run.target.label,
            "labels": list(view.sources),
            "rule": run.recipe.fuse.rule,
            "rule_says": settings_of(run.recipe.fuse),
            "granularity": run.recipe.fuse.granularity,
            "score_unit": score_unit(run.recipe.fuse),
            "residual": run.recipe.train.residual,
            "document": {
                "doc_id": place.doc_id,
                "domain": place.domain,
                "split": place.split,
                "shard": place.shard,
                "chunks": place.chunks,
                "tokens": view.numbering.tokens,
                "begin": view.begin,
                "end": view.end,
                "scores": [rounded(v) for v in taught.scores_ST[:, column]] if there else [],
                "weights": [rounded(v) for v in taught.weights_ST[:, column]] if there else [],
            },
            "cautions": [*self._cautions(view), *view.cautions],
            "at": at,
            "tokens": [_token(view, nats, number) for number in range(view.begin, view.end)],
        }

    def _cautions(self, view: View) -> list[str]:
        """Say what a reader must know to read this rightly."""
        recipe, found = self.run.recipe, []
        if view.judged is not None and not agrees(view.taught, view.judged):
            found.append(
                "The fused shard does not hold what the rule gives for these sources. Check it: logitfuse verify"
            )
        if recipe.fuse.granularity == "block":
            found.append("Targets are fused by packed blocks: scores and weights are those of the block.")
        if recipe.fuse.shuffled:
            found.append(
                "fuse.shuffled: the fused targets are of other documents; what sources say here is not in them."
            )
        if recipe.align.values == "logits":
            found.append("align.values is logits: what sources keep is a softmax over the tokens that are mapped.")
        if recipe.capture.temperature != 1:
            found.append(f"Captured at temperature {recipe.capture.temperature:g}; scores are the models' own.")
        return found


def telling_token(view: View) -> int:
    """Return the token of a stretch that the targets help most, against the student; else one that is taught."""
    nats = nats_of(view)
    numbers = [n for n in range(view.begin, view.end) if view.position(n) is not None]
    at_T = [t for n in numbers if (t := view.position(n)) is not None]
    gain = np.nan_to_num((nats.before - nats.fused)[at_T], nan=-np.inf, neginf=-np.inf)
    if len(gain) and np.isfinite(gain).any():
        return numbers[int(gain.argmax())]
    taught = view.taught.winner_T[at_T] >= 0
    return numbers[int(taught.argmax())] if len(numbers) else view.begin


def _token(view: View, nats: Nats, number: int) -> Facts:
    """Return what the text shows of a token: its text, who counts most, and what it costs."""
    chunk, place = view.locate(number)
    ids, ends = view.target.of(chunk)
    t = view.position(number)
    if place < len(ids):
        begin = 0 if place == 0 else int(ends[place - 1])
        known = 0 <= begin <= ends[place]
        vocabulary = view.run.target.vocabulary
        text = (
            flowing(view.texts[chunk][begin : int(ends[place])]) if known else token_text(vocabulary, int(ids[place]))
        )
    else:
        text, known = token_text(view.run.target.vocabulary, int(view.run.target.end_id or 0)), False
    facts: Facts = {"text": text, "of_text": bool(known), "winner": None, "nats": None}
    if t is not None:
        facts["winner"] = int(view.taught.winner_T[t]) if view.taught.winner_T[t] >= 0 else -1
        facts["nats"] = [rounded(float(v[t])) for v in (nats.before, nats.fused, nats.after)]
    return facts
