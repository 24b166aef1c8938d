"""Looking at what a new recipe names, so that what `run` would refuse is refused at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from logitfuse.flows.init.sizes import Model, Place, Text
from logitfuse.flows.pace import quantity
from logitfuse.storage.errors import BadInput, ModelRefused
from logitfuse.storage.urls import is_url

if TYPE_CHECKING:
    from logitfuse.tasks.corpus.settings import CorpusSettings
    from logitfuse.tasks.recipe import Recipe

PATIENCE = 8.0  # seconds for a hub's answer
FIRST_ROWS = 20  # by which the column of texts is guessed
MOST_DOCUMENTS = 20_000  # that are counted


def is_hub_model(model: str) -> bool:
    """Whether a model is named by its hub id: its weights are not here, or not known to be."""
    plain = model.startswith(("package:", ".", "/", "~")) or is_url(model)
    return not plain and model.count("/") == 1 and not Path(model).is_dir()


def look_at_model(model: str) -> Model:
    """Return what is known of a model; raise `ModelRefused` where it cannot be used. One of a hub is only asked for."""
    if is_hub_model(model):
        _refuse_misspelt_folder(model)
        return _ask_hub(model)
    from logitfuse.tasks.models.reference import ModelSettings
    from logitfuse.tasks.models.source import read_source

    source = read_source(ModelSettings(model=model))
    return Model(_parameters(source.home.folder), source.context)


def _refuse_misspelt_folder(model: str) -> None:
    """Where the first part of a name is a folder here, say that the second is none: a hub would only not know it."""
    from logitfuse.tasks.models.home import folder_meant

    if near := folder_meant(model):
        raise ModelRefused(
            f"model {model!r}: there is no such folder. {near}A model of the hub with that name is taken "
            "unchecked: logitfuse init --no-check."
        )


def _parameters(folder: Path) -> int:
    """Count the parameters of a folder that was checked, from the headers of its weights."""
    from logitfuse.tasks.models.weight_files import read_header

    tensors = (read_header(file, str(file))[0] for file in folder.glob("*.safetensors"))
    return sum(math.prod(facts["shape"]) for each in tensors for facts in each.values())


def _ask_hub(model: str) -> Model:
    """Ask whether a hub has a model, and how large it is, without fetching it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = HfApi().model_info(model, timeout=PATIENCE)
    except HfHubHTTPError as error:
        said = str(error).strip().splitlines()
        raise ModelRefused(
            f"model {model!r}: the hub does not give it ({said[0] if said else type(error).__name__}). Check the name "
            "and, for a gated or private model, HF_TOKEN."
        ) from error
    except Exception as error:  # no network; the client raises httpx's, its own and OSErrors
        raise ModelRefused(
            f"model {model!r}: the hub cannot be asked about it ({type(error).__name__}). Give a folder or "
            "package:NAME, or write the recipe unchecked: logitfuse init --no-check."
        ) from error
    return Model(found.safetensors.total if found.safetensors else None)


def look_at_text(settings: CorpusSettings) -> Text:
    """Count the documents of a corpus, up to a limit; raise `BadInput` where it cannot be used."""
    from logitfuse.tasks.corpus.documents import document_of
    from logitfuse.tasks.corpus.readers import check_corpus, corpus_parts, located

    check_corpus(settings)
    here = located(settings)
    parts = corpus_parts(here)
    rows = chain.from_iterable(part.rows() for part in parts)
    sizes = [len(document_of(row, "train", here).text.encode()) for row in islice(rows, MOST_DOCUMENTS)]
    return Text(len(sizes), sum(sizes), counted=len(sizes) < MOST_DOCUMENTS)


def columns_of(settings: CorpusSettings) -> list[str]:
    """Return the columns that hold text in a corpus's first rows: longest texts first, a column `id` last."""
    from logitfuse.tasks.corpus.readers import corpus_parts, located

    lengths: Counter[str] = Counter()
    with suppress(BadInput):  # what was seen before will do
        for row in islice(chain.from_iterable(part.rows() for part in corpus_parts(located(settings))), FIRST_ROWS):
            lengths.update({name: len(value) for name, value in row.values.items() if isinstance(value, str)})
    return sorted(lengths, key=lambda name: (is_an_id(name), -lengths[name]))


def is_an_id(column: str) -> bool:
    """Whether a column's name says that it holds names of documents, and so no text."""
    return column.lower() == "id"


def look_at_machine() -> Place:
    """Return what this machine computes with."""
    import torch

    if not torch.cuda.is_available():
        return Place()
    memories = [torch.cuda.get_device_properties(n).total_memory / 1e9 for n in range(torch.cuda.device_count())]
    return Place(len(memories), min(memories))


def check_recipe(recipe: Recipe) -> None:
    """Check a recipe as `run` would, but fetch no model from a hub; raises what `check_run` raises."""
    from logitfuse.tasks.checks import check_folder, check_run, check_space
    from logitfuse.tasks.run import Run

    check_folder(recipe)
    check_space(recipe)
    if not any(is_hub_model(settings.model) for settings in (recipe.target, *recipe.sources)):
        check_run(Run(recipe))


def parameters_said(models: Iterable[Model]) -> list[str]:
    """Return how large models are, in words."""
    return [quantity(m.parameters, "parameters") if m.parameters else "size not known" for m in models]
