"""Hostile texts through hostile tokenizers: nothing crashes, no byte end is wrong, what cannot be told is masked."""

import itertools
import time

import numpy as np
import pytest
from hostile.builders import ADDED, BUILDERS, Hostile, built
from hostile.normalisations import as_it_is, form, spaces_for_marks
from hostile.oracle import check_ends
from hostile.texts import SURROGATES, TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

from logitfuse.kernels.alignment import ALIGNMENTS
from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, How, VocabularyMap
from logitfuse.storage.errors import BadInput, ModelRefused
from logitfuse.tasks.alignment_report.facts import Method, gather
from logitfuse.tasks.alignment_report.maps import build_map, vocabulary_pair
from logitfuse.tasks.alignment_report.sample import Sample
from logitfuse.tasks.alignment_report.tokenizers import NamedTokenizer, read_tokenizer
from logitfuse.tasks.alignment_report.tokens import tokenise
from logitfuse.tasks.corpus.documents import Row, document_of
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.models.vocabulary import encode_text, encode_texts

SNIPPETS = [
    *"the cat aT\n\r\t é1日שﬁßİ", "  ", "\r\n", "\u0301", "\u0323", "\u0488", "\u1100", "\u1161", "\u11a8", "각", "Å",
    "\u212b", "\u200d", "\u200b", "\ufeff", "\u00a0", "\u0085", "\x00", "\x07", "\ufffd", "\ufe0f", "▁", "Ġ", "😀",
    "👍🏽", "``", "''", "½", "<0x41>", "<unk>", "[UNK]", "<|end|>", "##", "ǆ", "Σ", "ς", "\u0e33", "\uff9e", "\u0345",
    *ADDED,
]  # fmt: skip
HOSTILE_TEXT = st.lists(st.sampled_from(SNIPPETS), max_size=14).map("".join)
# Whatever the text holds, these write every byte of it as it is, so no end may be unknown.
FAITHFUL = [
    "byte-level", "byte-level, prefix space", "byte-level, no words", "byte-level, digits", "byte-level, holes",
    "byte-level, strange pieces", "llama", "llama, holes", "gemma", "metaspace, first", "metaspace, always",
    "metaspace, never",
]  # fmt: skip
LARGE = ["mpt", "llama-3", "qwen2", "gemma3-270m"]
PACKAGED = ["llama-2", "gpt-2", "smollm2-135m", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
CHUNKS = tuple(("hostile", text) for name, text in TEXTS.items())


@pytest.mark.parametrize("name", BUILDERS)
def test_the_fixed_corpus(name: str) -> None:
    hostile = built(name)
    results = encode_texts(hostile.tokenizer, hostile.vocabulary, list(TEXTS.values()))
    for text, (ids, ends) in zip(TEXTS.values(), results, strict=True):
        check_ends(hostile, text, ids, ends)
        if name in FAITHFUL and "▁" not in text:
            assert (ends >= 0).all() and (ends[-1] == len(text.encode()) if text else len(ids) == 0)


@pytest.mark.parametrize("name", BUILDERS)
@settings(max_examples=40)
@given(text=HOSTILE_TEXT)
def test_no_end_is_wrong(name: str, text: str) -> None:
    hostile = built(name)
    ids, ends = encode_text(hostile.tokenizer, hostile.vocabulary, text)
    check_ends(hostile, text, ids, ends)
    if name in FAITHFUL and "▁" not in text:
        assert (ends >= 0).all()


def test_the_oracle_sees_a_wrong_end() -> None:
    """An oracle that passes everything would prove nothing: each end moved by a byte is noticed."""
    for name in (
        "byte-level",
        "byte-level, NFC",
        "byte-level, bare",
        "llama",
        "unigram, bytes",
        "wordpiece, lower case",
    ):
        hostile = built(name)
        text = "the Café cat\u0301 sat"
        ids, ends = encode_text(hostile.tokenizer, hostile.vocabulary, text)
        for at in np.flatnonzero(ends >= 0):
            wrong = ends.copy()
            wrong[at:] = np.where(ends[at:] >= 0, ends[at:] + 1, -1)
            with pytest.raises(AssertionError):
                check_ends(hostile, text, ids, wrong)


def test_text_replaced_by_less_is_not_left_out() -> None:
    """Two quotes become one, and the library's span is that of the second: an end by spans alone would be one early."""
    hostile = built("byte-level, quotes")
    assert encode_text(hostile.tokenizer, hostile.vocabulary, "````")[1].tolist() == [-1, -1]
    assert encode_text(hostile.tokenizer, hostile.vocabulary, "a``b")[1].tolist() == [1, -1, 4]


@pytest.mark.parametrize("unit", ["\u0301", "`", "t", "\u1161", "İ", "\u200d", "\x00", " ", "ABÉ"])
def test_long_runs_take_no_long_time(unit: str) -> None:
    text = "a" + unit * (8192 // len(unit.encode()))
    for name in BUILDERS:
        hostile = built(name)
        start = time.perf_counter()
        encode_text(hostile.tokenizer, hostile.vocabulary, text)
        assert time.perf_counter() - start < 5, name


@pytest.mark.parametrize("text", SURROGATES)
def test_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="surrogate"):
        document_of(Row({"text": text}, "doc", "file, row 3"), None, CorpusSettings())
    hostile = built("byte-level")
    with pytest.raises(ModelRefused, match="fails on a text"):  # never guessed at, should one get so far
        encode_text(hostile.tokenizer, hostile.vocabulary, text)


def named(name: str) -> NamedTokenizer:
    hostile = built(name)
    return NamedTokenizer(name, hostile.tokenizer, hostile.vocabulary)


SIDES = [
    "byte-level, holes", "byte-level, strange pieces", "byte-level, bare", "byte-level, added, both", "llama, added",
    "llama, strange pieces", "unigram, T5", "wordpiece, lower case",
]  # fmt: skip
PAIRS = list(itertools.pairwise([*SIDES, SIDES[0]]))
SAMPLE = Sample("hostile texts", CHUNKS, len(CHUNKS), sum(len(text.encode()) for _, text in CHUNKS), False)


@pytest.mark.parametrize("strategy", VOCABULARY_MAPS.names())
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_map_of_every_kind_of_tokenizer(source: str, target: str, strategy: str) -> None:
    ours, theirs = named(source), named(target)
    found = build_map(ours, theirs, strategy, tokenise(ours, theirs, SAMPLE))
    check_map(built(source), built(target), found, MAY_BE_SPECIAL.get(strategy, set()))


# The published code compares special tokens by their spelling like any other; text itself may hold unknown tokens.
MAY_BE_SPECIAL = {"published": {"bos", "eos", "unk", "pad"}, "learned": {"unk"}}


def check_map(source: Hostile, target: Hostile, found: VocabularyMap, roles: set[str]) -> None:
    """Rows sum to 1 over tokens that the target has; what claims equal bytes has them; none is special but `roles`."""
    texts, others = source.vocabulary.texts, target.vocabulary.texts
    sums = np.zeros(found.source_size)
    np.add.at(sums, np.repeat(np.arange(found.source_size), np.diff(found.offsets)), found.weights)
    mapped = found.how != How.UNMAPPED
    np.testing.assert_allclose(sums, mapped.astype(float), atol=1e-5)
    assert found.source_size == source.vocabulary.size
    special = target.vocabulary.special_ids - {target.vocabulary.roles.get(role) for role in roles}
    for token in range(found.source_size):
        ids = found.target_ids[found.offsets[token] : found.offsets[token + 1]].tolist()
        how = How(int(found.how[token]))
        assert all(target.vocabulary.pieces[i] is not None for i in ids)
        if how != How.ROLE:
            assert not set(ids) & special
        if how in (How.EXACT, How.BYTE) and "bos" not in roles:
            assert [others[i] for i in ids] == [texts[token]]
        if source.vocabulary.pieces[token] is None:
            assert how == How.UNMAPPED


@pytest.mark.parametrize("alignment", ALIGNMENTS.names())
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_alignment_of_every_kind_of_tokenizer(source: str, target: str, alignment: str) -> None:
    """By offsets both positions have read the same bytes; what no end is known of is not served, and counted."""
    ours, theirs = named(source), named(target)
    chunks = tuple(chunk for chunk in CHUNKS if len(chunk[1]) < 4000)  # the time of warping grows with the square
    sample = Sample("", chunks, len(chunks), sum(len(text.encode()) for _, text in chunks), False)
    tokenised = tokenise(ours, theirs, sample)
    pair = vocabulary_pair(ours, theirs, build_map(ours, theirs, "first_piece", tokenised))
    sides = tokenised.source.inside, tokenised.target.inside
    serving = ALIGNMENTS.get(alignment)(*sides, pair)
    at = np.flatnonzero(serving >= 0)
    assert serving.shape == sides[1].bytes_P.shape and (serving < len(sides[0].bytes_P)).all()
    chunk_of = [np.repeat(np.arange(len(chunks)), np.diff(side.position_offsets)) for side in sides]
    np.testing.assert_array_equal(chunk_of[0][serving[at]], chunk_of[1][at])
    if alignment == "offsets":
        np.testing.assert_array_equal(sides[0].bytes_P[serving[at]], sides[1].bytes_P[at])
        assert (sides[1].bytes_P[at] >= 0).all() and len(np.unique(serving[at])) == len(at)


def test_what_is_masked_is_counted() -> None:
    ours, theirs = named("byte-level"), named("llama, added, normalised")
    facts = gather(ours, theirs, SAMPLE, [Method("offsets", "exact")])
    ends = [encode_text(theirs.tokenizer, theirs.vocabulary, text)[1] for _, text in CHUNKS]
    unknown = sum(int((of < 0).sum()) for of in ends)
    assert facts["target"]["tokens_without_byte_end"] == unknown > 2000
    assert facts["source"]["tokens_without_byte_end"] == 0
    assert facts["methods"][0]["positions"] == sum(max(len(of) - 1, 0) for of in ends)


@pytest.mark.models
@pytest.mark.parametrize("name", PACKAGED)
def test_real_tokenizers_over_the_fixed_corpus(name: str) -> None:
    side = read_tokenizer(f"package:{name}")
    sentencepiece = side.vocabulary.kind == "sentencepiece"
    composes = name in ("mpt", "qwen2")
    hostile = Hostile(side.tokenizer, spaces_for_marks if sentencepiece else form("NFC") if composes else as_it_is)
    results = encode_texts(side.tokenizer, side.vocabulary, list(TEXTS.values()))
    for text, (ids, ends) in zip(TEXTS.values(), results, strict=True):
        check_ends(hostile, text, ids, ends)
        assert len(ids) == 0 or ends[-1] == len(text.encode())
