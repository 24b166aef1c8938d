"""Vocabulary maps against slow references, and the cases the published code gets wrong."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.kernels.edit_distance import edit_distance_reference
from logitfuse.kernels.vocabulary_map import (
    VOCABULARY_MAPS,
    How,
    MapContext,
    VocabularyMap,
    VocabularyView,
    identity_map,
    one_to_one,
)

PIECES = st.lists(
    st.one_of(st.none(), st.text("ab é日", min_size=1, max_size=4).map(str.encode), st.binary(min_size=1))
)


def run(name: str, source: VocabularyView, target: VocabularyView, context: MapContext | None = None) -> VocabularyMap:
    return VOCABULARY_MAPS.get(name)(source, target, context or MapContext(target_encode=by_character(target)))


def by_character(target: VocabularyView):  # type: ignore[no-untyped-def]
    """A tokenizer that writes one character after another, as far as the target has them."""
    ids = {text: token for token, text in reversed(list(enumerate(target.texts))) if text}

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [[ids[c.encode()] for c in text] if all(c.encode() in ids for c in text) else [] for text in texts]

    return encode


def targets_of(found: VocabularyMap) -> list[int | None]:
    """The one target of each source id."""
    spans = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    return [int(found.target_ids[a]) if b > a else None for a, b in spans]


def decoded(text: bytes | None) -> str | None:
    try:
        return text.decode() if text is not None else None
    except UnicodeDecodeError:
        return None


def test_equal_bytes_match_and_the_lowest_id_wins() -> None:
    source = VocabularyView([b"the", b" the", b"\xe2", None, b"zzz"])
    target = VocabularyView([None, b" the", b"the", b"the", b"\xe2"])
    found = run("exact", source, target)
    assert targets_of(found) == [2, 1, 4, None, None]
    assert found.how.tolist() == [How.EXACT, How.EXACT, How.EXACT, How.UNMAPPED, How.UNMAPPED]
    assert found.distance.tolist() == [0, 0, 0, -1, -1]
    assert found.counts() == dict.fromkeys((how.name.lower() for how in How), 0) | {"unmapped": 2, "exact": 3}


@pytest.mark.parametrize("name", ["exact", "mined", "first_piece"])
def test_byte_tokens_match_by_their_byte(name: str) -> None:
    # Llama-2 has b"A" as <0x41> and as A, and writes a newline as <0x0A> only.
    llama = VocabularyView([b"A", b"\n", b"\xe2", b"A", b"B"], byte_ids={0: 0x41, 1: 0x0A, 2: 0xE2})
    gpt = VocabularyView([b"\n", b"A", b"\xe2"])
    found = run(name, gpt, llama)
    assert targets_of(found) == [1, 3, 2]
    assert found.how.tolist() == [How.BYTE, How.EXACT, How.BYTE]
    back = run(name, llama, gpt)
    assert targets_of(back)[:4] == [1, 0, 2, 1]
    assert back.how[:4].tolist() == [How.BYTE, How.BYTE, How.BYTE, How.EXACT]
    assert targets_of(run(name, llama, llama)) == [0, 1, 2, 3, 4]  # <0x41> stays <0x41>


@pytest.mark.parametrize("name", ["exact", "mined", "first_piece"])
def test_special_tokens_match_by_their_part(name: str) -> None:
    gpt = VocabularyView([None, b"a"], roles={"bos": 0, "eos": 0, "unk": 0, "<|endoftext|>": 0})
    llama = VocabularyView([None, None, None, b"</s>"], roles={"unk": 0, "bos": 1, "eos": 2})
    assert targets_of(run(name, gpt, llama))[0] == 2  # the end of the text first, never the piece b"</s>"
    found = run(name, llama, gpt)
    assert targets_of(found)[:3] == [None, 0, 0]  # an unknown token must not become the end of the text
    assert found.how[:3].tolist() == [How.UNMAPPED, How.ROLE, How.ROLE]


def test_special_tokens_of_the_same_spelling_match() -> None:
    chat = VocabularyView([None, None, None], roles={"eos": 0, "<|im_end|>": 0, "<|endoftext|>": 1, "<|im_start|>": 2})
    plain = VocabularyView([None, None], roles={"eos": 0, "<|endoftext|>": 0, "<|im_start|>": 1})
    assert targets_of(run("exact", chat, plain)) == [0, 0, 1]


@given(PIECES, PIECES)
def test_mined_is_the_plain_argmin(source_texts: list[bytes | None], target_texts: list[bytes | None]) -> None:
    source, target = VocabularyView(source_texts), VocabularyView(target_texts)
    found = run("mined", source, target)
    candidates = {i: whole for i, text in enumerate(target_texts) if (whole := decoded(text)) is not None}
    for token, (text, mapped) in enumerate(zip(source_texts, targets_of(found), strict=True)):
        if text is None:
            assert mapped is None and found.how[token] == How.UNMAPPED
        elif text in target_texts:
            assert mapped == target_texts.index(text) and found.distance[token] == 0
        elif (whole := decoded(text)) is not None:
            ranked = sorted((edit_distance_reference(whole, other), i) for i, other in candidates.items())
            assert (mapped, found.distance[token]) == ((ranked[0][1], ranked[0][0]) if ranked else (None, -1))
        else:
            prefixes = [(-len(p), i) for i, p in enumerate(target_texts) if p and text.startswith(p)]
            assert mapped == (min(prefixes)[1] if prefixes else None)
            assert found.distance[token] == -1


def test_mined_compares_characters_not_their_spelling() -> None:
    # In the published code "Ċ" goes to "▁", <|endoftext|> to "Context" and 0000 to <0x00>.
    source = VocabularyView([b"\n\n", None, b"0000", "naïf".encode()], roles={"eos": 1})
    target = VocabularyView(
        [b"\x00", b"\n", b" ", b"Context", b"000", None, b"nai", "naï".encode()], roles={"eos": 5}, byte_ids={0: 0}
    )
    found = run("mined", source, target)
    assert targets_of(found) == [1, 5, 4, 7]
    assert found.distance.tolist() == [1, -1, 1, 1]


def test_byte_tokens_are_no_candidates_by_distance() -> None:
    target = VocabularyView([b"A", b"B"], byte_ids={0: 0x41})
    assert targets_of(run("mined", VocabularyView([b"AB"]), target)) == [1]


def test_a_piece_that_cuts_a_character_goes_to_its_longest_prefix() -> None:
    source = VocabularyView([b" \xf0\x9f\x98", b"\xf0\x9f", b"\x80"])
    target = VocabularyView([b" ", b"\xf0", b" \xf0\x9f", b"x"], byte_ids={1: 0xF0})
    for name in ("mined", "first_piece"):
        found = run(name, source, target)
        assert targets_of(found) == [2, 1, None]
        assert found.how.tolist() == [How.FIRST_PIECE, How.FIRST_PIECE, How.UNMAPPED]
    assert targets_of(run("exact", source, target)) == [None, None, None]


def test_first_piece_is_what_the_target_would_write() -> None:
    source = VocabularyView([b"foobar", b"foo", b"??", b"ab"])
    target = VocabularyView([b"foo", b"bar", b"?", b"a", None])
    encodings = {"foobar": [0, 1], "??": [], "ab": [4]}
    context = MapContext(target_encode=lambda texts: [encodings[text] for text in texts])
    found = run("first_piece", source, target, context)
    # "??" has no tokenisation and "ab" one that begins with a special token: both go to their longest prefix.
    assert targets_of(found) == [0, 0, 2, 3]
    assert found.how.tolist() == [How.FIRST_PIECE, How.EXACT, How.FIRST_PIECE, How.FIRST_PIECE]
    with pytest.raises(ValueError, match=r"context\.target_encode"):
        VOCABULARY_MAPS.get("first_piece")(source, target, MapContext())


@pytest.mark.parametrize("name", ["exact", "mined", "first_piece"])
@given(texts=st.lists(st.one_of(st.none(), st.binary(min_size=1)), unique_by=lambda text: text or object()))
def test_a_vocabulary_onto_itself_is_the_identity(name: str, texts: list[bytes | None]) -> None:
    view = VocabularyView(texts)
    found = run(name, view, view)
    assert targets_of(found) == [i if text is not None else None for i, text in enumerate(texts)]
    assert (found.weights == 1).all()


def test_identity_leaves_padded_ids_alone() -> None:
    found = identity_map(3, width=5)
    assert targets_of(found) == [0, 1, 2, None, None]
    assert found.source_size == 5 and found.distance.tolist() == [0, 0, 0, -1, -1]
    assert targets_of(identity_map(2)) == [0, 1]


def test_arrays_have_the_types_that_are_stored() -> None:
    found = run("mined", VocabularyView([b"ab", None]), VocabularyView([b"a"]))
    kinds = [found.offsets.dtype, found.target_ids.dtype, found.weights.dtype, found.distance.dtype, found.how.dtype]
    assert kinds == [np.int64, np.int32, np.float32, np.int32, np.int8]


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ids \[4\] lie outside"):
        VocabularyView([b"a"], roles={"eos": 4})
    good = one_to_one(np.array([0, -1], np.int32), np.zeros(2, np.int8), np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="lengths differ"):
        VocabularyMap(good.offsets, good.target_ids, good.weights, good.distance[:1], good.how)
    with pytest.raises(ValueError, match="do not rise"):
        VocabularyMap(good.offsets[::-1], good.target_ids, good.weights, good.distance, good.how)


def test_strategies_are_found() -> None:
    assert {"exact", "mined", "first_piece", "learned", "published"} <= set(VOCABULARY_MAPS.names())
    assert VOCABULARY_MAPS.check_options("mined", {}) == {}
