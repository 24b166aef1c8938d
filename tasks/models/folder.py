"""Is a folder a model's? Asked of its files alone, before any library opens them."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from logitfuse.storage.errors import LogitfuseError, ModelRefused
from logitfuse.tasks.models.weight_files import check_weights

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
MOST_NAMED = 3  # models within a folder that is none
INDEX = "model.safetensors.index.json"
# What is the machine's trouble and no file's fault.
MACHINE = frozenset({errno.EIO, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.ENOSPC, errno.EDQUOT})


def check_folder(folder: Path, name: str) -> None:
    """Raise `ModelRefused` unless a model's configuration, safetensors and tokenizer are there and can be a model's."""
    where = f"model {name!r}: {folder}"
    if not (folder / "config.json").is_file():
        raise ModelRefused(
            f"{where} has no config.json, so it is no Hugging Face model folder.{_models_within(folder)}"
        )
    config = read_object(folder / "config.json", f"model {name!r}")
    _check_config(config, where)
    if not any(folder.glob("*.safetensors")):
        raise ModelRefused(
            f"{where} has no *.safetensors weights. Other formats can run code when opened; convert "
            "them with save_pretrained(folder)."
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelRefused(
            f"{where} holds an adapter (adapter_config.json), for which other weights would be looked for. Merge it "
            "into its model (peft: merge_and_unload, then save_pretrained), and give that folder."
        )
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise ModelRefused(
            f"{where} has no tokenizer ({', '.join(TOKENIZER_FILES)}). Save the model's own tokenizer "
            "into the folder; another one would give the model wrong ids."
        )
    _check_index(folder, name)
    check_weights(folder, name, quantised=bool(config.get("quantization_config")))


def _models_within(folder: Path) -> str:
    """Say which folders up to three levels deeper hold a model, as a run's `train/fused/model.KEY` does."""
    depths = ("*/config.json", "*/*/config.json", "*/*/*/config.json")
    found = islice((file for depth in depths for file in folder.glob(depth)), MOST_NAMED)
    named = " or ".join(str(file.parent) for file in found)
    return f" Give the one within it: {named}" if named else ""


def read_object(file: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in a model's file; raise `ModelRefused`, which begins with `what`, for anything else."""
    try:
        content = json.loads(file.read_bytes().decode())
        json.dumps(content, allow_nan=False).encode()  # what neither JSON nor UTF-8 can hold could not be identified
    except OSError as error:
        raise ModelRefused(f"{what}: {file} cannot be read ({error.strerror}). Check its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{what}: {file} is not JSON: {str(error)[:200]}. Fetch the model again.") from error
    if not isinstance(content, dict):
        raise ModelRefused(f"{what}: {file} holds a {type(content).__name__}, no JSON object. Fetch the model again.")
    return content


@contextmanager
def refusing(what: str, advice: str) -> Iterator[None]:
    """Raise `ModelRefused` for whatever a library raises while it opens a model's files; its own error is the cause.

    Such files make libraries fail in any way there is. What lies in the machine (memory, disk, handles) passes.
    """
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"  # of libraries in Rust; no Exception by its class
        if not (isinstance(error, Exception) or panic) or _is_the_machines(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise ModelRefused(f"{what} ({type(error).__name__}: {said}). {advice}") from error


def _is_the_machines(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in MACHINE
    return isinstance(error, LogitfuseError | MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _check_config(config: dict[str, Any], where: str) -> None:
    """Refuse what would fetch code, or what this project reads and cannot be read."""
    for key, value in _settings_within(config):
        if key.endswith("_implementation") and "/" in json.dumps(value):
            raise ModelRefused(
                f"{where}/config.json asks for code from a model hub ({key}: {str(value)[:80]!r}), which is never run. "
                f"Remove {key!r} from it."
            )
    for part in (config, config.get("text_config") or {}):
        if not isinstance(part, dict):
            raise ModelRefused(f"{where}/config.json: text_config is no JSON object. Fetch the model again.")
        for key in ("vocab_size", "max_position_embeddings", "max_seq_len", "n_positions"):
            value = part.get(key)
            if value is not None and not (type(value) in (int, float) and 0 <= value < 2**31):
                raise ModelRefused(f"{where}/config.json: {key} is {str(value)[:80]}. Fetch the model again.")


def _settings_within(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _settings_within(inner)


def _check_index(folder: Path, name: str) -> None:
    if not (folder / INDEX).is_file():
        return
    files = read_object(folder / INDEX, f"model {name!r}").get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ModelRefused(f"model {name!r}: {folder / INDEX} has no weight_map. Fetch the model again.")
    for file in sorted(set(files.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelRefused(
                f"model {name!r}: {folder / INDEX} names {file[:80]!r}, which is no *.safetensors file of the folder. "
                "Fetch the model again from where you trust."
            )
    if missing := sorted(file for file in set(files.values()) if not (folder / file).is_file()):
        raise ModelRefused(f"model {name!r}: {folder} lacks {', '.join(missing)}. Fetch the model again.")
