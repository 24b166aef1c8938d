"""Stage adapt: a model is first continued on the training text by plain language modelling, by stage train's trainer.

A source that has not seen the corpus mostly teaches another corpus's manners, and a target that has not seen it spends
its steps on learning them. Where the recipe says so, each is continued a little before it is captured or trained. What
comes out is a model like any other: a Hugging Face folder whose checksum stands in the keys of all that is made by it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from logitfuse.storage.shards import verified_folder, verified_path
from logitfuse.tasks.adapt_card import adapt_card
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.models.home import ModelHome
from logitfuse.tasks.train import common_config, remove_checkpoints, trained
from logitfuse.tasks.training.adapt_settings import AdaptSettings, key_settings, train_settings
from logitfuse.tasks.training.config import PlainText, TextShard, WorkerConfig
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run


def units(run: Run) -> list[Unit]:
    """One unit per model that the recipe adapts; none by default."""
    return [Unit("adapt", label) for label, source in run.given.items() if source.home.settings.adapt is not None]


def work(run: Run, unit: Unit) -> Work:
    """Describe the adaptation of one model.

    Nothing but model, settings and text is in its key, and models that agree in these have one place: the same model,
    as target and source or in two recipes, is adapted once.
    """
    given = run.given[unit.needed_source]
    settings = key_settings(adapt_of(given))
    encoded = tuple(run.record(Unit("encode", given.tokenizer_label, shard)) for shard in run.shard_numbers)

    def compute(path: Path, progress: Progress) -> Counts:
        return trained(run, described, adapt_config(run, described, given, encoded, path), progress)

    described = Work(
        stage="adapt",
        place=f"adapt/{_first_alike(run, given).label}",
        name="model",
        compute=compute,
        settings=settings,
        inputs=(*run.shards, *encoded),  # the prepared ones say what is for training
        fingerprints={"model": given.home.fingerprint, "start": given.start_id, "end": given.end_id},
        folder=True,
        after=lambda: remove_checkpoints(run, described),
    )
    return described


def _first_alike(run: Run, given: Source) -> Source:
    """Return the first model of the run with the same weights that is adapted in the same way."""

    def what(model: Source) -> tuple[object, ...]:
        return model.home.fingerprint, model.home.settings.adapt, model.start_id, model.end_id

    return next(model for model in run.given.values() if what(model) == what(given))


def adapt_of(given: Source) -> AdaptSettings:
    """Return how a model is adapted; only for models that are."""
    settings = given.home.settings.adapt
    assert settings is not None, f"{given.label} is not adapted"
    return settings


def adapt_config(run: Run, described: Work, given: Source, encoded: tuple[Record, ...], out: Path) -> WorkerConfig:
    """Return what the training processes of one adaptation are told."""
    settings = train_settings(adapt_of(given), given.context)
    text = PlainText(
        shards=tuple(_text_shard(run, *records) for records in zip(run.shards, encoded, strict=True)),
        start=given.start_id,
        end=given.end_id,
        domains=adapt_of(given).domains,
    )
    config = common_config(run, described, given, settings, out)
    return config.model_copy(update={"text": text, "card": adapt_card(run, given, settings, encoded)})


def _text_shard(run: Run, prepared: Record, encoded: Record) -> TextShard:
    return TextShard(
        path=verified_path(run.store, encoded).resolve(),
        checksum=encoded.checksum,
        prepared=verified_path(run.store, prepared).resolve(),
        prepared_checksum=prepared.checksum,
    )


def adapted(run: Run, given: Source) -> Source:
    """Return a model as stage adapt has made it, or as it is given where the recipe does not adapt it.

    The record's checksum becomes its fingerprint, so that everything that is made by it has a key of its own.
    Raises `ShardMissing` before the stage is done.
    """
    if given.home.settings.adapt is None:
        return given
    record = run.record(Unit("adapt", given.label))
    home = ModelHome(given.home.settings, partial(verified_folder, run.store, record), record.checksum, adapted=True)
    return replace(given, home=home)
