"""Tokenizers out of GGUF files: the vocabulary is stored there, how text is cut before it is only named."""

import json
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from logitfuse.storage.errors import ModelRefused

SPACE = "▁"  # how SentencePiece writes a space inside a token
SPECIAL_KEYS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # our names: the file's


class TokenKind(IntEnum):
    """What a GGUF file says about each token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """A GGUF file's vocabulary: one token and one kind per id, merges or scores, and the ids of the special tokens."""

    algorithm: str
    cut: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float]
    merges: list[tuple[str, str]]
    special: dict[str, int] = field(default_factory=dict)
    starts_with_bos: bool = False
    space_prefix: bool = True  # SentencePiece only: text is encoded as if a space stood before it
    chat_template: str | None = None


# Text is cut by these expressions before pairs are merged. GGUF only names them, so each stands here once.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3_CUT = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}"
QWEN_2_CUT = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}"


def read_vocabulary(path: Path) -> Vocabulary:
    """Read the vocabulary of a GGUF file; 1-7 s, because its reader walks every string."""
    fields = gguf.GGUFReader(path).fields

    def value(key: str, default: Any = None) -> Any:
        entry = fields.get(f"tokenizer.ggml.{key}") or fields.get(f"tokenizer.{key}")
        return default if entry is None else entry.contents()

    special = {name: value(f"{key}_token_id") for name, key in SPECIAL_KEYS.items()}
    merges = [tuple(pair.split(" ")) for pair in value("merges", [])]
    return Vocabulary(
        algorithm=value("model"),
        cut=value("pre", "default"),
        tokens=value("tokens"),
        kinds=value("token_type"),
        scores=value("scores", []),
        merges=merges,
        special={name: id for name, id in special.items() if id is not None},
        starts_with_bos=bool(value("add_bos_token", False)),
        space_prefix=bool(value("add_space_prefix", True)),
        chat_template=value("chat_template"),
    )


def build_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer that encodes as the model's own one does, byte for byte of the text.

    Raises ModelRefused for a way of cutting text that is not known here: a wrong guess would shift token ids
    quietly (digits of SmolLM2, runs of spaces of Gemma).
    """
    tokenizer = _sentencepiece(vocabulary) if vocabulary.algorithm == "llama" else _byte_level(vocabulary)
    tokenizer.add_special_tokens(_added(vocabulary, TokenKind.CONTROL, TokenKind.UNKNOWN))
    tokenizer.add_tokens(_added(vocabulary, TokenKind.USER_DEFINED))
    if vocabulary.starts_with_bos:
        id = vocabulary.special["bos"]
        bos = vocabulary.tokens[id]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, id)]
        )
    return tokenizer


def save_tokenizer(vocabulary: Vocabulary, folder: Path) -> Tokenizer:
    """Write the tokenizer's two files so that `AutoTokenizer.from_pretrained(folder)` loads them; return it."""
    tokenizer = build_tokenizer(vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": vocabulary.starts_with_bos,
        "model_max_length": 10**30,  # documents are cut by what the model serves, not by the tokenizer
    }
    config |= {f"{name}_token": vocabulary.tokens[id] for name, id in vocabulary.special.items()}
    if vocabulary.chat_template:
        config["chat_template"] = vocabulary.chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return tokenizer


def _byte_level(vocabulary: Vocabulary) -> Tokenizer:
    ids = _ids(vocabulary.tokens)
    # Llama-3 takes a word that is a token as it is; its merges alone would not build every one of them.
    whole_words = vocabulary.cut == "llama-bpe"
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=vocabulary.merges, ignore_merges=whole_words))
    if vocabulary.cut in ("mpt", "gpt-neox", "qwen2"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _cutting(vocabulary.cut)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _cutting(name: str) -> pre_tokenizers.PreTokenizer:
    gpt_2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("gpt-2", "mpt", "gpt-neox"):
        return gpt_2
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt_2])
    if name in ("llama-bpe", "qwen2"):
        expression = Regex(LLAMA_3_CUT if name == "llama-bpe" else QWEN_2_CUT)
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([pre_tokenizers.Split(expression, "isolated"), as_bytes])
    raise ModelRefused(f"the vocabulary names '{name}' as the way it cuts text, which is not known here.")


def _sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    # User-defined runs of spaces are stored as spaces, but text reaches the merges with every space replaced.
    tokens = [token.replace(" ", SPACE) for token in vocabulary.tokens]
    model = models.BPE(
        vocab=_ids(tokens),
        merges=merges_from_scores(tokens, vocabulary.scores, vocabulary.kinds),
        unk_token=tokens[vocabulary.special["unk"]],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    undo = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    replace = normalizers.Replace(" ", SPACE)
    # Gemma's own file has this step: after the replacement it never finds anything to cut.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    if vocabulary.space_prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace])
        undo.append(decoders.Strip(content=" ", left=1, right=0))
    else:
        tokenizer.normalizer = replace
    tokenizer.decoder = decoders.Sequence(undo)
    return tokenizer


def merges_from_scores(tokens: list[str], scores: list[float], kinds: list[int]) -> list[tuple[str, str]]:
    """Return the merges that give SentencePiece's order: the pair whose product scores best is merged first.

    Of pairs with equal products the longest left part goes first, as the published tokenizers have it.
    """
    ids = {token: id for id, token in enumerate(tokens)}
    ranked: list[tuple[float, int, int, str, str]] = []
    for token, id in ids.items():
        score = scores[id] if kinds[id] == TokenKind.NORMAL else 0.0
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ids and right in ids:
                ranked.append((-score, -len(left), -len(right), left, right))
    ranked.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in ranked]


def _ids(tokens: list[str]) -> dict[str, int]:
    return {token: id for id, token in enumerate(tokens) if not _only_pads(token, id)}


def _only_pads(token: str, id: int) -> bool:
    """Whether a GGUF file has this token only to be as long as the model's head; its own tokenizer has none there.

    Such an id stands for no text: it is no candidate of a vocabulary map, and text that spells it must not become it.
    """
    return token == f"[PAD{id}]"


def _added(vocabulary: Vocabulary, *kinds: TokenKind) -> list[AddedToken]:
    replaced = SPACE if vocabulary.algorithm == "llama" else " "
    return [
        AddedToken(token.replace(" ", replaced), normalized=False, special=TokenKind.CONTROL in kinds)
        for id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind in kinds and not _only_pads(token, id)
    ]
