"""What a study has to do: a job for each variant and seed, the cheap ones first."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitfuse.kernels.closest_name import known_names
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.recipe import Recipe, parse_recipe
from logitfuse.tasks.study.reading import apply_settings
from logitfuse.tasks.study.settings import ENSEMBLE, FUSED, TARGET, Study, Variant
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.corpus.settings import CorpusSettings


@dataclass(frozen=True)
class Job:
    """A variant with one seed (None where nothing is trained), as the recipe that makes it."""

    variant: str
    seed: int | None
    recipe: Recipe
    what: Variant

    @property
    def label(self) -> str | None:
        """Name of the model that is evaluated; None where the fused targets' headroom is all."""
        if self.what.model == TARGET:
            return self.recipe.target.label
        return None if not self.what.train and self.what.model == FUSED else self.what.model

    @property
    def model(self) -> Unit | None:
        """The unit that evaluates it."""
        return Unit("evaluate", self.label) if self.label else None

    def __str__(self) -> str:
        return self.variant if self.seed is None else f"{self.variant}, seed {self.seed}"


def plan(study: Study, base: dict[str, Any], *, scale: float = 1.0, only: Collection[str] = ()) -> list[Job]:
    """Return the jobs of a study in the order in which they are done, `only` those of some variants.

    First what needs no training, then seed by seed, so that a study that is stopped has whole seeds. Raises `BadInput`
    for a name that is no variant, a recipe that is none, and variants that could not be compared.
    """
    for name in only:
        if name not in study.variants:
            raise BadInput(f"--only {name}: there is no such variant. {known_names(name, study.variants)}")
    chosen = {name: v for name, v in study.variants.items() if not only or name in only}
    without = {n: Job(n, None, variant_recipe(study, base, n, None, scale), v) for n, v in chosen.items()}
    jobs = [job for job in without.values() if not is_trained(job)]
    jobs.sort(key=lambda job: job.label is None)  # evaluating a model is cheaper than capturing several
    trained = {name: study.seeds_of(variant) for name, variant in chosen.items() if is_trained(without[name])}
    for seed in dict.fromkeys(seed for seeds in trained.values() for seed in seeds):
        names = [name for name, seeds in trained.items() if seed in seeds]
        jobs += [Job(n, seed, variant_recipe(study, base, n, seed, scale), chosen[n]) for n in names]
    _refuse_other_text(study, jobs)
    return jobs


def is_trained(job: Job) -> bool:
    """Return whether a variant's model depends on a seed; target, sources and their ensemble are as they are."""
    labels = [model.label for model in (job.recipe.target, *job.recipe.sources)]
    untrained = {TARGET, ENSEMBLE, *labels, *(f"{label}-base" for label in labels)}
    return job.what.train and job.what.model not in untrained


def variant_recipe(study: Study, base: dict[str, Any], name: str, seed: int | None, scale: float = 1.0) -> Recipe:
    """Return the recipe of a variant, in the study's run folder; raises `BadInput`."""
    where, variant = f"study {study.name}, variant {name}", study.variants[name]
    content = copy.deepcopy(base)
    apply_settings(content, variant.set, where)
    content["name"] = study.folder or study.name
    if seed is not None:
        apply_settings(content, {"train.seed": seed}, where)
    apply_settings(content, {"train.control": variant.model == "control", "evaluate.split": study.choose_on}, where)
    for model in (content.get("target"), *content.get("sources", [])):
        _scale_adapting(model, scale)
    return _scaled(parse_recipe(content, where), scale, variant.times_tokens, where)


def _scale_adapting(model: Any, scale: float) -> None:
    """Multiply the steps for which a model is adapted, where there is a number of them."""
    adapt = model.get("adapt") if isinstance(model, dict) else None
    if isinstance(adapt, dict) and isinstance(adapt.get("max_steps"), int):
        adapt["max_steps"] = max(1, round(adapt["max_steps"] * scale))


def _scaled(recipe: Recipe, scale: float, times: float, where: str) -> Recipe:
    """Multiply documents and training steps by `scale`, the steps by `times` as well."""
    train = recipe.train
    corpus = recipe.corpus if scale == 1 else _fewer_documents(recipe.corpus, scale, where)
    if train.max_steps is not None:
        train = train.model_copy(update={"max_steps": max(1, round(train.max_steps * scale * times))})
    elif times != 1:
        if times != int(times):
            raise BadInput(f"{where}: times_tokens {times:g} multiplies whole epochs. Set train.max_steps.")
        train = train.model_copy(update={"epochs": train.epochs * int(times)})
    return recipe.model_copy(update={"corpus": corpus, "train": train})


def _fewer_documents(corpus: CorpusSettings, scale: float, where: str) -> CorpusSettings:
    """Multiply the documents of each domain where their number is set, else those that are read."""
    read = "max_documents" if corpus.documents_per_domain is None else "documents_per_domain"
    if getattr(corpus, read) is None:
        raise BadInput(f"{where}: --scale multiplies corpus.max_documents, which is not set. Set it.")
    given = {name: getattr(corpus, name) for name in (read, "held_out_documents")}
    fewer = {name: max(1, round(number * scale)) for name, number in given.items() if number is not None}
    return corpus.model_copy(update=fewer)


def _refuse_other_text(study: Study, jobs: list[Job]) -> None:
    """Variants are compared document by document, so all of them read the same corpus and score the same chunks."""
    for job in jobs[1:]:
        for name, mine in _compared(job.recipe).items():
            if mine != _compared(jobs[0].recipe)[name]:
                raise BadInput(
                    f"study {study.name}: variants {jobs[0].variant!r} and {job.variant!r} have another {name}, so "
                    f"they cannot be compared. Set it in the study's own `set`, the same for all."
                )


def _compared(recipe: Recipe) -> dict[str, Any]:
    return {
        "corpus": recipe.corpus,
        "target": (recipe.target.model, recipe.target.revision),
        "evaluate.chunks_per_document": recipe.evaluate.chunks_per_document,
        "evaluate.documents_per_domain": recipe.evaluate.documents_per_domain,
    }
