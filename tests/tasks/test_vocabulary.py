"""Tokenizers as data: bytes of pieces, fingerprints, continuations, refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_tokenizers import BUILDERS, built, byte_level, wrapped
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS
from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.models.vocabulary import (
    encode_behind_sentinel,
    encode_text,
    load_tokenizer,
    map_context,
    read_vocabulary,
    vocabulary_view,
)


def test_added_tokens_are_not_spelled_in_the_byte_alphabet() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("éa", normalized=False)])
    vocabulary = read_vocabulary(tokenizer)
    assert vocabulary.texts[vocabulary.pieces.index("éa")] == "éa".encode()
    assert encode_text(tokenizer, vocabulary, "xéa")[1].tolist() == [1, 4]


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
