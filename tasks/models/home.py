"""Where a recipe's models lie, and what identifies their content."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from logitfuse.kernels.closest_name import did_you_mean
from logitfuse.storage.checksums import checksum_bytes, checksum_once
from logitfuse.storage.errors import ModelRefused
from logitfuse.storage.fetched import fetched
from logitfuse.storage.keys import canonical_json
from logitfuse.storage.paths import user_path
from logitfuse.storage.urls import is_url
from logitfuse.tasks.models.folder import check_folder
from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.packaged.models import fetch_model

PACKAGE_PREFIX = "package:"
# Weights as safetensors only: the other formats run code when they are opened.
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "LICENSE*", "README.md", "*.jinja"]

# Written into config.json by whoever saved it last; they say nothing about what the model computes.
NO_CONTENT = frozenset({"transformers_version", "_name_or_path"})


@dataclass(frozen=True)
class ModelHome:
    """A model on this machine: its folder, and a fingerprint of its configuration and weights."""

    settings: ModelSettings
    place: Path | Callable[[], Path]  # called when its files are needed: those in an object store are fetched then
    fingerprint: str
    adapted: bool = False  # the weights are those of stage adapt

    @property
    def folder(self) -> Path:
        """Its Hugging Face folder on this machine."""
        return self.place if isinstance(self.place, Path) else self.place()

    @property
    def label(self) -> str:
        return self.settings.label

    @property
    def called(self) -> str:
        """How people know these weights: the model's name, or that of the model they were continued from."""
        return f"{self.settings.model} (adapted, {self.fingerprint[:19]})" if self.adapted else self.settings.model


def find_model(settings: ModelSettings) -> ModelHome:
    """Bring a model onto this machine and identify it; raise `ModelRefused` with what to do next."""
    folder = _folder_of(settings)
    check_folder(folder, settings.model)
    return ModelHome(settings, folder, _fingerprint(folder))


def _folder_of(settings: ModelSettings) -> Path:
    if settings.model.startswith(PACKAGE_PREFIX):
        return fetch_model(settings.model.removeprefix(PACKAGE_PREFIX))
    if is_url(settings.model):
        return fetched(settings.model, _is_model_file, "model")
    local = user_path(settings.model, "model")
    if local.is_dir():
        return local
    if settings.model.startswith((".", "/", "~")) or settings.model.count("/") != 1:
        raise ModelRefused(
            f"model {settings.model!r}: there is no such folder. Give an existing folder, a hub id (owner/name), "
            "package:NAME or a URL such as s3://bucket/folder."
        )
    return _from_hub(settings)


def _is_model_file(name: str) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in HUB_FILES)


def _from_hub(settings: ModelSettings) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(settings.model, revision=settings.revision or None, allow_patterns=HUB_FILES))
    except Exception as error:  # the client raises its own, httpx's and OSErrors; all mean the same to a user
        reason = (str(error).splitlines() or [""])[0]
        raise ModelRefused(
            f"model {settings.model!r} (revision {settings.revision or 'newest'}) could not be fetched from the hub: "
            f"{type(error).__name__}: {reason.rstrip('. ')}. {folder_meant(settings.model)}Check the name, the "
            "network and, for a gated model, HF_TOKEN; or download it elsewhere and give its folder."
        ) from error


def folder_meant(model: str) -> str:
    """Return "Did you mean …? " where a folder here has almost the name that was taken for a hub id."""
    beside = Path(model).parent
    return did_you_mean(model, [str(f) for f in beside.iterdir() if f.is_dir()]) if beside.is_dir() else ""


def _fingerprint(folder: Path) -> str:
    files = sorted([folder / "config.json", *folder.glob("*.safetensors")])
    return checksum_bytes(canonical_json([[file.name, _content(file)] for file in files]))


def _content(file: Path) -> str:
    if file.name != "config.json":
        return checksum_once(file)
    config = json.loads(file.read_text())
    return checksum_bytes(canonical_json({name: value for name, value in config.items() if name not in NO_CONTENT}))
