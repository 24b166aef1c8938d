"""Tokenizers of every kind, learnt from a few lines, and texts that are hard on them."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from logitfuse.tasks.models.vocabulary import (
    Vocabulary,
    read_vocabulary,
)

CORPUS = [
    "the cat sat on the mat, the hat",
    "a  b   c\n\n\tthe  end",
    "naïve café 12 123",
    "日本語 日本",
    "Hello The",
] * 3
CHARACTERS = st.sampled_from(
    [*"the cat sat\n\t 1aéHTÅ日本", "\u0301", "\u0323", "\u1100", "\u1161", "▁", "😀", "\u200d"]
)
TEXTS = st.lists(CHARACTERS, max_size=24).map("".join)
HARD = [
    "", " ", "\n", "  lead and trail  ", "日本語のテキスト", "👩‍👩‍👧 family", "tabs\tand  two   spaces", "a\r\nb",
    "x = {'k': [1, 22, 333]}", "<s> </s> <|endoftext|> <bos> <0x0A>", "e\u0301a \u212b", "▁ literal ▁▁x",
    "\n\n\n   x", "\u200b\ufeffx", "각\u1100\u1161\u11a8", "ﬁ x\u00a0y", "�", "\x00\x7f",
]  # fmt: skip


def wrapped(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def trained(model: Any, trainer: Any, normalizer: Any = None, before: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if before is not None:
        tokenizer.pre_tokenizer = before
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level(normalizer: Any = None, *, add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=330, show_progress=False, special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    before = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer = trained(models.BPE(), trainer, normalizer, before)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return wrapped(tokenizer, bos_token="<|end|>", eos_token="<|end|>")


def sentencepiece(normalizer: Any, before: Any = None) -> PreTrainedTokenizerFast:
    """A BPE of SentencePiece's kind; bytes stand in for characters it does not know."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=370, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"])
    learned = trained(models.BPE(), trainer, normalizer, before)
    vocabulary, merges = json.loads(learned.to_str())["model"]["vocab"], json.loads(learned.to_str())["model"]["merges"]
    rare = {piece for piece in vocabulary if any(c in piece for c in "日\n1")}
    kept = [piece for piece in sorted(vocabulary, key=vocabulary.get) if piece not in rare]
    ids = {piece: i for i, piece in enumerate([*kept[:3], *byte_tokens, *kept[3:]])}
    pairs = [(a, b) for a, b in merges if a + b in ids and a in ids and b in ids]
    tokenizer = Tokenizer(models.BPE(ids, pairs, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if before is not None:
        tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.post_processor = template
    return wrapped(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    trainer = trainers.UnigramTrainer(
        vocab_size=60, show_progress=False, special_tokens=["<unk>", "</s>"], unk_token="<unk>"
    )
    tokenizer = trained(models.Unigram(), trainer, None, pre_tokenizers.Metaspace())
    tokenizer.decoder = decoders.Metaspace()
    return wrapped(tokenizer, eos_token="</s>", unk_token="<unk>")


def wordpiece() -> PreTrainedTokenizerFast:
    trainer = trainers.WordPieceTrainer(vocab_size=120, show_progress=False, special_tokens=["[UNK]", "[PAD]"])
    normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer = trained(models.WordPiece(unk_token="[UNK]"), trainer, normalizer, pre_tokenizers.BertPreTokenizer())
    return wrapped(tokenizer, unk_token="[UNK]", pad_token="[PAD]")


LLAMA = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
LOWER = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()])
BUILDERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level": byte_level,
    "byte-level, prefix space": lambda: byte_level(add_prefix_space=True),
    "byte-level, NFC": lambda: byte_level(normalizers.NFC()),
    "byte-level, lower case": lambda: byte_level(LOWER),
    "llama": lambda: sentencepiece(LLAMA),
    "gemma": lambda: sentencepiece(normalizers.Replace(" ", "▁")),
    "metaspace": lambda: sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "unigram": unigram,
    "wordpiece": wordpiece,
}
# Every text tiles into pieces: whatever it holds, all ends are known. (▁ itself is a space to SentencePiece.)
TILING = ["byte-level", "byte-level, prefix space", "llama", "gemma", "metaspace"]


@cache
def built(name: str) -> tuple[PreTrainedTokenizerFast, Vocabulary]:
    tokenizer = BUILDERS[name]()
    return tokenizer, read_vocabulary(tokenizer)


def read_so_far(vocabulary: Vocabulary, ids: np.ndarray) -> list[bytes | None]:
    """The text the tokens up to each one stand for; None once a token without text is among them."""
    texts: list[bytes | None] = []
    joined: bytes | None = b""
    for token in ids:
        piece = vocabulary.texts[token]
        joined = None if joined is None or piece is None else joined + piece
        texts.append(joined)
    return texts


def check_order(ends: np.ndarray, text: str) -> None:
    known = ends[ends >= 0]
    assert ends.dtype == np.int32
    assert (np.diff(known) >= 0).all() and (known <= len(text.encode())).all()
