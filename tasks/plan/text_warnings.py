"""What of a run's text will disappoint though nothing refuses it: what it is, how much of it, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from logitfuse.tasks.adapt import adapt_of
from logitfuse.tasks.plan.amounts import Amounts
from logitfuse.tasks.plan.row import Row
from logitfuse.tasks.plan.rows import shards_of
from logitfuse.tasks.plan.sample import Sample
from logitfuse.tasks.plan.texts import dropped_documents

if TYPE_CHECKING:
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.training.adapt_settings import AdaptSettings
    from logitfuse.tasks.training.settings import TrainSettings

BEYOND = 0.05  # of a model's positions; fewer are no loss
REPEATED = 0.01  # of the documents
MARGIN = 0.8  # texts differ in how many bytes a token has
HOLD_OUT = "Raise corpus.held_out_share, or give the corpus a held-out split of its own."


def text_warnings(run: Run, sample: Sample, amounts: Amounts, rows: list[Row]) -> list[str]:
    """Return what to say of the text, for what these rows have still to do."""
    ahead = {row.stage for row in rows if row.done < row.units}
    found = [*_held_out(run, sample, amounts, ahead), *_beyond(run, amounts, ahead)]
    found += repeats(sample.dropped, amounts.of("documents").value)
    return [*found, *_steps(run, amounts, rows), *_shards(run, amounts, ahead)]


def _held_out(run: Run, sample: Sample, amounts: Amounts, ahead: set[str]) -> Iterator[str]:
    looked = "" if sample.whole or sample.known else " that were looked at"
    documents = f"{round(amounts.of('documents').value) if not looked else len(sample.texts):,} documents{looked}"
    splits = {"headroom": "validation", "evaluate": run.recipe.evaluate.split}
    for split in dict.fromkeys(splits[stage] for stage in splits if stage in ahead):
        if not amounts.of(f"documents/{split}").value:
            stages = " and ".join(stage for stage in splits if stage in ahead and splits[stage] == split)
            yield f"none of the {documents} is in split {split}: {stages} will have nothing to measure. {HOLD_OUT}"


def _beyond(run: Run, amounts: Amounts, ahead: set[str]) -> Iterator[str]:
    most = run.recipe.capture.max_length
    sources = [(label, model) for label, model in run.teachers.items() if label != run.target.label]
    for label, model in sources if "capture" in ahead else ():
        if share := _share(amounts.of(f"beyond/{label}").value, amounts.of(f"positions/{label}").value):
            limited = most is not None and most < model.context
            limit = f"capture.max_length ({most:,})" if limited else f"its context of {model.context:,} tokens"
            other = " Or raise capture.max_length." if limited else ""
            longest = min(model.context, most or model.context)
            yield (
                f"{share} of {label}'s positions lie beyond {limit}: they are not captured, and serve no position of "
                f"the target. {_shorter(run, amounts, model, longest)}{other}"
            )
    target = run.target
    of = amounts.of("beyond/target").value
    if "evaluate" in ahead and (share := _share(of, amounts.of("target/positions").value - of)):
        yield (
            f"{share} of the target's positions lie beyond its context of {target.context:,} tokens: of held-out text "
            f"they are not scored. {_shorter(run, amounts, target, target.context)}"
        )


def _share(beyond: float, within: float) -> str:
    """Return a share in words; empty where it is small."""
    share = beyond / max(beyond + within, 1.0)
    return f"{share:.0%}" if share >= BEYOND else ""


def _shorter(run: Run, amounts: Amounts, model: Source, longest: int) -> str:
    """Advise how to cut the text so that this many tokens of a model hold a chunk."""
    if run.published_split:
        return f"Lower corpus.published_split below {longest:,}, or leave it empty."
    each = amounts.of("bytes").value / max(amounts.of(f"tokens/{model.tokenizer_label}").value, 1.0)
    return f"Lower corpus.max_chunk_bytes ({run.recipe.corpus.max_chunk_bytes:,}) to {int(MARGIN * each * longest):,}."


def prepared_lines(run: Run) -> list[str]:
    """Return what stage prepare itself says of its shards: what it dropped, and that nothing is held out."""
    dropped, splits = dropped_documents(run.shards), {split for one in run.shards for split in one.counts["splits"]}
    found = []
    if count := sum(dropped.values()):
        found.append(f"{count:,} documents repeat held-out text and were dropped ({_reasons(dropped)})")
    if splits <= {"train"}:
        found.append(f"WARNING: no document is held out, so no model can be measured. {HOLD_OUT}")
    return found


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {why}" for why, number in sorted(dropped.items()))


def repeats(dropped: dict[str, int], kept: float) -> list[str]:
    """Return what to say of documents that are dropped because they repeat held-out text, where they are many."""
    count = sum(dropped.values())
    if not count or count < REPEATED * (count + kept):
        return []
    near = " Near duplicates stay with a higher corpus.near_duplicate_overlap." if "near duplicate" in dropped else ""
    return [
        f"{count:,} of {round(count + kept):,} documents repeat held-out text and are dropped ({_reasons(dropped)}). "
        f"A corpus with fewer copies of its documents loses fewer.{near}"
    ]


def _steps(run: Run, amounts: Amounts, rows: list[Row]) -> Iterator[str]:
    """Warn of trainings that have not enough for one step; arms of one run read the same."""
    left = [row for row in rows if row.done < row.units]
    if any(row.stage == "train" for row in left):
        yield from _short("train", "train", run.recipe.train, amounts)
    for row in left:
        if row.stage == "adapt":
            yield from _short(f"adapt/{row.source}", f"adapt of {row.source}", adapt_of(run.given[row.source or ""]),
                              amounts, f"adapt-sequences/{row.source}")  # fmt: skip


def _short(
    name: str, called: str, settings: TrainSettings | AdaptSettings, amounts: Amounts, sequences: str = ""
) -> Iterator[str]:
    field = "sequences_per_step" if settings.sequences_per_step else "tokens_per_step"
    amount = name if sequences else f"{name}/positions"
    wanted, measure = settings.tokens_per_step, "tokens"
    if settings.sequences_per_step:
        amount, wanted, measure = sequences or f"{name}/sequences", settings.sequences_per_step, "sequences"
    there = amounts.of(amount).value * settings.epochs
    if there < wanted:
        yield (
            f"not one step of {called} is whole: the text makes {round(there):,} training {measure}, a step takes "
            f"{wanted:,}. Lower {name.partition('/')[0]}.{field}, or give more text."
        )


def _shards(run: Run, amounts: Amounts, ahead: set[str]) -> Iterator[str]:
    execution, corpus = run.recipe.execution, run.recipe.corpus
    asked = execution.workers > type(execution)().workers
    if not (asked or execution.shards_per_run) or not ahead & {"encode", "capture", "align", "fuse"}:
        return
    if shards_of(run, amounts) == 1:
        documents = round(amounts.of("documents").value)
        who = "one of several workers" if execution.shards_per_run else f"one of {execution.workers} workers"
        yield (
            f"all {documents:,} documents are in one shard, so {who} at a time has work. Lower "
            f"corpus.documents_per_shard ({corpus.documents_per_shard:,}) to "
            f"{max(1, documents // max(2, execution.workers)):,}."
        )
