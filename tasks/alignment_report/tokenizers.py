"""The two tokenizers of a report. No model is needed: a folder with a tokenizer, a hub id, or a packaged one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from logitfuse.kernels.vocabulary_map import VocabularyView
from logitfuse.storage.errors import BadInput, ModelRefused
from logitfuse.storage.paths import user_path
from logitfuse.tasks.models.home import PACKAGE_PREFIX
from logitfuse.tasks.models.vocabulary import Vocabulary, load_tokenizer, read_vocabulary, vocabulary_view
from logitfuse.tasks.packaged.models import MODELS, fetch_model
from logitfuse.tasks.packaged.once import require_known
from logitfuse.tasks.packaged.tokenizers import TOKENIZERS, tokenizer_folder


@dataclass(frozen=True)
class NamedTokenizer:
    """A tokenizer with its vocabulary; `name` is how the user called it."""

    name: str
    tokenizer: PreTrainedTokenizerFast
    vocabulary: Vocabulary

    @property
    def view(self) -> VocabularyView:
        """The vocabulary without the padding of a model's head, which no token of a text ever is."""
        return vocabulary_view(self.vocabulary, self.vocabulary.size)


def read_tokenizer(reference: str) -> NamedTokenizer:
    """Find and read a tokenizer: a folder, a hub id (owner/name), or package:NAME, a tokenizer or a model.

    Raises BadInput for a name that means nothing, ModelRefused for a tokenizer that cannot be used.
    """
    location = _location(reference)
    if isinstance(location, Path):
        _check_file(location / "tokenizer.json")
    tokenizer = load_tokenizer(location)
    return NamedTokenizer(reference, tokenizer, read_vocabulary(tokenizer))


def _check_file(path: Path) -> None:
    """Raise ModelRefused, in plain words, for a tokenizer.json that is none; a folder may do without the file."""
    if not path.is_file():
        return
    try:
        spec = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{path} cannot be read as JSON: {error}. Save or download the tokenizer again.") from error
    missing = [part for part in ("added_tokens", "model") if not isinstance(spec, dict) or part not in spec]
    if missing:
        raise ModelRefused(
            f"{path} is no tokenizer: it has no {' and no '.join(map(repr, missing))}. "
            "Save or download the tokenizer again, or give another folder."
        )


def _location(reference: str) -> Path | str:
    if reference.startswith(PACKAGE_PREFIX):
        name = reference.removeprefix(PACKAGE_PREFIX)
        require_known("tokenizer or model", name, [*TOKENIZERS, *MODELS])
        return fetch_model(name) if name in MODELS else tokenizer_folder(name)
    local = user_path(reference, "tokenizer")
    if local.is_dir():
        return local
    if reference.startswith((".", "/", "~")) or reference.count("/") != 1:
        meant = f" Did you mean {PACKAGE_PREFIX}{reference}?" if reference in [*TOKENIZERS, *MODELS] else ""
        raise BadInput(
            f"tokenizer {reference!r}: there is no such folder.{meant} Give a folder with a tokenizer.json, a hub id "
            f"(owner/name), or package:NAME with one of {', '.join(sorted([*TOKENIZERS, *MODELS]))}."
        )
    return reference
