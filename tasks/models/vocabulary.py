"""A model's tokenizer as data: what text each id stands for, which ids are special, what makes it the same tokenizer.

Only `tokenizers`-backed tokenizers are used: their whole behaviour is one JSON text that can be read and hashed.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from logitfuse.kernels.pieces import SPACE_MARK, Kind, byte_pieces, piece_bytes
from logitfuse.kernels.vocabulary_map import MapContext, TwiceCut, VocabularyView
from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.models.folder import read_object, refusing
from logitfuse.tasks.models.token_ends import Ends, Ids, certain_ends, tiled_ends
from logitfuse.tasks.models.tokenizer_spec import Spec, adds_space, check_spec, fingerprint, model_ids, read_kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What stands before a piece that is tokenised as a continuation. The first that does not merge with it is used.
_SWITCHES = threading.Lock()

SENTINELS_BEFORE_SPACE = ("a", ".", "\n")
SENTINELS = ("\n", "a", ".")

SPACE_MARKERS: dict[Kind, str] = {"sentencepiece": SPACE_MARK, "byte_level": "Ġ", "wordpiece": ""}


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tokenizer's ids: `pieces[id]` as spelled, `texts[id]` as bytes (None: a hole or a special token).

    `roles`: part → id (`bos`, `eos`, `unk`, `pad`, …). `dummy_prefix`: the tokenizer puts a space before the text.
    `fingerprint`: equal for tokenizers that behave alike.
    """

    pieces: tuple[str | None, ...]
    texts: tuple[bytes | None, ...]
    kind: Kind
    roles: Mapping[str, int]
    special_ids: frozenset[int]
    dummy_prefix: bool
    fingerprint: str

    @property
    def size(self) -> int:
        """Number of ids, holes included; a model's head may have more."""
        return len(self.pieces)

    @property
    def marker(self) -> str:
        """How its pieces spell a space, "" where they spell none."""
        return SPACE_MARKERS[self.kind]

    @cached_property
    def text_lengths(self) -> NDArray[np.int32]:
        """Bytes of each id's text, int32 [size], -1 where it has none."""
        return np.array([-1 if text is None else len(text) for text in self.texts], np.int32)


