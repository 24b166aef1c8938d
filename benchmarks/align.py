"""What aligning costs: the paper's warping over Python, byte spans and the whole stage over tokenising the same text.

    python benchmarks/align.py --json align.json

dtw_speedup_vs_python: the published steps as plain Python loops (cells as floats, a dictionary of the edit distances
of pairs of pieces, filled by rapidfuzz one pair at a time) over the fast path with its own table, both from pieces
to the tokens that are matched one to one, on one text of 2000 tokens of either side. The published code computes
every cell's distance anew, which is slower still.
spans_over_tokenise: finding the serving positions by bytes, from Arrow columns, over tokenising the text for the
target (the `tokenizers` library alone, one thread, in batches).
align_over_tokenise: the whole stage, Arrow to Arrow, the source's random top 10 mapped onto the target's vocabulary.
The pairs are MPT → Llama-2 and Gemma-3 → SmolLM2 on the demo corpus; of the last two metrics the worse pair counts.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa
from measure import at_least, at_most, interleaved, options, ratio, show, write
from rapidfuzz.distance import Levenshtein
from transformers import PreTrainedTokenizerFast

from logitfuse.kernels.alignment import Side
from logitfuse.kernels.alignment.warping import Costs, matched_sources
from logitfuse.kernels.positions import positions
from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS
from logitfuse.storage.schemas import CAPTURE, ENCODE
from logitfuse.tasks.align_settings import AlignSettings
from logitfuse.tasks.aligner import Aligner
from logitfuse.tasks.capture_settings import CaptureSettings
from logitfuse.tasks.models.vocabulary import (
    Vocabulary,
    encode_texts,
    load_tokenizer,
    map_context,
    read_vocabulary,
    vocabulary_view,
)
from logitfuse.tasks.packaged.models import fetch_model
from logitfuse.tasks.packaged.text import fetch_text
from logitfuse.tasks.packaged.tokenizers import tokenizer_folder

GOALS = {
    "dtw_speedup_vs_python": at_least(100),
    "spans_over_tokenise": at_most(0.10),
    "align_over_tokenise": at_most(1.0),
}
ROWS = 64  # chunks in a batch, as the stage reads them
K = 10
WARPED_TOKENS = 2000


@dataclass(frozen=True)
class Model:
    """What the stage asks of a model: its vocabulary, the tokens around a text and the width of its head."""

    tokenizer: PreTrainedTokenizerFast

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return read_vocabulary(self.tokenizer)

    @property
    def start_id(self) -> int | None:
        return self.vocabulary.roles.get("bos")

    @property
    def end_id(self) -> int | None:
        return self.vocabulary.roles.get("eos")

    @property
    def head_width(self) -> int:
        return self.vocabulary.size


class Pair:
    """A source and a target with the demo corpus as both read it, a random capture, and the stage's own aligner."""

    def __init__(self, source: Model, target: Model, texts: Sequence[str]) -> None:
        self.texts, self.source, self.target = texts, source, target
        views = (vocabulary_view(m.vocabulary, m.head_width) for m in (source, target))
        found = VOCABULARY_MAPS.get("first_piece")(*views, map_context(target.tokenizer, target.vocabulary))
        self.aligner = Aligner(source, target, found, AlignSettings(), CaptureSettings(k=K))  # type: ignore[arg-type]
        encoded = {name: encode_texts(m.tokenizer, m.vocabulary, texts) for name, m in self.models.items()}
        self.encoded = {name: [ids for ids, _ in rows] for name, rows in encoded.items()}
        self.batches = [
            {name: _encoded_batch(rows[start : start + ROWS]) for name, rows in encoded.items()}
            for start in range(0, len(texts), ROWS)
        ]
        rng = np.random.default_rng(0)
        for number, batch in enumerate(self.batches):
            rows = self.encoded["source"][number * ROWS :][:ROWS]
            counts = [positions(len(ids), start=source.start_id is not None, end=True)[1] for ids in rows]
            batch["capture"] = _captured_batch(counts, source.head_width, rng)

    @property
    def models(self) -> dict[str, Model]:
        return {"source": self.source, "target": self.target}

    def tokenise(self) -> None:
        """Encode the text for the target, nothing else."""
        self.target.tokenizer.backend_tokenizer.encode_batch_fast(list(self.texts), add_special_tokens=False)

    def find_positions(self) -> None:
        """Find the position that serves each target position, from the stage's batches."""
        for batch in self.batches:
            self.aligner.serving(*self.aligner.sides(batch))

    def align(self) -> None:
        """Align all batches."""
        for batch in self.batches:
            self.aligner.align(batch)

    def check(self) -> int:
        """Hold the positions equal to a search for the same byte in every chunk; return the target's positions."""
        total = 0
        for batch in self.batches:
            source, target = self.aligner.sides(batch)
            wanted = np.concatenate([_serving_by_search(source, target, c) for c in range(len(target.read_C))])
            prefixes = [m.vocabulary.dummy_prefix for m in (self.source, self.target)]
            if prefixes[0] != prefixes[1]:
                side, index = (source, wanted) if prefixes[0] else (target, np.arange(len(wanted)))
                wanted = np.where((wanted >= 0) & (side.numbers[index] == 0), -1, wanted)
            assert np.array_equal(self.aligner.serving(source, target), wanted)
            total += len(wanted)
        return total


