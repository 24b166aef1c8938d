"""Memory must not grow with a corpus or a shard: only what is kept of each shard (its record) may add up.

Peaks are those of Python and NumPy (tracemalloc) and of Arrow; what whole processes take is for the benchmarks
(`pipeline.py --growth`, `scale.py`).
"""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from paper_models import recipe_content

from logitfuse.tasks.execute import do_prepare, do_units
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run

STAGES = ("prepare", "encode", "capture", "map", "align", "fuse", "headroom")
DOCUMENTS, TIMES = 32, 4
A_RECORD = 20_000  # bytes: what a run keeps of a shard that a stage has done (11 kB were measured)
A_DOCUMENT = 600  # bytes: its id's hash, and the wording of a held-out one


@pytest.fixture
def arrow() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the most bytes Arrow has held since it was last asked."""
    usual = pa.default_memory_pool()
    counting = [pa.proxy_memory_pool(usual)]
    pa.set_memory_pool(counting[0])

    def most() -> int:
        found: int = counting[0].max_memory()
        counting.append(counting[0])  # arrays may outlive the count
        counting[0] = pa.proxy_memory_pool(usual)
        pa.set_memory_pool(counting[0])
        return found

    yield most
    pa.set_memory_pool(usual)


def peaks(run: Run, arrow: Callable[[], int]) -> dict[str, tuple[int, int]]:
    """Do all data stages; return (bytes at the peak of each beyond what was there before, units)."""
    found = {}
    assert run.target and run.teachers  # tokenizers are read now, not inside a stage
    for stage in STAGES:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()  # nothing unless it was started
        tracemalloc.reset_peak()
        arrow()
        outcomes = do_prepare(run) if stage == "prepare" else [made for _, made in do_units(run, run.units(stage))]
        assert all(outcome.state == "done" for outcome in outcomes)
        found[stage] = (tracemalloc.get_traced_memory()[1] - before + arrow(), len(outcomes))
    run.unload()
    return found


@pytest.mark.slow
def test_no_stage_holds_more_of_a_longer_corpus(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, arrow: Callable[[], int]
) -> None:
    models = tmp_path_factory.getbasetemp() / "models"
    models.mkdir(exist_ok=True)

    def measured(name: str, documents: int) -> dict[str, tuple[int, int]]:
        folder = tmp_path / name
        folder.mkdir()
        content = recipe_content(folder, models, documents)
        content["execution"]["workers"] = 1  # two shards at once hold up to twice as much, as chance has it
        return peaks(Run(Recipe.model_validate(content)), arrow)

    measured("compiles", DOCUMENTS // 2)
    tracemalloc.start()
    try:
        once, often = measured("once", DOCUMENTS), measured("often", TIMES * DOCUMENTS)
    finally:
        tracemalloc.stop()
    for stage in STAGES:
        (least, few), (most, many) = once[stage], often[stage]
        kept = (many - few) * A_RECORD + (TIMES - 1) * DOCUMENTS * A_DOCUMENT
        assert most <= 1.1 * least + kept, f"{stage}: {least:,} bytes once, {most:,} at {TIMES} times the corpus"