def load_tokenizer(folder: str | Path, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model folder or hub id; no code that comes with it is run.

    Raises ModelRefused where there is none, or none that the `tokenizers` library runs.
    """
    advice = (
        "Give a folder with a tokenizer.json, or a hub id that can be reached; tokenizers that need their own code are "
        "not run."
    )
    if (file := Path(folder) / "tokenizer.json").is_file():
        check_spec(read_object(file, f"tokenizer {folder}"), str(file))
    with refusing(f"{folder}: no tokenizer could be loaded", advice):
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), revision=revision, use_fast=True, trust_remote_code=False
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelRefused(
            f"{folder}: its {type(tokenizer).__name__} is not backed by the `tokenizers` library, so tokens cannot be "
            f"traced to bytes. Convert it to a tokenizer.json (transformers.convert_slow_tokenizer) beside the model."
        )
    return tokenizer


def read_vocabulary(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    """Read a tokenizer's pieces, their bytes, its special tokens and its fingerprint.

    Raises ModelRefused for a tokenizer that is neither byte-level BPE, SentencePiece-like nor WordPiece, and for one
    that tokenises at random.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    check_spec(spec, "the tokenizer")  # what its other files added is in it too
    kind = read_kind(spec)
    own = model_ids(spec["model"])
    added = {token["content"]: token for token in spec["added_tokens"]}
    ids = own | {content: token["id"] for content, token in added.items()}
    pieces: list[str | None] = [None] * (max(ids.values(), default=-1) + 1)
    for piece, token_id in ids.items():  # added tokens last: where one takes over a model's id, it is what counts
        pieces[token_id] = piece
    roles = _roles(tokenizer, spec["model"], ids)
    special = frozenset(roles.values()) | {token["id"] for token in added.values() if token["special"]}
    literal = {token["id"] for content, token in added.items() if content not in own}
    return Vocabulary(
        pieces=tuple(pieces),
        texts=tuple(piece_bytes(pieces, kind, special, literal)),
        kind=kind,
        roles=roles,
        special_ids=special,
        dummy_prefix=adds_space(spec),
        fingerprint=fingerprint(spec, roles),
    )


def vocabulary_view(vocabulary: Vocabulary, width: int) -> VocabularyView:
    """Return the vocabulary as a map over a head of `width` logits sees it.

    Ids past the tokenizer have no text; ids past the head are cut off, since no model can write them. A special
    token's spelling is a role of its own, so that `<|im_start|>` finds `<|im_start|>`.
    """
    padding = [None] * (width - vocabulary.size)
    texts = [*vocabulary.texts[:width], *padding]
    spellings = {str(vocabulary.pieces[token]): token for token in sorted(vocabulary.special_ids)}
    roles = {role: token for role, token in (spellings | dict(vocabulary.roles)).items() if token < width}
    byte_ids = byte_pieces(vocabulary.pieces[:width], vocabulary.kind)
    return VocabularyView(
        texts,
        roles,
        {token: byte for token, byte in byte_ids.items() if texts[token]},
        pieces=[*vocabulary.pieces[:width], *padding],
        marker=vocabulary.marker,
        dummy_prefix=vocabulary.dummy_prefix,
    )


def map_context(
    tokenizer: PreTrainedTokenizerFast,
    vocabulary: Vocabulary,
    workers: int = 1,
    pairs: Iterable[TwiceCut] | None = None,
) -> MapContext:
    """Return what vocabulary maps may ask of the target's tokenizer, and text for those that are fitted on some.

    `workers` threads change no result.
    """
    return MapContext(partial(encode_behind_sentinel, tokenizer, vocabulary), workers, pairs)


def encode_text(tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, text: str) -> tuple[Ids, Ends]:
    """Return one text's ids and byte ends; see `encode_texts`."""
    return encode_texts(tokenizer, vocabulary, [text])[0]


def encode_texts(
    tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, texts: Sequence[str], *, specials: bool = False
) -> list[tuple[Ids, Ends]]:
    """Return for each text its ids int32 [L] without special tokens, and the byte each token ends at, int32 [L].

    Ends count the text's UTF-8 bytes, never fall, and are -1 where they are not certain: where a tokenizer
    normalises its input, or knows no token for it. A space the tokenizer puts before the text is not text.
    A text that spells out a special token, such as "<s>", is encoded as the plain text it is; only a Unigram model
    that has the spelling among its own pieces still gives the special id. With `specials` it becomes that token, as
    a tokenizer left to itself has it. Truncation and padding are switched off.
    """
    batch = list(texts)
    with _plain(tokenizer.backend_tokenizer, specials) as backend:
        results: list[tuple[Ids, Ends]] = []
        with refusing("the tokenizer fails on a text", "Its rules (tokenizer.json) are broken; use another model."):
            encodings = backend.encode_batch_fast(batch, add_special_tokens=False)
        for text, encoding in zip(batch, encodings, strict=True):
            ids = np.array(encoding.ids, np.int32)
            ends = tiled_ends(ids, vocabulary.texts, vocabulary.text_lengths, text.encode())
            results.append((ids, _ends_by_spans(backend, vocabulary, text) if ends is None else ends))
    return results


def encode_behind_sentinel(
    tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, texts: Sequence[str]
) -> list[list[int]]:
    """Return each text's ids as it is tokenised behind other text, not at a text's beginning.

    A short sentinel goes before it and its tokens are cut off; an empty list where every sentinel's last token
    reaches into the text.
    """
    found: list[list[int]] = [[] for _ in texts]
    for attempt in range(len(SENTINELS)):
        open_ = [i for i, text in enumerate(texts) if text and not found[i]]
        before = [(SENTINELS_BEFORE_SPACE if texts[i][0].isspace() else SENTINELS)[attempt] for i in open_]
        encoded = encode_texts(tokenizer, vocabulary, [s + texts[i] for s, i in zip(before, open_, strict=True)])
        for i, sentinel, (ids, ends) in zip(open_, before, encoded, strict=True):
            borders = np.flatnonzero(ends == len(sentinel.encode()))
            if len(borders):
                found[i] = ids[borders[-1] + 1 :].tolist()
    return found


def _ends_by_spans(backend: "Tokenizer", vocabulary: Vocabulary, text: str) -> Ends:
    """Encode again, with the character spans that `certain_ends` needs."""
    encoding = backend.encode(text, add_special_tokens=False)
    token_texts = [vocabulary.texts[token] for token in encoding.ids]
    return certain_ends(encoding.offsets, token_texts, text, _normalised(backend, vocabulary.kind))


def _normalised(backend: "Tokenizer", kind: Kind) -> Callable[[str], str]:
    """Return the tokenizer's normalisation, spelled in the pieces' text: spaces are spaces."""
    normalizer = backend.normalizer

    def normalise(text: str) -> str:
        changed = text if normalizer is None else normalizer.normalize_str(text)
        if kind == "sentencepiece":
            return changed.replace(SPACE_MARK, " ")
        return changed.strip() if kind == "wordpiece" else changed

    return normalise


@contextmanager
def _plain(backend: "Tokenizer", specials: bool) -> Iterator["Tokenizer"]:
    """Switch off what would hide text: special tokens in it, truncation, padding, and spans without their spaces.

    With `specials` special tokens in the text are left on.

    Shards are encoded in several threads by one tokenizer, so the switches are held by one thread at a time.
    """
    with _SWITCHES:
        backend.no_truncation()
        backend.no_padding()
        processor, special = backend.post_processor, backend.encode_special_tokens
        backend.post_processor, backend.encode_special_tokens = None, not specials
        try:
            yield backend
        finally:
            backend.post_processor, backend.encode_special_tokens = processor, special


def _roles(tokenizer: PreTrainedTokenizerFast, model: Spec, ids: Mapping[str, int]) -> dict[str, int]:
    named = {name.removesuffix("_token"): str(token) for name, token in tokenizer.special_tokens_map.items()}
    roles = {role: ids[token] for role, token in named.items() if token in ids}
    own_unknown = model.get("unk_id", ids.get(model.get("unk_token") or ""))
    return roles if own_unknown is None else {"unk": own_unknown} | roles
