"""A run like another one on a little of its text, in a scratch folder: what a probe does its stages in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.plan.sample import Text
from logitfuse.tasks.run import Run
from logitfuse.tasks.training.hosts import HostSettings

if TYPE_CHECKING:
    from logitfuse.tasks.recipe import Recipe

BYTES_A_TOKEN = 4
TOKENS = {"cpu": 512, "cuda": 16_384}  # of a shard: enough for a few batches
SHARDS = 3  # the first one warms up
STEPS = 2  # of training; the first one warms up
MICRO_BATCHES = 2  # of a step at most: the second one finds the gradients of the first in memory
SPLITS = {"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"}


@contextmanager
def small_run(run: Run, texts: list[Text], folder: Path) -> Iterator[Run]:
    """Open a run like this one on a few of its documents; the models it has read are not read again."""
    shard = TOKENS["cuda" if run.device == "cuda" else "cpu"] * BYTES_A_TOKEN
    counted = _write(texts, folder / "text", shard)
    corpus = CorpusSettings(
        source=str(folder / "text"), format="jsonl", text_column="text", id_column="id", domain_column="domain",
        held_out_share=0.0, near_duplicate_overlap=None, max_chunk_bytes=run.recipe.corpus.max_chunk_bytes,
        published_split=run.recipe.corpus.published_split, documents_per_shard=max(1, math.ceil(counted / SHARDS)),
    )  # fmt: skip
    small = Run(small_recipe(run.recipe, corpus, folder / "runs"), run.read)
    claim_folder(small.recipe)
    try:
        yield small
    finally:
        small.unload()


def _write(texts: list[Text], folder: Path, shard: int) -> int:
    """Write a few documents of each split, enough for the shards; return how many.

    Held-out ones make at most a shard, because evaluation reads them with every model. Of each split the shortest
    come first: shards of different sizes tell what is each shard's own time and what is its text's.
    """
    folder.mkdir()
    counted = 0
    for split, most in (("validation", shard // 2), ("test", shard // 2), ("train", SHARDS * shard)):
        chosen, size = [], 0
        for document in (text.document for text in texts if text.document.split == split):
            if size >= most:
                break
            chosen.append({"id": document.doc_id, "text": document.text[:most], "domain": document.domain})
            size += len(chosen[-1]["text"].encode())
        lines = [json.dumps(row) for row in sorted(chosen, key=lambda row: len(row["text"]))]
        if lines:
            (folder / SPLITS[split]).write_text("\n".join(lines) + "\n")
        counted += len(lines)
    return counted


def small_recipe(recipe: Recipe, corpus: CorpusSettings, folder: Path) -> Recipe:
    """Return a recipe for the probe: the same but for its text, its folder and how long it trains; nothing is adapted.

    A step takes what one process computes at once, twice if the run's steps do: so few steps tell what a token costs
    and what is held.
    """
    most = MICRO_BATCHES * recipe.train.micro_batch_tokens
    sequences = recipe.train.sequences_per_step
    train = recipe.train.model_copy(
        update={
            "max_steps": STEPS, "epochs": 1000, "documents": "all", "pairwise": False, "control": False,
            "tokens_per_step": min(recipe.train.tokens_per_step, most),
            "sequences_per_step": sequences and min(sequences, math.ceil(most / recipe.train.sequence_length)),
        }
    )  # fmt: skip
    execution = recipe.execution.model_copy(
        update={
            "folder": str(folder), "min_free_gb": 0.0, "shards_per_run": 0, "hosts": HostSettings(),
            "evaluate_every_steps": 0, "tensorboard": False, "wandb": "",
        }
    )  # fmt: skip
    models = {
        "target": recipe.target.model_copy(update={"adapt": None}),
        "sources": tuple(source.model_copy(update={"adapt": None}) for source in recipe.sources),
    }
    changed = {"corpus": corpus, "train": train, "execution": execution, **models}
    return recipe.model_copy(update={**changed, "evaluate": recipe.evaluate.model_copy(update={"ensemble": "none"})})
