"""A recipe as a person would write it: the fields that matter first, each with what it is for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import yaml

from logitfuse.flows.init.sizes import Sizes

COLUMN = 40  # where comments begin


@dataclass(frozen=True)
class Answers:
    """What a user said."""

    name: str
    target: str
    sources: Sequence[str]
    corpus: str
    text_column: str = "text"
    control: bool = True
    folder: str = "runs"


def recipe_text(answers: Answers, sizes: Sizes, about: Sequence[str] = ()) -> str:
    """Return the YAML of a recipe; `about` are lines of comment at its head."""
    lines = [f"# {line}" for line in ("Written by `logitfuse init`. Run it: logitfuse run FILE", *about)]
    lines += ["# Every field that is not written here has its default; names that are not known are refused.", ""]
    for line in (*_models(answers), *_corpus(answers, sizes), *_work(answers, sizes), *_execution(answers, sizes)):
        lines.append(line)
    return "\n".join(lines) + "\n"


def _field(indent: int, name: str, value: str | float | bool, comment: str = "") -> str:
    line = f"{' ' * indent}{name}: {scalar(value)}"
    return f"{line.ljust(COLUMN)} # {comment}" if comment else line


def scalar(value: str | float | bool) -> str:
    """Write a value as YAML reads it back, on one line."""
    if isinstance(value, float):
        text = f"{value:.1e}" if value < 0.001 else repr(value)
        return text if yaml.safe_load(text) == value else repr(value)
    if not isinstance(value, str):
        return json.dumps(value)
    plain = yaml.safe_dump(value, allow_unicode=True, width=10_000).removesuffix("...\n").strip()
    return plain if "\n" not in plain else json.dumps(value)


def _models(answers: Answers) -> Iterator[str]:
    yield _field(0, "name", answers.name, "results lie in a folder of this name")
    yield "target:".ljust(COLUMN) + " # the model that is trained; by default it is a source, too"
    yield _field(2, "model", answers.target, "a local folder, a hub id (owner/name), or package:NAME")
    yield "sources:".ljust(COLUMN) + " # the models that it learns from"
    for source in answers.sources:
        yield _field(2, "- model", source)


def _corpus(answers: Answers, sizes: Sizes) -> Iterator[str]:
    yield "corpus:"
    yield _field(2, "source", answers.corpus, "JSONL, Parquet, text, a folder of them, a hub id")
    if answers.text_column != "text":
        yield _field(2, "text_column", answers.text_column)
    yield _field(
        2, "held_out_share", sizes.held_out_share, "of the documents: never trained on; every model is scored on it"
    )
    yield _field(
        2, "documents_per_shard", sizes.documents_per_shard, "what is redone at once where something goes wrong"
    )
    if sizes.max_chunk_bytes is not None:
        yield _field(
            2, "max_chunk_bytes", sizes.max_chunk_bytes, "short: what a model's context cannot hold is lost; so is time"
        )


def _work(answers: Answers, sizes: Sizes) -> Iterator[str]:
    yield "capture:"
    yield _field(2, "k", 10, "likeliest tokens kept at each position")
    if sizes.tokens_per_batch is not None:
        yield _field(
            2, "tokens_per_batch", sizes.tokens_per_batch, "of a forward pass; small batches stay in a CPU's caches"
        )
    yield "fuse:"
    yield _field(2, "rule", "weighted", "also min_ce, avg_ce (the paper's), bayes")
    yield "train:"
    yield _field(2, "control", answers.control, "also train on the labels alone, to see what fusion adds")
    yield _field(2, "clm_weight", 0.9, "λ: weight of the labels, 1 - λ is that of the fused targets")
    yield _field(2, "learning_rate", sizes.learning_rate, "try a few: no other setting matters as much")
    yield _field(2, "sequence_length", sizes.sequence_length)
    yield _field(2, "tokens_per_step", sizes.tokens_per_step, "of an optimiser step; fewer where there is little text")
    yield _field(2, "micro_batch_tokens", sizes.micro_batch_tokens, "computed at once: lower it when memory is short")
    if sizes.gradient_checkpointing:
        yield _field(2, "gradient_checkpointing", True, "less memory, a third more time")


def _execution(answers: Answers, sizes: Sizes) -> Iterator[str]:
    yield "execution:".ljust(COLUMN) + " # nothing here changes a result"
    yield _field(2, "folder", answers.folder, "holds a folder per run")
    if sizes.processes > 1:
        yield _field(2, "processes", sizes.processes, "training processes, one per GPU")
    if sizes.sharded:
        yield _field(2, "sharded", True, "the target does not fit into one GPU in training")
