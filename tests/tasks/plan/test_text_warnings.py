"""What a plan says of a text that will disappoint though nothing refuses it."""

from done_runs import done_run

from logitfuse.tasks.plan.facts import plan_facts
from logitfuse.tasks.plan.plan import glance
from logitfuse.tasks.plan.text_warnings import prepared_lines, repeats
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER

ENOUGH = {"dtype": "fp32", "sequence_length": 128, "tokens_per_step": 64, "micro_batch_tokens": 64}


def warnings(recipe, stages=ORDER) -> list[str]:
    return glance(Run(recipe), stages).warnings


def test_a_text_that_serves_is_not_warned_of(recipe_for) -> None:
    assert warnings(recipe_for(train=ENOUGH)) == []


def test_nothing_is_held_out(recipe_for) -> None:
    recipe = recipe_for(corpus={"held_out_share": 0.0}, train=ENOUGH)
    (said,) = warnings(recipe)
    assert "40 documents" in said and "headroom and evaluate" in said and "corpus.held_out_share" in said
    assert warnings(recipe, ["prepare", "encode", "fuse"]) == [], "what is not measured needs none"
    run = done_run(recipe.model_dump(mode="json"), [])
    assert "no document is held out" in prepared_lines(run)[0]
    assert plan_facts(run, glance(run, ORDER))["warnings"] == [said]


def test_positions_beyond_a_context(recipe_for) -> None:
    long, short = {"max_chunk_bytes": 4000}, {"k": 4, "max_length": 20}
    source, target = warnings(recipe_for(corpus=long, capture=short, train=ENOUGH))
    assert "second's positions lie beyond capture.max_length (20)" in source and "Or raise" in source
    assert "of the target's positions lie beyond its context of 256 tokens" in target
    assert "corpus.max_chunk_bytes (4,000) to " in source and "corpus.max_chunk_bytes (4,000) to " in target
    advised = int(target.rpartition(" to ")[2].rstrip(".").replace(",", ""))
    assert warnings(recipe_for(corpus={"max_chunk_bytes": advised}, train=ENOUGH)) == [], "as advised, all is read"


def test_not_one_step_is_whole(recipe_for) -> None:
    (said,) = warnings(recipe_for(train={"dtype": "fp32", "tokens_per_step": 1_000_000}))
    assert "not one step of train is whole" in said and "1,000,000" in said and "train.tokens_per_step" in said
    (said,) = warnings(recipe_for(train={"dtype": "fp32", "sequences_per_step": 5000}))
    assert "5,000" in said and "train.sequences_per_step" in said
    assert not warnings(recipe_for(train={"dtype": "fp32", "tokens_per_step": 1_000_000}), ["prepare", "fuse"])


def test_one_shard_for_several_workers(recipe_for) -> None:
    execution = {"folder": "runs", "min_free_gb": 0, "device": "cpu", "workers": 8}
    (said,) = warnings(recipe_for(corpus={"documents_per_shard": 2000}, execution=execution, train=ENOUGH))
    assert "40 documents are in one shard" in said and "8 workers" in said and "(2,000) to 5." in said
    assert not warnings(recipe_for(execution=execution, train=ENOUGH)), "they are in three"


def test_documents_that_repeat_held_out_text() -> None:
    assert repeats({"exact duplicate": 1}, 200.0) == [] and repeats({}, 0.0) == []
    (said,) = repeats({"exact duplicate": 2, "near duplicate": 1}, 97.0)
    assert "3 of 100 documents" in said and "2 exact duplicate, 1 near duplicate" in said
    assert "corpus.near_duplicate_overlap" in said
