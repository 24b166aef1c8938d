"""Stage merge: the weights of several models of one architecture become one model."""

# legend: M models, N elements of a tensor

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from logitfuse.kernels.merging import MERGES
from logitfuse.storage.shards import verified_folder
from logitfuse.tasks.arms import arms
from logitfuse.tasks.engine import Counts, Progress, Work
from logitfuse.tasks.merge_settings import MERGED, TARGET, key_settings, merged_models, merges
from logitfuse.tasks.merging.refusals import refuse_different
from logitfuse.tasks.merging.weights import DTYPES, Stored, Weights, write_weights
from logitfuse.tasks.models.home import ModelHome
from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.models.source import read_source
from logitfuse.tasks.strategy import checked_options
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.merge_settings import MergeSettings
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run


@dataclass(frozen=True)
class Part:
    """One of the models that are merged; `record`: of its training, where this run trains it."""

    name: str
    source: Source
    weight: float
    record: Record | None = None


def units(run: Run) -> list[Unit]:
    """One merged model per run, none where nothing is to be merged."""
    return [Unit("merge", MERGED)] if merges(run.recipe) else []


def work(run: Run, unit: Unit) -> Work:
    """Describe the merging; raises `ShardMissing` before a model that is to be merged is trained."""
    parts = [part_of(run, name, weight) for name, weight in merged_models(run.recipe).items()]
    base, settings = base_of(run), run.recipe.merge

    def compute(path: Path, progress: Progress) -> Counts:
        from logitfuse.tasks.merging.card import merged_card

        refuse_different([part.source for part in parts], base)
        return merge(parts, base, settings, merged_card(run, parts, base), path, progress)

    return Work(
        stage="merge",
        place=f"merge/{unit.source}",
        name="model",
        compute=compute,
        settings=key_settings(settings),
        inputs=tuple(part.record for part in parts if part.record),
        fingerprints={
            "base": base.home.fingerprint,
            "tokenizer": base.vocabulary.fingerprint,
            "models": [[part.source.home.fingerprint, part.weight] for part in parts],
        },
        folder=True,
    )


def part_of(run: Run, name: str, weight: float = 1.0) -> Part:
    """Return a model by its name in the recipe: an arm, the target, a source, or any model as recipes name them."""
    if name in arms(run.recipe):
        record = run.record(Unit("train", name))
        settings = run.recipe.target.model_copy(update={"name": name})
        home = ModelHome(settings, partial(verified_folder, run.store, record), record.checksum)
        return Part(name, replace(run.target, home=home), weight, record)
    return Part(name, _model(run, name), weight)


def base_of(run: Run) -> Source:
    """Return the model that the merged ones were continued from."""
    return _model(run, run.recipe.merge.base)


def _model(run: Run, name: str) -> Source:
    given = _given(run, name)
    return run.model(given.label) if run.given.get(given.label) is given else given


def _given(run: Run, name: str) -> Source:
    """Return a model as the recipe names it: one that is adapted has the same shapes before."""
    if name in (TARGET, run.target.label):
        return run.target
    return run.teachers[name] if name in run.teachers else _elsewhere(name)


@lru_cache(maxsize=16)
def _elsewhere(name: str) -> Source:
    return read_source(ModelSettings(model=name))


def check_merged(run: Run) -> None:
    """Refuse, before anything is trained, models that are there already and cannot be merged; raises `BadInput`."""
    if merges(run.recipe):
        there = [name for name in merged_models(run.recipe) if name not in arms(run.recipe)]
        refuse_different([_given(run, name) for name in there], _given(run, run.recipe.merge.base))


def merge(
    parts: list[Part], base: Source, settings: MergeSettings, card: str, folder: Path, progress: Progress
) -> Counts:
    """Write the merged model into a folder: weights, the base's configuration and tokenizer, and the model card."""
    from logitfuse.tasks.training.export import COPIED_FILES

    models = [Weights(part.source.home.folder) for part in parts]
    start = Weights(base.home.folder)
    tied = {names[0]: names for names in start.names}
    tensors = [stored for names in start.names if (stored := models[0].stored(names))]
    method, done = _method(settings, torch.tensor([part.weight for part in parts])), 0

    def make(stored: Stored) -> Tensor:
        nonlocal done
        names = tied[stored.name]
        merged = method([model.read(names) for model in models], start.read(names), stored)
        done += 1
        progress(done, len(tensors))
        return merged

    write_weights(folder, tensors, make)
    config = json.loads((base.home.folder / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = str(DTYPES[tensors[0].dtype]).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for name in COPIED_FILES:
        if (base.home.folder / name).is_file():
            shutil.copyfile(base.home.folder / name, folder / name)
    (folder / "README.md").write_text(card)
    return {"tensors": len(tensors), "bytes": sum(stored.bytes for stored in tensors), "models": len(parts)}


def _method(settings: MergeSettings, weights_M: Tensor) -> Callable[[list[Tensor], Tensor, Stored], Tensor]:
    rule = MERGES.get(settings.method)
    options: Mapping[str, Any] = checked_options(MERGES, settings.method, settings.options)

    def merged(models: list[Tensor], base: Tensor, stored: Stored) -> Tensor:
        models_MN = torch.stack([model.reshape(-1).float() for model in models])
        found_N = rule(models_MN, base.reshape(-1).float(), weights_M, stored.name, **options)
        return found_N.to(DTYPES[stored.dtype]).reshape(stored.shape)

    return merged
