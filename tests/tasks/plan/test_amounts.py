"""What a plan counts before a run is what the run then has; what it samples lies in its interval."""

from pathlib import Path

import numpy as np
import pytest
from done_runs import done_run

from logitfuse.tasks.execute import do_unit
from logitfuse.tasks.plan.amounts import count
from logitfuse.tasks.plan.texts import read_sample
from logitfuse.tasks.plan.training_amounts import training_steps
from logitfuse.tasks.run import Run
from logitfuse.tasks.training.plan import StepPlan
from logitfuse.tasks.training.settings import TrainSettings
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.usefixtures("in_this_process")


def test_a_small_corpus_is_counted_to_the_token(recipe_for) -> None:
    recipe = recipe_for(train={"max_steps": 1, "dtype": "fp32", "sequence_length": 128, "documents": "even"})
    sample = read_sample(Run(recipe), 1 << 20)
    assert sample.whole
    found = count(Run(recipe), sample)
    run = done_run(recipe.model_dump(mode="json"), ["encode", "capture", "map", "align", "fuse", "train"])
    records = {stage: [run.record(unit) for unit in run.units(stage)] for stage in ("encode", "capture", "fuse")}
    for name in ("documents", "chunks", "bytes"):
        assert found.of(name).exact and found.of(name).value == sum(r.counts[name] for r in run.shards)
    for label in run.tokenizers:
        tokens = [r.counts["tokens"] for r in records["encode"] if label in r.place]
        assert found.of(f"tokens/{label}").value == sum(tokens) > 0
    for label in run.teachers:
        positions = [r.counts["positions"] for r in records["capture"] if r.place.endswith(label)]
        assert found.of(f"positions/{label}").value == sum(positions)
    assert found.of("target/positions").value == sum(r.counts["positions"] for r in records["fuse"])
    assert run.record(Unit("train", "fused")).made["peak_memory_bytes"] > 1e8  # to be held against the plan's
    held_out = do_unit(run, Unit("evaluate", run.target.label)).record
    assert found.of(f"evaluate/{run.target.label}").value == held_out.counts["tokens"]
    again = count(run, read_sample(run, 1 << 20))  # from the shards, now that they are there
    for name in ("train/positions", "train/sequences", "validation/positions", "bytes"):
        assert again.of(name) == found.of(name)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text"])
def test_a_sample_is_taken_from_all_over_the_corpus(recipe_for, kind: str) -> None:
    recipe = recipe_for(3000, kind, corpus={"format": "auto"})
    whole = count(Run(recipe), read_sample(Run(recipe), 1 << 30))
    sample = read_sample(Run(recipe), 120_000)
    assert not sample.whole and len(sample.texts) < 2000
    found = count(Run(recipe), sample)
    for name in ("documents", "bytes", f"tokens/{Run(recipe).target.tokenizer_label}", "train/positions"):
        truth, estimate = whole.of(name).value, found.of(name)
        known = {"parquet": "documents", "text": "bytes"}.get(kind)  # from its footer, or its files' sizes
        assert estimate.exact == (name == known)
        assert abs(estimate.value / truth - 1) < 0.12, (name, estimate, truth)
        wider = 1.6 * (estimate.high - estimate.low) / 2  # 3 standard errors: one seed must not fail
        assert abs(estimate.value - truth) <= max(wider, 0.01 * truth), (name, estimate, truth)


def test_what_is_read_whole_is_counted_though_not_tokenised(recipe_for) -> None:
    recipe = recipe_for(1000)
    whole = count(Run(recipe), read_sample(Run(recipe), 1 << 30))
    sample = read_sample(Run(recipe), 100_000)
    found = count(Run(recipe), sample)
    assert not sample.whole and len(sample.texts) < 500
    for name in ("documents", "chunks", "bytes", "documents/train", "documents/validation"):
        assert found.of(name) == whole.of(name)
    for label in Run(recipe).tokenizers:
        truth, estimate = whole.of(f"tokens/{label}").value, found.of(f"tokens/{label}")
        assert not estimate.exact and estimate.value == pytest.approx(truth, rel=0.02)


def test_limits_of_the_recipe_hold_for_samples_too(recipe_for) -> None:
    recipe = recipe_for(3000, corpus={"max_documents": 1200, "held_out_share": 0.0})
    found = count(Run(recipe), read_sample(Run(recipe), 20_000))
    assert found.of("documents").value == 1200
    recipe = recipe_for(3000, corpus={"domains": ["a"], "documents_per_domain": 300, "held_out_share": 0.0})
    found = count(Run(recipe), read_sample(Run(recipe), 120_000))
    assert abs(found.of("documents").value / 300 - 1) < 0.1


@pytest.mark.parametrize(("per_step", "most"), [(None, None), (None, 3), (7, None)])
def test_steps_are_those_of_the_trainer(per_step: int | None, most: int | None) -> None:
    lengths = np.random.default_rng(1).integers(20, 400, 900).astype(np.int32)
    settings = TrainSettings(tokens_per_step=4096, sequences_per_step=per_step, max_steps=most, epochs=2)
    wanted = len(StepPlan(lengths, np.zeros(900, np.int32), settings))
    found = training_steps(float(lengths.sum()), 900.0, settings)
    assert abs(found - wanted) <= max(1, 0.01 * wanted)


def test_nothing_is_written(recipe_for, tmp_path: Path) -> None:
    recipe = recipe_for()
    before = sorted(tmp_path.rglob("*"))
    count(Run(recipe), read_sample(Run(recipe), 1 << 20))
    assert sorted(tmp_path.rglob("*")) == before
