"""What a token costs in the store, what rounding loses, and how fast shards are written and read, for several k.

    python benchmarks/store.py [--quick] --json store.json

Real top-64s of SmolLM2-135M (49k tokens) and Gemma-3-270M (262k; not with --quick) on the first documents of the demo
corpus, captured unrounded on the first call and cached in the run folder of this benchmark; each k keeps the first k.
bytes_per_token_k10: the columns `ids` and `logprobs` (compact: `id_ranks` and `steps`) of one shard; `_all`: the
whole file, tail, gold token, identity and footer included. kl_mean: nats from the unrounded distribution (k tokens and
one class for the rest) to what stage align makes of the read one (scaled to sum to 1), the mean over positions.
read_over_memcpy: seconds to read k = 10 from a file in memory's cache over those to copy what was read.
Beside them the published layout: a list per position of float32 values and int64 ids, as Arrow and as Parquet.
Metrics without a model's name are SmolLM2's. The shards are checked before they are timed: ids come back as they were.
--quick has no goals: 10 documents fill 40% of a row group, and ids compress the better the more there are in one.
"""

import gc
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import torch
from measure import at_most, interleaved, options, show, write
from rich.console import Console
from rich.table import Table

from logitfuse.kernels.keep import Keep
from logitfuse.kernels.rounding import round_logprobs, round_mass
from logitfuse.storage.capture_rows import write_compact
from logitfuse.storage.compact import COMPACT, metadata
from logitfuse.storage.schemas import CAPTURE
from logitfuse.storage.shards import ShardWriter, read_batches, verified_path
from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.execute import do_prepare, do_unit
from logitfuse.tasks.models.causal import padded
from logitfuse.tasks.models.source import Source
from logitfuse.tasks.passages import read_passages
from logitfuse.tasks.recipe import read_recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

GOALS = {
    "bytes_per_token_k10": at_most(30),
    "bytes_per_token_k10_all": at_most(34),
    "kl_mean": at_most(1e-6),
    "bytes_per_token_k10_compact": at_most(24),
    "kl_mean_compact": at_most(5e-6),
}
SEVERAL_K = (8, 10, 16, 32, 64)
ROWS = 64  # per row group, as stages write them
REPEATS = 5
MODELS = {"smollm2-135m": "", "gemma3-270m": "_262k"}  # what a metric's name ends with


