"""The model card of an adapted model. It says only what is in the model's key: two recipes may share the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfuse.storage.settings import changed_settings
from logitfuse.tasks.licences import public_name
from logitfuse.tasks.markdown_text import fenced, plain
from logitfuse.tasks.model_card import NAMED_SHARDS, dumped, front_matter, loading, origin

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.training.settings import TrainSettings


def adapt_card(run: Run, given: Source, settings: TrainSettings, shards: tuple[Record, ...]) -> str:
    """Return the README of a model that was continued on the training text, with the hub's front matter."""
    models = [("base", given)]
    name, corpus = (plain(public_name(one)) for one in (given.home.settings.model, run.recipe.corpus.source))
    share = "" if settings.documents == "all" else f", the {settings.documents} half of its documents by their ids"
    sections = [
        f"# {name}, adapted",
        f"{name}, continued on {corpus}{share}, with the plain language-model loss, so that it knows the text's manner "
        "before its predictions are compared or fused. Made with logitfuse.",
        loading(None),
        origin(models),
        f"## Training\n\nWhat differs from the defaults of stage train:\n\n{fenced(_changed(settings), 'yaml')}",
        f"## Data\n\n{corpus}, in {len(shards)} shards ({_sums(shards)}). Held-out documents, and training documents "
        "that repeat them, are not among what it learnt from.",
    ]
    return f"---\n{dumped(front_matter(run, models))}\n---\n\n" + "\n\n".join(sections) + "\n"


def _changed(settings: TrainSettings) -> str:
    # What happens at a bad step makes no other model, and is not in the key.
    return dumped({name: value for name, value in changed_settings(settings).items() if name != "on_bad_step"})


def _sums(shards: tuple[Record, ...]) -> str:
    more = " …" if len(shards) > NAMED_SHARDS else ""
    return ", ".join(f"`{shard.checksum[7:19]}`" for shard in shards[:NAMED_SHARDS]) + more
