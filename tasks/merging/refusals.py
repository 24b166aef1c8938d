"""What cannot be merged: models of other architectures, shapes, dtypes or vocabularies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.merging.weights import Weights

if TYPE_CHECKING:
    from logitfuse.tasks.models.source import Source

# These say how a model is stored, saved or sampled from, not what it computes.
NO_ARCHITECTURE = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)
NAMED = 4


def refuse_different(models: Sequence[Source], base: Source) -> None:
    """Raise `BadInput` with the reason if the models cannot be merged on this base; reads no weights."""
    start, opened = Weights(base.home.folder), [Weights(model.home.folder) for model in models]
    for model, weights in zip(models, opened, strict=True):
        _same_vocabulary(model, base)
        _same_architecture(model, base)
        _same_tensors(model, weights, base, start)
        _same_dtypes(model, weights, models[0], opened[0])


def _same_vocabulary(model: Source, base: Source) -> None:
    if model.vocabulary.fingerprint != base.vocabulary.fingerprint:
        raise BadInput(
            f"merge: {model.label!r} and its base {base.label!r} have different tokenizers, so the same row of their "
            "embeddings stands for different tokens. Fusion is for such models; merge those of one tokenizer."
        )


def _same_architecture(model: Source, base: Source) -> None:
    one, other = (_architecture(source) for source in (model, base))
    differing = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    if differing:
        shown = "; ".join(f"{name} {one.get(name)!r}, {other.get(name)!r}" for name in differing[:NAMED])
        raise BadInput(
            f"merge: {model.label!r} and its base {base.label!r} are different architectures ({shown}). Merge models "
            "that were continued from one."
        )


def _architecture(source: Source) -> dict[str, Any]:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.home.folder, trust_remote_code=False).to_dict()
    return {n: v for n, v in config.items() if n not in NO_ARCHITECTURE and not n.endswith("_token_id")}


def _same_tensors(model: Source, weights: Weights, base: Source, base_weights: Weights) -> None:
    for names in base_weights.names:
        one, other = weights.stored(names), base_weights.stored(names)
        for source, stored in ((model, one), (base, other)):
            if stored is None:
                raise BadInput(
                    f"merge: {source.label!r} ({source.home.folder}) has no tensor {names[0]!r}. If it was saved by "
                    "an older version or other software, load it with transformers and save it again."
                )
        assert one is not None and other is not None
        if one.shape != other.shape:
            raise BadInput(
                f"merge: {names[0]!r} is {list(one.shape)} in {model.label!r} and {list(other.shape)} in its base "
                f"{base.label!r}. Merge models that were continued from one."
            )


def _same_dtypes(model: Source, weights: Weights, first: Source, first_weights: Weights) -> None:
    for names in weights.names:
        one, other = weights.stored(names), first_weights.stored(names)
        assert one is not None and other is not None
        if one.dtype != other.dtype:
            raise BadInput(
                f"merge: {names[0]!r} is stored as {one.dtype} in {model.label!r} and as {other.dtype} in "
                f"{first.label!r}. Save one of them in the other's dtype first."
            )
