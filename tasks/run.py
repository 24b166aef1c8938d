"""One run: a recipe, its models and its store, and the question every stage asks: what is done already?"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from logitfuse.storage.errors import ShardMissing
from logitfuse.storage.places import open_store
from logitfuse.storage.records import Record
from logitfuse.tasks import prepare
from logitfuse.tasks.about import about
from logitfuse.tasks.adapt import adapted
from logitfuse.tasks.engine import Work, find
from logitfuse.tasks.models.causal import CausalModel, load_causal_model
from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.models.source import Source, read_source
from logitfuse.tasks.published_split import PublishedSplit, published_split
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.stages import STAGES
from logitfuse.tasks.unit import Unit


class Run:
    """Gives stages their models, inputs and keys. Reading only: making things is the engine's part."""

    def __init__(self, recipe: Recipe, read: Callable[[ModelSettings], Source] = read_source) -> None:
        """`read` finds a model and its tokenizer; whoever opens many runs of the same models gives one that keeps."""
        self.recipe = recipe
        self.read = read
        self.store = open_store(recipe.execution.folder, recipe.name)
        self._records: dict[Unit, Record] = {}
        self._loaded: tuple[Path, CausalModel] | None = None

    @cached_property
    def target(self) -> Source:
        with about("target.model"):
            return self.read(self.recipe.target)

    @cached_property
    def teachers(self) -> dict[str, Source]:
        """The models that are captured, by label: the target first, where it is one of them."""
        found = [self.target] if self.recipe.include_target else []
        for number, settings in enumerate(self.recipe.sources):
            with about(f"sources.{number}.model"):
                found.append(self.read(settings))
        return {source.label: source for source in found}

    @cached_property
    def tokenizers(self) -> dict[str, Source]:
        """One model per tokenizer, by the tokenizer's label; the target's among them."""
        models = [self.target, *self.teachers.values()]
        return {source.tokenizer_label: source for source in reversed(models)}

    def called(self, stage: str, source: str | None) -> str | None:
        """Name a stage's source for people: a tokenizer after the first model that has it, its label tells nobody."""
        if stage in ("encode", "map") and source in self.tokenizers:
            return f"{self.tokenizers[source].label}'s tokenizer"
        return source

    @cached_property
    def given(self) -> dict[str, Source]:
        """All models of the run as the recipe names them, by label: the target first."""
        return {self.target.label: self.target, **self.teachers}

    def model(self, label: str) -> Source:
        """Return a model as the run uses it: adapted where the recipe says so, else as it is given.

        Vocabulary and tokenizer are the given model's. Raises `ShardMissing` before stage adapt has made it.
        """
        return adapted(self, self.given[label])

    @property
    def device(self) -> str:
        chosen = self.recipe.execution.device
        return ("cuda" if torch.cuda.is_available() else "cpu") if chosen == "auto" else chosen

    @cached_property
    def shards(self) -> list[Record]:
        """Records of the prepared shards, in order; raises `ShardMissing` before prepare has run."""
        return prepare.prepared_shards(self.recipe.corpus, self.store, self.published_split)

    @cached_property
    def published_split(self) -> PublishedSplit | None:
        """How the published code cuts documents, where the recipe asks for it; it needs every model's tokenizer."""
        threshold = self.recipe.corpus.published_split
        models = [self.target, *(s for s in self.teachers.values() if s is not self.target)] if threshold else []
        return published_split(models, threshold)

    @property
    def shard_numbers(self) -> range:
        return range(len(self.shards))

    def prepared(self, shard: int) -> Record:
        return self.shards[shard]

    def forget(self) -> None:
        """Look at the store afresh, after prepare has run."""
        self.__dict__.pop("shards", None)
        self._records.clear()

    def loaded(self, source: Source) -> CausalModel:
        """Return a source's model, keeping one in memory at a time."""
        if self._loaded is None or self._loaded[0] != source.home.folder:
            self._loaded = None
            model = load_causal_model(source.home.folder, source.home.settings.dtype, self.device)
            self._loaded = (source.home.folder, model)
        return self._loaded[1]

    def unload(self) -> None:
        """Let go of the model in memory."""
        self._loaded = None

    def units(self, stage: str) -> list[Unit]:
        """Return all units of a stage, in the order in which they are done."""
        return STAGES[stage].units(self)

    def work(self, unit: Unit) -> Work:
        """Describe one unit; raises `ShardMissing` if what it reads is not there yet."""
        return STAGES[unit.stage].work(self, unit)

    def record(self, unit: Unit) -> Record:
        """Return the record of a unit that is done with the wanted key; raise `ShardMissing` otherwise."""
        if unit not in self._records:
            record = find(self.store, self.work(unit))
            if record is None:
                raise ShardMissing(f"{unit} is not there yet. Run: logitfuse stage {unit.stage} RECIPE")
            self._records[unit] = record
        return self._records[unit]
