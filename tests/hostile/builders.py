"""Tokenizers with everything a tokenizer.json allows, small and built in code, each with what it does to a text."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hostile.normalisations import (
    Normalise,
    as_it_is,
    bare,
    cleaned,
    form,
    lower,
    nmt,
    single_spaced,
    spaces_for_marks,
    straight_quotes,
    uncased,
    without_marks,
)
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from logitfuse.tasks.models.vocabulary import Vocabulary, read_vocabulary

CORPUS = [
    "the cat sat on the mat, the hat. The Cat Sat",
    "a  b   c\n\n\tthe  end\r\n",
    "naïve café 12 123 1,234",
    "日本語 日本 שלום عربي",
    "def f(x):\n    return x",
] * 3
ADDED = ("<tool>", "\n\n", "    ", "New York", "é", " the", "ab")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@dataclass(frozen=True)
class Hostile:
    """A tokenizer, and what its tokens say of a text: `normalised`, up to white space where `drops_space`.

    `drops`: characters it leaves out. `opaque`: pieces that may stand for other text than they spell. `prefixes`: it
    puts its space before every stretch between added tokens, not before the text alone.
    """

    tokenizer: PreTrainedTokenizerFast
    normalised: Normalise = as_it_is
    drops_space: bool = False
    drops: str = ""
    opaque: tuple[str, ...] = ()
    prefixes: bool = False
    vocabulary: Vocabulary = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", read_vocabulary(self.tokenizer))


def wrapped(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_level(normalizer: Any = None, before: Any = None, **options: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE; `before` stands ahead of the byte alphabet."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})
    tokenizer.pre_tokenizer = alphabet if before is None else pre_tokenizers.Sequence([before, alphabet])
    trainer = trainers.BpeTrainer(
        vocab_size=330, show_progress=False, special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return wrapped(tokenizer, bos_token="<|end|>", eos_token="<|end|>")


def sentencepiece(normalizer: Any, before: Any = None, *, fallback: bool = True) -> PreTrainedTokenizerFast:
    """A BPE of SentencePiece's kind that does not know every character of its corpus."""
    learner = Tokenizer(models.BPE())
    tokenizer_parts = {"normalizer": normalizer, "pre_tokenizer": before}
    _put(learner, tokenizer_parts)
    trainer = trainers.BpeTrainer(vocab_size=180, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"])
    learner.train_from_iterator(CORPUS, trainer)
    model = json.loads(learner.to_str())["model"]
    kept = [piece for piece in model["vocab"] if not any(c in piece for c in "日\n1")]
    kept.sort(key=model["vocab"].get)
    ids = {piece: i for i, piece in enumerate([*kept[:3], *(BYTES if fallback else []), *kept[3:]])}
    pairs = [(a, b) for a, b in model["merges"] if a + b in ids and a in ids and b in ids]
    tokenizer = Tokenizer(models.BPE(ids, pairs, byte_fallback=fallback, unk_token="<unk>", fuse_unk=not fallback))
    _put(tokenizer, tokenizer_parts)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return wrapped(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram(normalizer: Any = None, before: Any = None, *, fallback: bool = False) -> PreTrainedTokenizerFast:
    learner = Tokenizer(models.Unigram())
    parts = {"normalizer": normalizer, "pre_tokenizer": before or pre_tokenizers.Metaspace()}
    _put(learner, parts)
    trainer = trainers.UnigramTrainer(
        vocab_size=90, show_progress=False, special_tokens=["<unk>", "</s>"], unk_token="<unk>"
    )
    learner.train_from_iterator(CORPUS, trainer)
    pieces = [tuple(entry) for entry in json.loads(learner.to_str())["model"]["vocab"]]
    if fallback:
        pieces += [(piece, -20.0) for piece in BYTES]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, fallback))
    _put(tokenizer, parts)
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return wrapped(tokenizer, eos_token="</s>", unk_token="<unk>")


