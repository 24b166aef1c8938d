"""The runs of a study's jobs: all in one folder, so that what they share is made once."""

from __future__ import annotations

from pathlib import Path

from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.models.source import Source, read_source
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.study.plan import Job
from logitfuse.tasks.study.settings import Split


class Opened:
    """Opens a job's run. Models are found and tokenizers read once, whatever the number of jobs."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._runs: dict[tuple[str, int | None, str], Run] = {}

    def run(self, job: Job, split: Split | None = None) -> Run:
        """Return the run of a job, with another split to be evaluated on if one is given."""
        recipe = job.recipe if split is None else on_split(job.recipe, split)
        place = (job.variant, job.seed, recipe.evaluate.split)
        if place not in self._runs:
            self._runs[place] = Run(recipe, self._read)
        return self._runs[place]

    def _read(self, settings: ModelSettings) -> Source:
        name = settings.model_dump_json()
        if name not in self._sources:
            self._sources[name] = read_source(settings)
        return self._sources[name]


def on_split(recipe: Recipe, split: Split) -> Recipe:
    """Return the recipe with its models evaluated on this split."""
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"split": split})})


def study_folder(recipe: Recipe) -> Path:
    """Return where a study keeps what is its own, within its run folder."""
    return recipe.folder / "study"
