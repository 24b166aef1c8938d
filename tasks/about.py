"""Saying which field of a recipe was refused, where what refuses it knows only its value."""

from collections.abc import Iterator
from contextlib import contextmanager

from logitfuse.storage.errors import BadInput, ModelRefused


@contextmanager
def about(field: str) -> Iterator[None]:
    """Begin the message of what the block refuses with the recipe's field, as YAML names it."""
    try:
        yield
    except (BadInput, ModelRefused) as error:
        if str(error).startswith(field.partition(".")[0] + "."):
            raise  # it says which one itself
        raise type(error)(f"{field}: {error}") from error
