"""Are a model's weight files whole, and of numbers that can be weights? Read from their headers, in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from logitfuse.storage.errors import ModelRefused

LONGEST_HEADER = 100 << 20  # bytes, as the format's own library has it
WEIGHTS = frozenset({"F64", "F32", "F16", "BF16"})


def check_weights(folder: Path, name: str, *, quantised: bool) -> None:
    """Raise `ModelRefused` unless every *.safetensors file is as long as it says and its weights are floating point.

    What is loaded as another type than it was stored in would be other numbers. Of `quantised` models the library
    that reads them knows better.
    """
    for file in sorted(folder.glob("*.safetensors")):
        what = f"model {name!r}: {file}"
        tensors, end = read_header(file, what)
        needed = end + max((_end(tensor, what) for tensor in tensors.values()), default=0)
        if needed != (size := file.stat().st_size):
            raise ModelRefused(f"{what} has {size:,} bytes, its header says {needed:,}. Fetch the model again.")
        for tensor, facts in () if quantised else tensors.items():
            if tensor.endswith(".weight") and facts["dtype"] not in WEIGHTS:
                raise ModelRefused(
                    f"{what}: {tensor} is stored as {facts['dtype']}, which is no type of weights "
                    f"({', '.join(sorted(WEIGHTS))}), and config.json tells of no quantisation. Save the model in one "
                    "of these."
                )


def read_header(file: Path, what: str) -> tuple[dict[str, Any], int]:
    """Return what a file says of its tensors, and where their bytes begin."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            text = stream.read(length) if length <= LONGEST_HEADER else b""
        header = json.loads(text)
        return {tensor: facts for tensor, facts in header.items() if tensor != "__metadata__"}, 8 + length
    except OSError as error:
        raise ModelRefused(f"{what} cannot be read ({error.strerror}). Check its permissions.") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelRefused(f"{what} is not whole: it has no safetensors header. Fetch the model again.") from error


def _end(facts: Any, what: str) -> int:
    try:
        end = facts["data_offsets"][1]
        if type(end) is not int or not isinstance(facts["dtype"], str):
            raise TypeError
    except (TypeError, KeyError, IndexError) as error:
        raise ModelRefused(f"{what} is not whole: its header is none of safetensors. Fetch the model again.") from error
    return end
