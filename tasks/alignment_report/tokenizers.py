"""The two tokenizers of a report. No model is needed: a folder with a tokenizer, a hub id, or a packaged one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from logitfuse.kernels.vocabulary_map import VocabularyView
from logitfuse.storage.errors import BadInput
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
    tokenizer = load_tokenizer(_location(reference))
    return NamedTokenizer(reference, tokenizer, read_vocabulary(tokenizer))


def _location(reference: str) -> Path | str:
    if reference.startswith(PACKAGE_PREFIX):
        name = reference.removeprefix(PACKAGE_PREFIX)
        require_known("tokenizer or model", name, [*TOKENIZERS, *MODELS])
        return fetch_model(name) if name in MODELS else tokenizer_folder(name)
    local = Path(reference).expanduser()
    if local.is_dir():
        return local
    if reference.startswith((".", "/", "~")) or reference.count("/") != 1:
        meant = f" Did you mean {PACKAGE_PREFIX}{reference}?" if reference in [*TOKENIZERS, *MODELS] else ""
        raise BadInput(
            f"tokenizer {reference!r}: there is no such folder.{meant} Give a folder with a tokenizer.json, a hub id "
            f"(owner/name), or package:NAME with one of {', '.join(sorted([*TOKENIZERS, *MODELS]))}."
        )
    return reference
