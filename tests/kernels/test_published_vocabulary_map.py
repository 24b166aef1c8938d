"""The map `published` against the published code's own steps, on made-up and on real vocabularies."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import vocabulary_map as slow
from rapidfuzz.distance import Levenshtein

from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, How, MapContext, VocabularyMap, VocabularyView

PIECES = st.lists(
    st.one_of(st.none(), st.text("aĠ▁é<x", max_size=5)),
    max_size=10,
    unique_by=lambda piece: object() if piece is None else piece,
)
MARKERS = st.sampled_from(["▁", "Ġ", ""])


def view(pieces: list[str | None], marker: str = "") -> VocabularyView:
    """A vocabulary of which only the spelling matters."""
    return VocabularyView([None] * len(pieces), pieces=pieces, marker=marker)


def run(source: VocabularyView, target: VocabularyView, **options: bool) -> VocabularyMap:
    return VOCABULARY_MAPS.get("published")(source, target, MapContext(workers=2), **options)


def targets_of(found: VocabularyMap) -> list[int | None]:
    spans = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    return [int(found.target_ids[a]) if b > a else None for a, b in spans]


@pytest.mark.parametrize("nearest", [True, False])
@given(source=PIECES, target=PIECES, markers=st.tuples(MARKERS, MARKERS))
def test_it_is_the_published_map(
    source: list[str | None], target: list[str | None], markers: tuple[str, str], nearest: bool
) -> None:
    found = run(view(source, markers[0]), view(target, markers[1]), nearest=nearest)
    ids = {piece: token for token, piece in enumerate(target) if piece is not None}
    for token, piece in enumerate(source):
        choose = slow.mined if nearest else slow.exact
        wanted = None if piece is None else choose(piece, ids, markers)
        assert targets_of(found)[token] == (None if wanted is None else ids[wanted])
        if wanted is None:
            assert (found.how[token], found.distance[token]) == (How.UNMAPPED, -1)
        else:
            distance = Levenshtein.distance(slow.spelled(piece or "", markers), wanted)
            assert (found.how[token], found.distance[token]) == (How.DISTANCE if distance else How.EXACT, distance)
    assert (found.weights == 1).all()


def test_all_pieces_are_only_strings() -> None:
    source = view(["Ċ", "<|endoftext|>", "0000", "Ġthe", "the", None], "Ġ")
    target = view(["<unk>", "</s>", "<0x00>", "▁", "Context", "▁the", "0"], "▁")
    assert targets_of(run(source, target)) == [3, 4, 2, 5, 5, None]
    assert targets_of(run(source, target, nearest=False)) == [None, None, None, 5, None, None]


def test_an_empty_marker_replaces_nothing() -> None:
    assert targets_of(run(view(["ab"], ""), view(["a▁b", "ab"], "▁"))) == [1]
    assert targets_of(run(view(["Ġab"], "Ġ"), view(["a", "ab"], ""))) == [1]


def test_without_the_spelling_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target\.pieces"):
        run(view(["a"]), VocabularyView([b"a"]))
    with pytest.raises(ValueError, match="1 pieces for 2 ids"):
        VocabularyView([b"a", None], pieces=["a"])
    assert VOCABULARY_MAPS.check_options("published", {"nearest": True}) == {}


@cache
def real(name: str) -> VocabularyView:
    from logitfuse.tasks.models.vocabulary import load_tokenizer, read_vocabulary, vocabulary_view
    from logitfuse.tasks.packaged.tokenizers import tokenizer_folder

    vocabulary = read_vocabulary(load_tokenizer(tokenizer_folder(name)))
    return vocabulary_view(vocabulary, vocabulary.size)


@pytest.mark.models
@pytest.mark.parametrize(
    ("source", "target"),
    [("mpt", "llama-2"), ("llama-2", "mpt"), pytest.param("gpt-2", "llama-2", marks=pytest.mark.slow)],
)
def test_real_vocabularies(source: str, target: str) -> None:
    a, b = real(source), real(target)
    found = targets_of(run(a, b))
    ids = {piece: token for token, piece in enumerate(b.pieces) if piece is not None}
    markers = {"llama-2": "▁", "mpt": "Ġ", "gpt-2": "Ġ"}
    rows = np.random.default_rng(0).choice(len(a.pieces), 120, replace=False)
    for token in rows:
        wanted = slow.mined(str(a.pieces[token]), ids, (markers[source], markers[target]), Levenshtein.distance)
        assert found[token] == ids[str(wanted)]
    by_piece = {piece: b.pieces[found[token] or 0] for token, piece in enumerate(a.pieces)}
    if target == "llama-2":
        assert (by_piece["Ċ"], by_piece["0000"], by_piece["Ġthe"]) == ("▁", "<0x00>", "▁the")
        assert by_piece["<|endoftext|>"] == "Context"


@pytest.mark.slow
@pytest.mark.models
def test_ids_that_only_pad_a_vocabulary_are_no_candidates() -> None:
    for name, size in (("mpt", 50277), ("gpt-neox", 50277), ("qwen2", 151646)):
        assert len(real(name).pieces) == size
        assert not any(str(piece).startswith("[PAD") for piece in real(name).pieces)