def wordpiece(*, lowercase: bool) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=120, show_progress=False, special_tokens=["[UNK]", "[PAD]"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrapped(tokenizer, unk_token="[UNK]", pad_token="[PAD]")


def changed(tokenizer: PreTrainedTokenizerFast, change: Callable[[dict[str, Any]], object], **special: str) -> Any:
    """Return the tokenizer with its JSON changed."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    change(content)
    named = {f"{role}_token": str(token) for role, token in _named(tokenizer).items()}
    return wrapped(Tokenizer.from_str(json.dumps(content)), **(named | special))


def with_added(tokenizer: PreTrainedTokenizerFast, **flags: bool) -> PreTrainedTokenizerFast:
    """Add tokens of every length and kind, all with these flags; one spells a piece that is there under other bytes."""
    tokenizer.add_tokens([AddedToken(content, **flags) for content in ADDED])
    return tokenizer


def with_holes(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Spread the ids, so that most ids between the first and the last are no token."""

    def spread(content: dict[str, Any]) -> None:
        content["model"]["vocab"] = {piece: 3 * i + 2 for piece, i in content["model"]["vocab"].items()}
        for token in content["added_tokens"]:
            token["id"] = content["model"]["vocab"].get(token["content"], token["id"] + 5000)

    return changed(tokenizer, spread)


def with_strange_pieces(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Add an empty piece, a lone mark, pieces outside the byte alphabet, and a second spelling of known bytes."""

    def add(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        for piece in ("", "日本", "<0x41>", "a b", "[PAD0]", "ĠĠĠ", "▁▁▁▁", "##"):
            vocabulary.setdefault(piece, max(vocabulary.values()) + 1)

    return changed(tokenizer, add)


def _put(tokenizer: Tokenizer, parts: dict[str, Any]) -> None:
    for name, part in parts.items():
        if part is not None:
            setattr(tokenizer, name, part)


def _named(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    return {name.removesuffix("_token"): str(token) for name, token in tokenizer.special_tokens_map.items()}


MARK = normalizers.Replace(" ", "▁")
LLAMA = normalizers.Sequence([normalizers.Prepend("▁"), MARK])
BARE = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
QUOTES = normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"')])
SINGLE = normalizers.Replace(Regex(" {2,}"), " ")
META = pre_tokenizers.Metaspace
T5 = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), META()])


BUILDERS: dict[str, Callable[[], Hostile]] = {
    "byte-level": lambda: Hostile(byte_level()),
    "byte-level, prefix space": lambda: Hostile(byte_level(add_prefix_space=True)),
    "byte-level, no words": lambda: Hostile(byte_level(use_regex=False)),
    "byte-level, digits": lambda: Hostile(byte_level(before=pre_tokenizers.Digits(individual_digits=True))),
    "byte-level, NFC": lambda: Hostile(byte_level(normalizers.NFC()), form("NFC")),
    "byte-level, NFD": lambda: Hostile(byte_level(normalizers.NFD()), form("NFD")),
    "byte-level, NFKC": lambda: Hostile(byte_level(normalizers.NFKC()), form("NFKC")),
    "byte-level, lower case": lambda: Hostile(byte_level(normalizers.Lowercase()), lower),
    "byte-level, bare": lambda: Hostile(byte_level(BARE), bare),
    "byte-level, marks off": lambda: Hostile(
        byte_level(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])), without_marks
    ),
    "byte-level, strips": lambda: Hostile(byte_level(normalizers.Strip()), drops_space=True),
    "byte-level, single spaces": lambda: Hostile(
        byte_level(SINGLE), single_spaced, drops_space=True
    ),
    "byte-level, quotes": lambda: Hostile(byte_level(QUOTES), straight_quotes),
    "byte-level, no white space": lambda: Hostile(
        byte_level(before=pre_tokenizers.WhitespaceSplit()), drops_space=True
    ),
    "byte-level, no letter t": lambda: Hostile(byte_level(before=pre_tokenizers.Split("t", "removed")), drops="t"),
    "byte-level, a word before": lambda: Hostile(byte_level(normalizers.Prepend("x")), lambda text: "x" + text),
    "byte-level, added": lambda: Hostile(with_added(byte_level(), normalized=False), opaque=("é",)),
    "byte-level, added, normalised": lambda: Hostile(
        with_added(byte_level(normalizers.Lowercase())), lower, opaque=("é", "New York")
    ),
    "byte-level, added, left": lambda: Hostile(
        with_added(byte_level(), lstrip=True, normalized=False), opaque=ADDED
    ),
    "byte-level, added, right": lambda: Hostile(
        with_added(byte_level(), rstrip=True, normalized=False), opaque=ADDED
    ),
    "byte-level, added, both": lambda: Hostile(with_added(byte_level(), lstrip=True, rstrip=True), opaque=ADDED),
    "byte-level, added, words": lambda: Hostile(with_added(byte_level(), single_word=True), opaque=("é",)),
    "byte-level, holes": lambda: Hostile(with_holes(byte_level())),
    "byte-level, strange pieces": lambda: Hostile(with_strange_pieces(byte_level())),
    "llama": lambda: Hostile(sentencepiece(LLAMA), spaces_for_marks),
    "llama, unknown characters": lambda: Hostile(sentencepiece(LLAMA, fallback=False), spaces_for_marks),
    "llama, holes": lambda: Hostile(with_holes(sentencepiece(LLAMA)), spaces_for_marks),
    "llama, strange pieces": lambda: Hostile(with_strange_pieces(sentencepiece(LLAMA)), spaces_for_marks),
    "llama, added": lambda: Hostile(
        with_added(sentencepiece(LLAMA), normalized=False), spaces_for_marks, prefixes=True
    ),
    "llama, added, normalised": lambda: Hostile(with_added(sentencepiece(LLAMA)), spaces_for_marks, opaque=ADDED),
    "llama, added, both": lambda: Hostile(
        with_added(sentencepiece(LLAMA), lstrip=True, rstrip=True, normalized=False),
        spaces_for_marks,
        opaque=ADDED,
        prefixes=True,
    ),
    "gemma": lambda: Hostile(sentencepiece(MARK), spaces_for_marks),
    "metaspace, first": lambda: Hostile(
        sentencepiece(None, META(prepend_scheme="first", split=False)), spaces_for_marks
    ),
    "metaspace, always": lambda: Hostile(sentencepiece(None, META(prepend_scheme="always")), spaces_for_marks),
    "metaspace, never": lambda: Hostile(sentencepiece(None, META(prepend_scheme="never")), spaces_for_marks),
    "metaspace, always, added": lambda: Hostile(
        with_added(sentencepiece(None, META(prepend_scheme="always")), normalized=False),
        spaces_for_marks,
        prefixes=True,
    ),
    "unigram": lambda: Hostile(unigram(), spaces_for_marks),
    "unigram, bytes": lambda: Hostile(unigram(fallback=True), spaces_for_marks, opaque=tuple(BYTES)),
    "unigram, T5": lambda: Hostile(
        unigram(normalizers.NFKC(), T5),
        lambda text: spaces_for_marks(form("NFKC")(text)),
        drops_space=True,
        prefixes=True,
    ),
    "unigram, single spaces": lambda: Hostile(
        unigram(normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), SINGLE])),
        nmt,
        drops_space=True,
    ),
    "wordpiece": lambda: Hostile(wordpiece(lowercase=False), cleaned, drops_space=True),
    "wordpiece, lower case": lambda: Hostile(
        wordpiece(lowercase=True), uncased, drops_space=True
    ),
}  # fmt: skip


@cache
def built(name: str) -> Hostile:
    """Return a tokenizer of `BUILDERS`, built once."""
    return BUILDERS[name]()
