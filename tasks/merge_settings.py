"""Settings of stage merge: which models' weights become one, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from logitfuse.kernels.closest_name import known_names
from logitfuse.kernels.merging import MERGES
from logitfuse.storage.settings import Settings
from logitfuse.tasks.arms import pair_arms
from logitfuse.tasks.strategy import checked_options, normal_options, options_field, strategy_field

if TYPE_CHECKING:
    from logitfuse.tasks.recipe import Recipe

MERGED = "merged"
TARGET = "target"


class MergeSettings(Settings):
    """Merging of weights: models of one architecture become one. Nothing is merged unless models are named."""

    model_config = {"title": "Merge"}

    method: str = strategy_field(
        MERGES,
        "sce",
        "Merging method",
        "linear: the weighted mean. ties, dare, varm, sce: from what each model has learnt beyond the base, with less "
        "interference.",
    )
    options: dict[str, Any] = options_field(MERGES, "Options of the method")
    models: tuple[str, ...] = Field(
        (),
        title="Models",
        description="What is merged: short names of target and sources, arms (fused, control, fused-NAME), folders, "
        "hub ids or package:NAME. Empty: the pairwise fused models where train.pairwise is set, else nothing.",
    )
    weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        {}, title="Weights of models", description="Weight of a model as it is named in models, 1 where not given."
    )
    base: str = Field(
        TARGET,
        title="Base",
        description="The model that all of them were continued from, named likewise; target is the run's own.",
    )

    @field_validator("method")
    @classmethod
    def _is_known(cls, name: str) -> str:
        MERGES.get(name)
        return name

    @field_validator("options")
    @classmethod
    def _fit(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return normal_options(MERGES, info.data.get("method"), options)

    @model_validator(mode="after")
    def _have_a_meaning(self) -> MergeSettings:
        checked_options(MERGES, self.method, self.options)
        if len(set(self.models)) < len(self.models):
            raise ValueError("models: one is listed twice; give it a weight instead")
        if len(self.models) == 1:
            raise ValueError(f"models: {self.models[0]!r} alone cannot be merged; name at least two")
        return self


def merges(recipe: Recipe) -> bool:
    """Whether there is anything to merge."""
    return bool(recipe.merge.models or recipe.train.pairwise)


def merged_models(recipe: Recipe) -> dict[str, float]:
    """Return what is merged, by name, with its weight."""
    names = recipe.merge.models or tuple(pair_arms(recipe))
    return {name: recipe.merge.weights.get(name, 1.0) for name in names}


def key_settings(settings: MergeSettings) -> MergeSettings:
    """Return the method and its options; the models stand in the key by what they hold, not by their names."""
    return MergeSettings(method=settings.method, options=settings.options)


def check_merge(recipe: Recipe, arms: list[str]) -> None:
    """Check the names that merging and pairwise fusion need; `arms` are those that are trained. Raises ValueError."""
    if recipe.train.pairwise and len(recipe.sources) < 2:
        raise ValueError("train.pairwise: it is for several sources; from a single one arm fused learns the same")
    if not merges(recipe):
        return
    models = [TARGET, recipe.target.label, *(source.label for source in recipe.sources), *arms]
    for name in (*recipe.merge.models, recipe.merge.base):
        if name not in models and "/" not in name and ":" not in name:
            raise ValueError(f"merge: no model is called {name!r}. {known_names(name, models)}")
    if recipe.merge.base in arms:
        raise ValueError(f"merge.base: {recipe.merge.base!r} is trained here; name what it was continued from")
    for name in recipe.merge.weights:
        if name not in merged_models(recipe):
            raise ValueError(f"merge.weights: {name!r} is not merged. {known_names(name, merged_models(recipe))}")