@dataclass(frozen=True)
class Captured:
    """Unrounded predictions at P positions of C chunks, the 64 likeliest tokens of each."""

    positions_C: np.ndarray  # [C+1] first position of each chunk
    ids_PK: np.ndarray
    logprobs_PK: np.ndarray
    gold_logprob_P: np.ndarray
    gold_rank_P: np.ndarray

    def __len__(self) -> int:
        return len(self.ids_PK)

    def kept(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the first k of the ids and log-probabilities, and the mass left out [P], float64."""
        logprobs_PK = np.ascontiguousarray(self.logprobs_PK[:, :k])
        left_P = (1 - np.exp(logprobs_PK.astype(np.float64)).sum(axis=1)).clip(0)
        return np.ascontiguousarray(self.ids_PK[:, :k]), logprobs_PK, left_P

    def batches(self, k: int) -> list[pa.RecordBatch]:
        """Return the row groups that stage capture would write with this k."""
        ids_PK, logprobs_PK, left_P = self.kept(k)
        per_position = {
            "counts": np.full(len(self), k, np.int32),
            "tail": round_mass(left_P),
            "gold_logprob": round_logprobs(self.gold_logprob_P),
            "gold_rank": self.gold_rank_P,
        }
        lists = {n: _lists(self.positions_C, v, n) for n, v in per_position.items()}
        lists["ids"] = _lists(self.positions_C * k, ids_PK.ravel(), "ids")
        lists["logprobs"] = _lists(self.positions_C * k, round_logprobs(logprobs_PK).ravel(), "logprobs")
        nothing = np.zeros_like(self.positions_C)
        lists["draws"] = _lists(nothing, np.zeros(0, np.int32), "draws")
        lists["logits"] = _lists(nothing, np.zeros(0, np.float32), "logits")
        chunks = len(self.positions_C) - 1
        rng = np.random.default_rng(0)
        fixed = {
            "doc_id": [f"document-{c:06d}" for c in range(chunks)],
            "chunk": [0] * chunks,
            "text_hash": [rng.bytes(16) for _ in range(chunks)],
            "first": [0] * chunks,
        }
        arrays = [lists.get(f.name, pa.array(fixed.get(f.name, []), f.type)) for f in CAPTURE.arrow]
        whole = pa.RecordBatch.from_arrays(arrays, schema=CAPTURE.arrow)
        return [whole[start : start + ROWS] for start in range(0, chunks, ROWS)]


def _lists(offsets: np.ndarray, values: np.ndarray, column: str) -> pa.ListArray:
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values), type=CAPTURE.arrow.field(column).type
    )


def captured(model: str, documents: int) -> Captured:
    """Return what a model predicts on the first documents of the demo corpus; captured once, then read."""
    changes = [f"name=store-benchmark-{documents}", f"corpus.max_documents={documents}", "corpus.held_out_share=0"]
    changes += ["corpus.documents_per_shard=1000"]
    run = Run(read_recipe("demo", changes))
    file = Path(run.recipe.execution.folder) / run.recipe.name / f"unrounded-{model}.npz"
    if not file.exists():
        claim_folder(run.recipe)
        do_prepare(run)
        found = _capture(run, run.teachers[model], Keep(max(SEVERAL_K)))
        np.savez(file, **found.__dict__)
    with np.load(file) as stored:
        return Captured(**stored)


def _capture(run: Run, source: Source, keep: Keep) -> Captured:
    unit = Unit("encode", source.tokenizer_label, 0)
    do_unit(run, unit)
    passages = read_passages(verified_path(run.store, run.record(unit)), source)
    model, parts, lengths = run.loaded(source), [], []
    for passage in passages:
        hidden_PH = model.hidden(*padded([passage.inputs]))[0]
        gold_P = torch.from_numpy(passage.labels.astype(np.int64))
        blocks = [slice(start, start + 128) for start in range(0, len(gold_P), 128)]
        parts += [model.kept(hidden_PH[block], gold_P[block], keep) for block in blocks]
        lengths.append(len(gold_P))
    columns = [torch.cat([part[place] for part in parts]).numpy() for place in (0, 1, 3, 4)]
    run.unload()
    return Captured(np.concatenate([[0], np.cumsum(lengths)]), *columns)


@dataclass(frozen=True)
class Layout:
    """One way to store a capture; `top` are the columns of its top-k."""

    name: str
    top: tuple[str, ...]
    write: Callable[[Path], None]
    read: Callable[[Path, list[str] | None], list[pa.RecordBatch]]


def layouts(batches: list[pa.RecordBatch], k: int) -> Iterator[Layout]:
    """Yield both codecs and, as Arrow and as Parquet, the published layout."""
    yield Layout("plain", ("ids", "logprobs"), partial(_write_plain, batches), _read)
    yield Layout("compact", ("id_ranks", "steps"), partial(_write_compact, batches, k), _read)
    nested = _nested(batches, k)
    yield Layout(
        "published, Arrow",
        ("ids", "logits"),
        lambda path: feather.write_feather(nested, path, compression="uncompressed"),
        lambda path, columns: feather.read_table(path, memory_map=False).to_batches(),
    )
    yield Layout(
        "published, Parquet",
        ("ids", "logits"),
        lambda path: pq.write_table(nested, path, compression="zstd"),
        lambda path, columns: pq.read_table(path).to_batches(),
    )


def _write_plain(batches: list[pa.RecordBatch], path: Path) -> None:
    writer = ShardWriter(path, CAPTURE, {})
    for batch in batches:
        writer.write(dict(zip(batch.schema.names, batch.columns, strict=True)))
    writer.close()


def _write_compact(batches: list[pa.RecordBatch], k: int, path: Path) -> None:
    writer = ShardWriter(path, COMPACT, metadata(k))
    for batch in batches:
        write_compact(writer, batch, k)
    writer.close()


def _read(path: Path, columns: list[str] | None) -> list[pa.RecordBatch]:
    return list(read_batches(path, columns, ROWS))


def _nested(batches: list[pa.RecordBatch], k: int) -> pa.Table:
    """Return a row per chunk, in it a list per position, in it k values: what the published code hands on."""
    table = pa.Table.from_batches(batches)
    positions = table["tail"].combine_chunks().offsets

    def lists(column: str, kind: pa.DataType) -> pa.ListArray:
        values = table[column].combine_chunks().flatten().cast(kind)
        per_position = pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, k), pa.int32()), values)
        return pa.ListArray.from_arrays(positions, per_position)

    return pa.table({"ids": lists("ids", pa.int64()), "logits": lists("logprobs", pa.float32())})


def divergence(truth: Captured, k: int, read: list[pa.RecordBatch]) -> np.ndarray:
    """Return the nats from the unrounded distributions to the read ones, float64 [P], after checking the ids."""
    ids_PK, logprobs_PK, left_P = truth.kept(k)
    flat = {name: np.concatenate([batch.column(name).flatten().to_numpy() for batch in read])
            for name in ("ids", "logprobs", "tail")}  # fmt: skip
    assert np.array_equal(flat["ids"], ids_PK.ravel()), "ids did not come back as they were"
    read_PK = np.exp(flat["logprobs"].astype(np.float64)).reshape(-1, k)
    p, q = (np.maximum(np.column_stack(both), 1e-12) for both in
            ((np.exp(logprobs_PK.astype(np.float64)), left_P), (read_PK, flat["tail"].astype(np.float64))))  # fmt: skip
    p, q = (values / values.sum(axis=1, keepdims=True) for values in (p, q))
    found: np.ndarray = (p * np.log(p / q)).sum(axis=1)
    return found


def measured(truth: Captured, k: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a line per layout: bytes and tokens/s, of the two codecs also the divergence."""
    batches = truth.batches(k)
    found = list(layouts(batches, k))
    paths = {layout.name: folder / f"{layout.name.replace(', ', '-')}-{k}" for layout in found}
    writes = {layout.name: partial(layout.write, paths[layout.name]) for layout in found}
    for action in writes.values():
        action()
    reads = {layout.name: partial(layout.read, paths[layout.name], None) for layout in found}
    nats = {name: divergence(truth, k, reads[name]()) for name in ("plain", "compact")}
    written, read = interleaved(writes, REPEATS), interleaved(reads, REPEATS)
    for layout in found:
        file, known = paths[layout.name], nats.get(layout.name)
        yield {
            "k": k,
            "layout": layout.name,
            "bytes_top": _column_bytes(file, layout.top) / len(truth),
            "bytes_all": file.stat().st_size / len(truth),
            "kl_mean": None if known is None else float(known.mean()),
            "kl_p99.9": None if known is None else float(np.quantile(known, 0.999)),
            "write_tokens_per_s": len(truth) / median(written[layout.name]),
            "read_tokens_per_s": len(truth) / median(read[layout.name]),
        }


def _column_bytes(path: Path, columns: tuple[str, ...]) -> int:
    if path.name.startswith("published-Arrow"):
        return path.stat().st_size  # it has no other columns
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    return sum(c.total_compressed_size for c in chunks if c.path_in_schema.split(".")[0] in columns)


def read_over_memcpy(truth: Captured, folder: Path) -> float:
    """Return the time to read the two columns of k = 10 from a plain shard over that of copying them."""
    columns, batches = ["ids", "logprobs"], truth.batches(10)
    _write_plain(batches, folder / "memcpy")
    arrays = [np.concatenate([b.column(name).flatten().to_numpy() for b in batches]) for name in columns]
    copies = [np.empty_like(array) for array in arrays]
    sides = {
        "read": lambda: _read(folder / "memcpy", columns),
        "copy": lambda: [np.copyto(*pair) for pair in zip(copies, arrays, strict=True)],
    }
    for action in sides.values():
        action()
    seconds = interleaved(sides, 4 * REPEATS)
    return median(seconds["read"]) / median(seconds["copy"])


def metrics_of(lines: list[dict[str, Any]], ending: str) -> dict[str, float]:
    """Return one model's metrics: those of k = 10 that have goals, and what compares the codecs."""
    at_10 = {line["layout"]: line for line in lines if line["k"] == 10}
    plain, compact = at_10["plain"], at_10["compact"]
    found = {
        "bytes_per_token_k10": plain["bytes_top"],
        "bytes_per_token_k10_all": plain["bytes_all"],
        "kl_mean": plain["kl_mean"],
        "bytes_per_token_k10_compact": compact["bytes_top"],
        "bytes_per_token_k10_compact_all": compact["bytes_all"],
        "kl_mean_compact": compact["kl_mean"],
        "kl_mean_compact_worst_k": max(line["kl_mean"] for line in lines if line["layout"] == "compact"),
        "published_arrow_over_plain_bytes": at_10["published, Arrow"]["bytes_all"] / plain["bytes_top"],
        "compact_write_over_plain": plain["write_tokens_per_s"] / compact["write_tokens_per_s"],
        "compact_read_over_plain": plain["read_tokens_per_s"] / compact["read_tokens_per_s"],
    }
    return {name + ending: value for name, value in found.items()}


def table(model: str, lines: list[dict[str, Any]]) -> Table:
    """Return one model's lines as a table."""
    shown = Table("k", "layout", "B/token, top-k", "all", "KL mean", "p99.9", "write, tokens/s", "read", title=model)
    for line in lines:
        nats = ["" if line[name] is None else f"{line[name]:.1e}" for name in ("kl_mean", "kl_p99.9")]
        speeds = [f"{line[name]:,.0f}" for name in ("write_tokens_per_s", "read_tokens_per_s")]
        sizes = [f"{line[name]:.1f}" for name in ("bytes_top", "bytes_all")]
        shown.add_row(str(line["k"]), line["layout"], *sizes, *nats, *speeds)
    return shown


def main() -> None:
    """Capture what is missing, measure every k and layout, print the tables and write the JSON."""
    arguments = options(__doc__).parse_args()
    documents, goals = (10, {}) if arguments.quick else (30, GOALS)
    metrics: dict[str, float] = {}
    inputs: dict[str, Any] = {"documents": documents, "repeats": REPEATS, "rows_per_group": ROWS, "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for model, ending in list(MODELS.items())[: 1 if arguments.quick else None]:
            truth = captured(model, documents)
            gc.freeze()  # the libraries' own objects need not be looked at between every two timings
            lines = [line for k in SEVERAL_K for line in measured(truth, k, Path(folder))]
            Console(width=120).print(table(model, lines))
            metrics |= metrics_of(lines, ending) | {f"read_over_memcpy{ending}": read_over_memcpy(truth, Path(folder))}
            inputs["models"][model] = {"positions": len(truth), "lines": lines}
    show("the store", metrics, goals)
    write(arguments.json, metrics, goals, inputs)


if __name__ == "__main__":
    main()