def _serving_by_search(source: Side, target: Side, chunk: int) -> np.ndarray:
    spans = [slice(*side.position_offsets[chunk : chunk + 2]) for side in (source, target)]
    source_bytes, target_bytes = source.bytes_P[spans[0]].tolist(), target.bytes_P[spans[1]].tolist()
    place = {byte: p + spans[0].start for p, byte in enumerate(source_bytes) if byte >= 0}  # the last one stays
    latest = {byte: t for t, byte in enumerate(target_bytes)}
    return np.array([place.get(b, -1) if latest[b] == t else -1 for t, b in enumerate(target_bytes)], np.int64)


def _encoded_batch(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> pa.RecordBatch:
    return _batch(ENCODE.arrow, len(rows), {
        "last": [True] * len(rows), "ids": [ids for ids, _ in rows], "ends": [ends for _, ends in rows],
    })  # fmt: skip


def _captured_batch(counts: Sequence[int], width: int, rng: np.random.Generator) -> pa.RecordBatch:
    """Return random predictions: k different tokens at each position, the mass of a typical model."""
    probs = [np.sort(rng.dirichlet(np.full(K + 1, 0.3), count))[:, ::-1].astype(np.float32) for count in counts]
    strides = np.arange(K) * (width // K)
    ids = [(rng.integers(0, width, (count, 1)) + strides) % width for count in counts]
    return _batch(CAPTURE.arrow, len(counts), {
        "first": [0] * len(counts),
        "counts": [np.full(count, K) for count in counts],
        "ids": [values.ravel() for values in ids],
        "logprobs": [np.log(np.maximum(p[:, :K], 1e-7)).ravel() for p in probs],
        "tail": [p[:, K] for p in probs],
    })  # fmt: skip


def _batch(schema: pa.Schema, rows: int, columns: dict[str, list[Any]]) -> pa.RecordBatch:
    identity = {"doc_id": ["d"] * rows, "chunk": list(range(rows)), "text_hash": [bytes(16)] * rows}
    given = identity | columns
    fields = [field for field in schema if field.name in given]
    return pa.RecordBatch.from_arrays([pa.array(given[f.name], f.type) for f in fields], schema=pa.schema(fields))


class Warping:
    """One text of so many tokens on both sides, as pieces without their markers."""

    def __init__(self, pair: Pair, tokens: int) -> None:
        ids = {name: np.concatenate(rows[:400])[:tokens] for name, rows in pair.encoded.items()}
        self.source, self.target = (
            [str(m.vocabulary.pieces[i]).replace(m.vocabulary.marker, "") for i in ids[name]]
            for name, m in pair.models.items()
        )

    def fast(self) -> list[int]:
        """Return the one source token each target token is matched with, -1 for several."""
        first, last = matched_sources(Costs(self.source, self.target))
        return np.where(first == last, first, -1).tolist()

    def python(self) -> list[int]:
        """Return the same, by the published steps."""
        distances: dict[tuple[str, str], int] = {}
        above = [0.0] + [float("inf")] * len(self.target)
        table = []
        for a in self.source:
            row = [float("inf")]
            for j, b in enumerate(self.target):
                if (cost := distances.get((a, b))) is None:
                    cost = distances[a, b] = Levenshtein.distance(a, b)
                row.append(cost + min(above[j + 1], row[j], above[j]))
            table.append(row)
            above = row
        return _way_back(table)


def _way_back(table: list[list[float]]) -> list[int]:
    i, j = len(table) - 1, len(table[0]) - 2
    found: list[list[int]] = [[] for _ in range(j + 1)]
    while i > 0 or j > 0:
        found[j].append(i)
        up = table[i - 1] if i > 0 else [float("inf")] * len(table[0])
        ways = [up[j], up[j + 1], table[i][j]]
        move = ways.index(min(ways))
        i, j = i - (move != 2), j - (move != 1)
    found[0].append(0)
    return [matched[0] if len(matched) == 1 else -1 for matched in found]


def texts_of(documents: int) -> list[str]:
    """Return so many documents of the demo corpus, those of all domains in turn."""
    with fetch_text("demo").open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in islice(file, documents)]


def main() -> None:
    """Check that fast and slow agree, time them, print the table and write the JSON."""
    arguments = options(__doc__).parse_args()
    texts = texts_of(256 if arguments.quick else 1024)
    repeats = 5
    tokenizers = {
        "mpt-llama": (tokenizer_folder("mpt"), tokenizer_folder("llama-2")),
        "gemma-smollm2": (fetch_model("gemma3-270m"), fetch_model("smollm2-135m")),
    }
    pairs = {n: Pair(*(Model(load_tokenizer(folder)) for folder in both), texts) for n, both in tokenizers.items()}
    checked = {name: pair.check() for name, pair in pairs.items()}
    warping = Warping(pairs["mpt-llama"], WARPED_TOKENS)
    assert warping.fast() == warping.python(), "the fast warping and the Python loops disagree"
    seconds = interleaved({"warping, Python": warping.python, "warping": warping.fast}, repeats, process_time)
    for name, pair in pairs.items():
        pair.align()
        seconds |= interleaved(
            {f"tokenise, {name}": pair.tokenise, f"spans, {name}": pair.find_positions, f"align, {name}": pair.align},
            repeats, process_time,
        )  # fmt: skip
    metrics = {"dtw_speedup_vs_python": ratio(seconds, "warping, Python", "warping")}
    for metric, side in (("spans_over_tokenise", "spans"), ("align_over_tokenise", "align")):
        metrics[metric] = max(ratio(seconds, f"{side}, {name}", f"tokenise, {name}") for name in pairs)
    show("aligning", metrics, GOALS, seconds)
    inputs = {"documents": len(texts), "positions": checked, "k": K, "warped_tokens": WARPED_TOKENS}
    write(arguments.json, metrics, GOALS, inputs | {"repeats": repeats})


if __name__ == "__main__":
    main()
