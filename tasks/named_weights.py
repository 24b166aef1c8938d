"""Weights that a recipe gives by name: every name must be there, and somebody must count."""

from collections.abc import Collection, Mapping

from logitfuse.kernels.closest_name import known_names
from logitfuse.storage.errors import BadInput


def check_named_weights(field: str, kind: str, weights: Mapping[str, float], labels: Collection[str]) -> None:
    """Check that every weighed name is one of `labels`, and that not all of these have weight 0 (1 where not given).

    `field` and `kind` ("source", "model") are for the message. Raises `BadInput` that names the closest label.
    """
    for name in weights:
        if name not in labels:
            raise BadInput(f"{field}: no {kind} is called {name!r}. {known_names(name, labels, cutoff=0.4)}")
    if labels and not any(weights.get(label, 1.0) for label in labels):
        raise BadInput(f"{field}: every {kind} has weight 0. Give at least one of them more.")
