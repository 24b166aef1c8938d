"""What Prefect adds to a stage: time per shard, time of a run with nothing to do, growth of the server's database.

    python benchmarks/orchestration.py --json orchestration.json      # 2,000 shards, some minutes

fan_out_overhead: a stage of 2,000 shards as Prefect tasks against the same stage without Prefect, each doing the real
(and here very short) work; what a shard takes longer, over the 5 s that a real one takes at least, plus one.
nothing_to_do_s: a pipeline's flow run that finds everything up to date, server and worker running.
database_growth: what the server's database grows by in a run over documents ten times as long, over what it grows by
in a run over the documents; the number of shards is the same.
"""

import json
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from corpus_growth import tiny_model
from measure import at_most, interleaved, options, show, write

from logitfuse.flows.prefect_settings import quiet_defaults
from logitfuse.tasks.recipe import Recipe

SECONDS_A_SHARD = 5.0
TIMES = 10
GOALS = {"fan_out_overhead": at_most(1.02), "nothing_to_do_s": at_most(10.0), "database_growth": at_most(1.05)}


def main() -> None:
    """Print the table and write the JSON."""
    parser = options(__doc__)
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    shards, rounds = (100, 1) if arguments.quick else (arguments.shards, arguments.rounds)
    quiet_defaults()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            metrics, seconds = measure(folder, shards, rounds)
    show("Prefect beside the work", metrics, GOALS, seconds)
    write(arguments.json, metrics, GOALS, {"shards": shards, "rounds": rounds, "seconds": seconds})


def measure(folder: Path, shards: int, rounds: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return (metrics, seconds of each side); a Prefect server is running."""
    model = tiny_model("gpt-2", folder)
    make = Maker(folder, model, shards)
    with_prefect(make("warm", 1, shards=4))
    without_prefect(make("warm-plain", 1, shards=4))
    ready = {name: iter([make(name, 1) for _ in range(rounds)]) for name in ("prefect", "plain")}
    sides: dict[str, Callable[[], None]] = {
        "prefect": lambda: with_prefect(next(ready["prefect"])),
        "plain": lambda: without_prefect(next(ready["plain"])),
    }
    seconds = interleaved(sides, rounds)
    extra = (statistics.median(seconds["prefect"]) - statistics.median(seconds["plain"])) / shards
    growth = [grown(make, f"long-{times}", times) for times in (1, TIMES)]
    metrics = {
        "fan_out_overhead": 1 + extra / SECONDS_A_SHARD,
        "nothing_to_do_s": nothing_to_do(make("idle", 1, shards=4)),
        "database_growth": growth[1] / growth[0],
    }
    return metrics, seconds


class Maker:
    """Makes runs that are prepared and not encoded: one short document a shard."""

    def __init__(self, folder: Path, model: Path, shards: int) -> None:
        self._folder, self._model, self._shards, self._made = folder, model, shards, 0

    def __call__(self, name: str, times: int, shards: int | None = None) -> Recipe:
        """Return a recipe whose corpus is prepared; `times`: how long its documents are."""
        from logitfuse.tasks.checks import claim_folder
        from logitfuse.tasks.execute import do_prepare
        from logitfuse.tasks.run import Run

        count = shards or self._shards
        corpus = self._folder / f"{count}-{times}.jsonl"
        if not corpus.exists():
            draw = random.Random(0)
            words = ["fusing", "large", "language", "models", "of", "several", "vocabularies"]
            texts = (" ".join(draw.choices(words, k=40 * times)) for _ in range(count))
            corpus.write_text("".join(json.dumps({"id": str(at), "text": t}) + "\n" for at, t in enumerate(texts)))
        self._made += 1
        recipe = Recipe.model_validate(
            {
                "name": f"{name}-{self._made}",
                "target": {"model": str(self._model), "dtype": "float32"},
                "sources": [],
                "corpus": {"source": str(corpus), "documents_per_shard": 1, "near_duplicate_overlap": None},
                "execution": {"folder": str(self._folder / "runs"), "min_free_gb": 0, "device": "cpu"},
            }
        )
        claim_folder(recipe)
        do_prepare(Run(recipe))
        return recipe


def with_prefect(recipe: Recipe) -> None:
    """Encode a run as its stage's flow does."""
    from logitfuse.flows.stages import encode_flow

    encode_flow(recipe)


def without_prefect(recipe: Recipe) -> None:
    """Encode a run without Prefect, as many shards at once."""
    from logitfuse.tasks.execute import do_units
    from logitfuse.tasks.run import Run

    run = Run(recipe)
    for _ in do_units(run, run.units("encode")):
        pass


def nothing_to_do(recipe: Recipe) -> float:
    """Return the seconds of a flow run over stages that are done."""
    from logitfuse.flows.pipeline import pipeline

    with_prefect(recipe)
    began = time.perf_counter()
    assert pipeline(recipe, "prepare", "encode").startswith("nothing to do")
    return time.perf_counter() - began


def grown(make: Maker, name: str, times: int) -> float:
    """Return by how many bytes a run makes the server's database grow."""
    recipe = make(name, times, shards=100)
    before = database_bytes()
    with_prefect(recipe)
    time.sleep(3)  # logs and events are written behind
    return database_bytes() - before


def database_bytes() -> int:
    """Return how many bytes the temporary server's SQLite database holds."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL as URL

    path = str(URL.value()).partition("///")[2]
    with sqlite3.connect(path) as database:
        pages, size = (database.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages) * int(size)


if __name__ == "__main__":
    main()
