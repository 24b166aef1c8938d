"""Aligning a whole batch of chunks: Arrow in, Arrow out, flat arrays between.

Nothing here depends on which chunks share a batch. Legend: C chunks, P source and T target positions, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitfuse.kernels.alignment import ALIGNMENTS, Side, Spelling, VocabularyPair, one_to_one, read_side
from logitfuse.kernels.conditioning import Conditional, condition
from logitfuse.kernels.projection import project, project_logits
from logitfuse.kernels.sparse import Sparse, log_softmax_rows, rectangle, row_sums, to_half_precision
from logitfuse.storage.errors import BadInput, ShardCorrupt
from logitfuse.storage.offsets import list_offsets
from logitfuse.storage.schemas import FLOATS, IDS
from logitfuse.storage.shards import IDENTITY_COLUMNS
from logitfuse.tasks.engine import Counts
from logitfuse.tasks.strategy import checked_options

if TYPE_CHECKING:
    from logitfuse.kernels.vocabulary_map import VocabularyMap
    from logitfuse.tasks.align_settings import AlignSettings
    from logitfuse.tasks.capture_settings import CaptureSettings
    from logitfuse.tasks.models.source import Source

# Hub tokenizers of these classes write no space before a text, and the published code knows them by these names.
NO_FIRST_SPACE = {"GPTNeoXTokenizer", "GPTNeoXTokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast"}
Batches = Mapping[str, pa.RecordBatch]


def columns_read(shard: str, values: str) -> list[str]:
    """Return the columns that are read of `target`, `source` (encode), `capture` and `own` (the target's capture)."""
    captured = ["counts", "ids", "logprobs", "tail"]
    if shard == "own":
        captured.append("draws")
    elif values == "logits":
        captured.append("logits")
    return {"target": ["last", "ids", "ends"], "source": ["last", "ids", "ends"]}.get(shard, captured)


def leaves_out_first_space(tokenizer: Any) -> bool:
    """Say whether a tokenizer is of one of the classes that the published code treats so."""
    return bool({type(tokenizer).__name__, tokenizer.init_kwargs.get("tokenizer_class")} & NO_FIRST_SPACE)


class Carried(NamedTuple):
    """The distributions of a batch's target positions, row t being `offsets[t]:offsets[t+1]`."""

    offsets: NDArray[np.int64]  # [T+1]
    ids: NDArray[np.int32]  # [N]
    logprobs: NDArray[np.floating[Any]]  # [N]
    mass_T: NDArray[np.float64]
    logits: NDArray[np.floating[Any]]  # [N], or none at all

    def columns(self, positions: NDArray[np.int64]) -> dict[str, pa.Array]:
        """Return the rows as columns; chunk c has the rows `positions[c]:positions[c+1]`."""
        entries = self.offsets[positions]
        return {
            "counts": _lists(positions, np.diff(self.offsets), IDS),
            "ids": _lists(entries, self.ids, IDS),
            "logprobs": _lists(entries, self.logprobs, FLOATS),
            "mass": _lists(positions, self.mass_T, FLOATS),
            "logits": _lists(entries if len(self.logits) else np.zeros_like(entries), self.logits, FLOATS),
        }


class Becomes(NamedTuple):
    """What each token that a source keeps gives to target ids, at the N target positions that one of its own matches.

    Token k of the n-th of them is row n·K + k of `given`; nothing small is left out of it, and nothing put together.
    """

    served: NDArray[np.int64]  # [N] target positions
    rows: NDArray[np.int64]  # [N] the captured row that matches each
    kept: int  # K
    given: Sparse


class Aligner:
    """Aligns chunks of one source with the target; what depends on the two vocabularies alone is worked out once."""

    def __init__(
        self,
        source: Source,
        target: Source,
        vocabulary_map: VocabularyMap,
        settings: AlignSettings,
        capture: CaptureSettings,
    ) -> None:
        self.settings = settings
        self._source, self._target = source, target
        self._map = (vocabulary_map.offsets, vocabulary_map.target_ids, vocabulary_map.weights)
        self._habits = vocabulary_map.target_habits(target.head_width)
        self._past_end, self._max_length = capture.past_end, capture.max_length
        self._same = source.vocabulary.fingerprint == target.vocabulary.fingerprint
        self._pair = VocabularyPair(
            Spelling(source.vocabulary.pieces, source.vocabulary.marker),
            Spelling(target.vocabulary.pieces, target.vocabulary.marker),
            *self._map,
            leaves_out_first_space(source.tokenizer),
        )

    def align(self, batches: Batches) -> tuple[dict[str, pa.Array], Counts]:
        """Return the columns of ALIGN for a batch of chunks, and what was counted.

        Raises `ShardCorrupt` for captured ids that the model's head has not.
        """
        for name, model in (("capture", self._source), ("own", self._target)):
            if name in batches:
                _require_ids_of(model, _flat(batches[name], "ids")[1])
        source, target = self.sides(batches)
        serving_T = self.serving(source, target)
        carry = self._carry_logits if self.settings.values == "logits" else self._carry
        rows = carry(batches, serving_T, self._fallback(target))
        served_T = (serving_T >= 0) & (np.diff(rows.offsets) > 0)
        position_T = np.full(len(serving_T), -1, np.int64)
        position_T[served_T] = source.numbers[serving_T[served_T]]
        identity = {name: batches["target"].column(name) for name in IDENTITY_COLUMNS}
        columns = {"source_position": _lists(target.position_offsets, position_T, IDS)}
        return identity | columns | rows.columns(target.position_offsets), _counted(batches, serving_T, rows, served_T)

    def becomes(self, batches: Batches) -> Becomes:
        """Return what `align` adds up, token by token; of probabilities, not of logits."""
        source, target = self.sides(batches)
        serving_T = self.serving(source, target)
        ids_PK, probs_PK, _ = self._captured(batches["capture"])
        served, kept = np.flatnonzero(serving_T >= 0), ids_PK.shape[1]
        ids_N1 = ids_PK[serving_T[served]].reshape(-1, 1)
        probs_N1 = probs_PK[serving_T[served]].reshape(-1, 1)
        conditional = self._conditional(batches) if "own" in batches else None
        if conditional is not None:
            conditional = conditional._replace(rows_T=np.repeat(conditional.rows_T[served], kept))
        given = project(ids_N1, probs_N1, np.arange(len(ids_N1)), *self._map, conditional=conditional)
        return Becomes(served, serving_T[served], kept, given)

    def sides(self, batches: Batches) -> tuple[Side, Side]:
        """Return the batch as the source read it, as far as it was captured, and as the target reads it."""
        captured_C = np.diff(_flat(batches["capture"], "tail")[0])
        return (
            self._side(batches["source"], self._source, captured_C=captured_C),
            self._side(batches["target"], self._target, max_length=self._max_length),
        )

    def serving(self, source: Side, target: Side) -> NDArray[np.int64]:
        """Return the index of the captured row that serves each target position, int64 [T], -1 for none."""
        if self._same:
            return one_to_one(source, target)
        options = checked_options(ALIGNMENTS, self.settings.strategy, self.settings.options)
        serving_T = ALIGNMENTS.get(self.settings.strategy)(source, target, self._pair, **options)
        prefixes = (self._source.vocabulary.dummy_prefix, self._target.vocabulary.dummy_prefix)
        if prefixes[0] != prefixes[1]:
            # Before any token, a model with a dummy prefix predicts pieces with a space that is not in the text.
            side, of_position = (source, serving_T) if prefixes[0] else (target, np.arange(len(serving_T)))
            served = np.flatnonzero(serving_T >= 0)
            serving_T[served[side.numbers[of_position[served]] == 0]] = -1
        return serving_T

    def _side(self, encoded: pa.RecordBatch, model: Source, **limits: Any) -> Side:
        offsets, ids = _flat(encoded, "ids")
        last_C = encoded.column("last").to_numpy(zero_copy_only=False)
        start, end = model.start_id is not None, model.end_id
        ends = _flat(encoded, "ends")[1]
        return read_side(ids, ends, offsets, last_C, start=start, end=end, past_end=self._past_end, **limits)

    def _fallback(self, target: Side) -> NDArray[np.int32] | None:
        """Return the id that has all mass where nothing serves a position, below zero for none."""
        if self.settings.fallback == "mask":
            return None
        if self.settings.fallback == "next_token":
            return target.labels()
        return target.inputs(self._target.start_id)

    def _carry(self, batches: Batches, serving_T: NDArray[np.int64], fallback_T: NDArray[np.int32] | None) -> Carried:
        ids_PK, probs_PK, _ = self._captured(batches["capture"])
        first_wins = self.settings.collision == "first"
        conditional = self._conditional(batches) if "own" in batches else None
        rows = project(
            ids_PK, probs_PK, serving_T, *self._map,
            fallback_T=fallback_T, first_wins=first_wins, conditional=conditional,
            min_probability=self.settings.min_probability,
        )  # fmt: skip
        mass_T = np.clip(row_sums(rows.offsets, rows.probs), 0.0, 1.0)
        return Carried(rows.offsets, rows.ids, to_half_precision(np.log(rows.probs)), mass_T, np.zeros(0))

    def _carry_logits(
        self, batches: Batches, serving_T: NDArray[np.int64], fallback_T: NDArray[np.int32] | None
    ) -> Carried:
        ids, logits = (_flat(batches["capture"], name)[1] for name in ("ids", "logits"))
        if len(logits) != len(ids):
            raise BadInput("the capture holds no raw logits. Set capture.raw_logits to true and rerun stage 'capture'.")
        counts_P = _flat(batches["capture"], "counts")[1]
        ids_PK, logits_PK = rectangle(counts_P, ids, -1), rectangle(counts_P, logits, 0.0)
        offsets, ids, logits = project_logits(ids_PK, logits_PK, serving_T, *self._map, fallback_T=fallback_T)
        mass_T = (np.diff(offsets) > 0).astype(np.float64)
        return Carried(offsets, ids, log_softmax_rows(offsets, logits), mass_T, logits)

    def _captured(self, batch: pa.RecordBatch) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
        """Return a capture's ids [P, K], probabilities [P, K] and left-out mass [P], a position's sum being 1.

        Positions that keep fewer than others are filled up with id -1 and probability 0.
        """
        counts_P, ids, logprobs, tail_P = (_flat(batch, name)[1] for name in ("counts", "ids", "logprobs", "tail"))
        probs_PK = rectangle(counts_P, np.exp(logprobs.astype(np.float64)), 0.0)
        whole_P: NDArray[np.float64] = probs_PK.sum(axis=1) + tail_P  # rounding moved it off 1 a little
        whole_P[whole_P <= 0] = 1.0
        probs_PK /= whole_P[:, None]
        return rectangle(counts_P, ids, -1), probs_PK, tail_P / whole_P

    def _conditional(self, batches: Batches) -> Conditional:
        """Return what the target itself predicts, against what it writes on the whole."""
        ids_QK, probs_QK, tail_Q = self._captured(batches["own"])
        counts_Q, draws = (_flat(batches["own"], name)[1] for name in ("counts", "draws"))
        if len(draws):  # a drawn token stands for the rest: that it came tells nothing of itself
            drawn_QK = rectangle(counts_Q, draws, 0) > 0
            tail_Q = tail_Q + (probs_QK * drawn_QK).sum(axis=1)
            ids_QK, probs_QK = np.where(drawn_QK, -1, ids_QK), np.where(drawn_QK, 0.0, probs_QK)
        captured_C = np.diff(_flat(batches["own"], "tail")[0])
        own = self._side(batches["target"], self._target, captured_C=captured_C)
        target = self._side(batches["target"], self._target)
        return condition(ids_QK, probs_QK, tail_Q, one_to_one(own, target), self._habits)


def _require_ids_of(model: Source, ids: NDArray[np.int32]) -> None:
    if len(ids) and not 0 <= ids.min() <= ids.max() < model.head_width:
        raise ShardCorrupt(
            f"capture/{model.label}: an id is outside the head of {model.label!r}, as if another model had been "
            f"captured. Redo it: logitfuse stage capture RECIPE --source {model.label} --redo"
        )


def _flat(batch: pa.RecordBatch, column: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return a list column's offsets [C+1], from 0, and its values."""
    array = batch.column(column)
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], array.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]


def _lists(offsets: NDArray[np.int64], values: NDArray[Any], kind: pa.DataType) -> pa.ListArray:
    flat = pa.array(values.astype(kind.value_type.to_pandas_dtype(), copy=False))
    return pa.ListArray.from_arrays(list_offsets(offsets, "align"), flat, type=kind)


def _counted(batches: Batches, serving_T: NDArray[np.int64], rows: Carried, served_T: NDArray[np.bool_]) -> Counts:
    matched_T = serving_T >= 0
    return {
        "chunks": batches["target"].num_rows,
        "positions": len(serving_T),
        "served": int(served_T.sum()),
        "not_served": int((~matched_T).sum()),
        "unmapped": int((matched_T & ~served_T).sum()),
        "mass": float(rows.mass_T[served_T].sum()),
    }
