"""A model folder's weights, tensor by tensor: a folder may be larger than the memory."""

# legend: M models, N elements of a tensor

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

MOST_BYTES_PER_FILE = 5_000_000_000
DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


@dataclass(frozen=True)
class Stored:
    """One tensor as it is stored: its name in the model, dtype (safetensors' name) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        elements = 1
        for size in self.shape:
            elements *= size
        return elements * DTYPES[self.dtype].itemsize


class Weights:
    """The tensors of a model folder by the model's own names, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Open a folder's *.safetensors, one file or many; they stay open as long as this lives."""
        self.folder = folder
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    @cached_property
    def names(self) -> list[tuple[str, ...]]:
        """The model's parameters in its own order; names of tied ones, such as embedding and head, together."""
        return self._held[0]

    @cached_property
    def _held(self) -> tuple[list[tuple[str, ...]], str]:
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.device("meta"):  # only the names are wanted
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(self.folder, trust_remote_code=False))
        model.tie_weights()
        tied: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            tied.setdefault(id(parameter), []).append(name)
        return [tuple(names) for names in tied.values()], f"{model.base_model_prefix}."

    def find(self, names: Sequence[str]) -> str | None:
        """Return under which name the file has a parameter: one of those tied, or without the model's prefix."""
        prefix = self._held[1]
        known = (stored for name in names for stored in (name, name.removeprefix(prefix)))
        return next((stored for stored in known if stored in self._files), None)

    def stored(self, names: Sequence[str]) -> Stored | None:
        """Describe a parameter, None if the folder lacks it."""
        found = self.find(names)
        if found is None:
            return None
        part = self._files[found].get_slice(found)
        return Stored(names[0], part.get_dtype(), tuple(part.get_shape()))

    def read(self, names: Sequence[str]) -> Tensor:
        """Return a parameter that is there."""
        found = self.find(names)
        assert found is not None
        tensor: Tensor = self._files[found].get_tensor(found)
        return tensor


def write_weights(
    folder: Path, tensors: Sequence[Stored], make: Callable[[Stored], Tensor], most: int = MOST_BYTES_PER_FILE
) -> None:
    """Write model.safetensors, or several files and their index, holding one tensor at a time."""
    files = _split(tensors, most)
    names = ["model.safetensors"]
    if len(files) > 1:
        names = [f"model-{n + 1:05d}-of-{len(files):05d}.safetensors" for n in range(len(files))]
    for name, part in zip(names, files, strict=True):
        _write_file(folder / name, part, map(make, part))
    if len(files) > 1:
        places = {tensor.name: name for name, part in zip(names, files, strict=True) for tensor in part}
        index = {"metadata": {"total_size": sum(tensor.bytes for tensor in tensors)}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _split(tensors: Sequence[Stored], most: int) -> list[list[Stored]]:
    files: list[list[Stored]] = [[]]
    for tensor in tensors:
        if files[-1] and sum(t.bytes for t in files[-1]) + tensor.bytes > most:
            files.append([])
        files[-1].append(tensor)
    return files


def _write_file(path: Path, tensors: Sequence[Stored], made: Iterable[Tensor]) -> None:
    """Write one safetensors file: the length of its header, the header (JSON), the tensors' bytes."""
    header = json.dumps({"__metadata__": {"format": "pt"}, **dict(_places(tensors))}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for described, tensor in zip(tensors, made, strict=True):
            assert tensor.dtype is DTYPES[described.dtype] and tuple(tensor.shape) == described.shape
            stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _places(tensors: Sequence[Stored]) -> Iterator[tuple[str, dict[str, Any]]]:
    at = 0
    for tensor in tensors:
        yield tensor.name, {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, at + tensor.bytes]}
        at += tensor.bytes
