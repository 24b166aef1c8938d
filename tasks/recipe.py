"""A recipe: one run, from corpus to fused model, as YAML, `--set` options or Prefect's form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from logitfuse.storage.errors import BadInput
from logitfuse.storage.places import run_folder, run_place
from logitfuse.storage.settings import Settings
from logitfuse.tasks.align_settings import AlignSettings, check_align_inputs
from logitfuse.tasks.arms import arms, pair_sources
from logitfuse.tasks.capture_settings import CaptureSettings
from logitfuse.tasks.check import CheckSettings
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.encode import EncodeSettings
from logitfuse.tasks.ensemble import ENSEMBLE
from logitfuse.tasks.ensemble import weights_of as ensemble_members
from logitfuse.tasks.evaluate import EvaluateSettings
from logitfuse.tasks.execution import Execution
from logitfuse.tasks.fuse_settings import FuseSettings, check_advantage, check_inputs, check_weights, weights_among
from logitfuse.tasks.merge_settings import MERGED, MergeSettings, check_merge, merges
from logitfuse.tasks.models.reference import FOLDER_NAME, LONGEST_LABEL, ModelSettings
from logitfuse.tasks.recipe_text import recipe_content
from logitfuse.tasks.settings_errors import explain
from logitfuse.tasks.suites_settings import SuiteSettings
from logitfuse.tasks.training.settings import TrainSettings
from logitfuse.tasks.vocabulary_map import MapSettings


class Recipe(Settings):
    """Everything that defines one run."""

    model_config = {"title": "Recipe"}

    name: str = Field(
        "run",
        title="Name",
        description="Name of the run and of its folder: letters, digits, '-', '_' and '.'. A run of the same name goes "
        "on in the same folder.",
        json_schema_extra={"pattern": FOLDER_NAME},
    )
    target: ModelSettings = Field(
        ModelSettings(), title="Target", description="The model that is trained; by default it is a source too."
    )
    sources: tuple[ModelSettings, ...] = Field(
        (ModelSettings(model="package:gemma3-270m"),),
        title="Sources",
        description="The models whose knowledge is fused into the target.",
    )
    include_target: bool = Field(
        True, title="Target is a source", description="Also keep what the target itself predicted before training."
    )
    corpus: CorpusSettings = Field(CorpusSettings(), title="Corpus")
    encode: EncodeSettings = Field(EncodeSettings(), title="Encode")
    check: CheckSettings = Field(CheckSettings(), title="Check")
    capture: CaptureSettings = Field(CaptureSettings(), title="Capture")
    map: MapSettings = Field(MapSettings(), title="Vocabulary map")
    align: AlignSettings = Field(AlignSettings(), title="Align")
    fuse: FuseSettings = Field(FuseSettings(), title="Fuse")
    train: TrainSettings = Field(TrainSettings(), title="Train")
    merge: MergeSettings = Field(MergeSettings(), title="Merge")
    evaluate: EvaluateSettings = Field(EvaluateSettings(), title="Evaluate")
    suites: SuiteSettings = Field(SuiteSettings(), title="Suites")
    execution: Execution = Field(Execution(), title="Execution")

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
            raise ValueError(f"{name!r} becomes a folder's name: use letters, digits, '-', '_' and '.' only")
        if len(name.encode()) > LONGEST_LABEL:
            raise ValueError(f"it becomes a folder's name of more than {LONGEST_LABEL} bytes; give a shorter one")
        return name

    @model_validator(mode="after")
    def _sources_differ(self) -> Recipe:
        if not self.sources and not self.include_target:
            raise ValueError("sources: there is none; list at least one, or set include_target")
        seen: dict[str, str] = {self.target.label: "target"} if self.include_target else {}
        models = {self.target.weights: "the target"} if self.include_target else {}
        for number, source in enumerate(self.sources):
            if source.weights in models:
                raise ValueError(f"sources: {source.model!r} is listed twice (it is {models[source.weights]} already)")
            other = source.weights != self.target.weights and source.label == self.target.label
            if source.label in seen or other:
                raise ValueError(f"sources: two models are called {source.label!r}; give one another name")
            seen[source.label] = models[source.weights] = f"source {number + 1}"
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        labels = [self.target.label] if self.include_target else []
        labels += [source.label for source in self.sources]
        check_align_inputs(self.align, self.capture, self.include_target)
        check_weights(self.fuse, labels)
        check_advantage(self.fuse, labels, self.target.label)
        if self.train.documents != "all" and self.fuse.granularity == "block":
            raise ValueError(
                f"train.documents: {self.train.documents!r} cannot be told apart in fuse.granularity 'block', whose "
                "blocks hold several documents; set it to all, or fuse by document"
            )
        check_inputs(
            self.fuse,
            past_end=self.capture.past_end,
            logits=self.align.values == "logits",
            start=0 if self.target.start == "bos" else None,  # what `auto` finds is checked once the model is there
            end=0 if self.target.end == "eos" else None,
        )
        return self

    @model_validator(mode="after")
    def _baselines_fit(self) -> Recipe:
        made = arms(self) + [MERGED] * merges(self) + [ENSEMBLE] * (self.evaluate.ensemble != "none")
        for model in (self.target, *self.sources):
            if model.label in made:
                raise ValueError(f"{model.label!r} is what this run calls a model of its own; give that one a `name`")
        check_merge(self, arms(self))
        own = [self.target.label] if self.include_target else []
        for source in pair_sources(self):
            check_weights(weights_among(self.fuse, [*own, source]), [*own, source])
        if self.evaluate.ensemble != "none" or self.evaluate.ensemble_weights:
            ensemble_members(self.evaluate.ensemble_weights, [self.target.label, *(s.label for s in self.sources)])
        return self

    @property
    def folder(self) -> Path:
        """The run's folder on this machine; where the run is in an object store, the copy that is worked on."""
        return run_folder(self.execution.folder, self.name)

    @property
    def place(self) -> str:
        """How messages call the run's folder: its path or URL."""
        return run_place(self.execution.folder, self.name)


def read_recipe(path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file, or a shipped one by name, and apply `a.b=value` overrides.

    Raises `BadInput` naming the file, the field, what is wrong and the closest known name.
    """
    return parse_recipe(recipe_content(path, overrides), path)


def parse_recipe(content: dict[str, Any], where: str) -> Recipe:
    """Validate a recipe's content; `where` names it in messages."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise BadInput(f"{where}: {explain(error, Recipe)}") from None
