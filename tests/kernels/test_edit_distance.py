"""The search for the nearest text against the textbook and against rapidfuzz, ids and distances alike."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.errors import NumbaError
from rapidfuzz.distance import Levenshtein

from logitfuse.kernels import edit_distance
from logitfuse.kernels.edit_distance import Engine, edit_distance_reference, nearest_by_edit_distance, usable_engine

ALPHABETS = st.sampled_from(["ab", "abc é", "日本語a", "".join(map(chr, range(0x61, 0xB1)))])
TEXTS = ALPHABETS.flatmap(lambda alphabet: st.lists(st.text(alphabet, max_size=9), max_size=12))
ENGINES: list[Engine] = ["numba", "rapidfuzz"]


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_reference_distance_of_bytes_is_levenshtein(a: bytes, b: bytes) -> None:
    assert edit_distance_reference(a, b) == Levenshtein.distance(a, b)


@given(st.text(max_size=12), st.text(max_size=12))
def test_reference_distance_of_text_is_levenshtein(a: str, b: str) -> None:
    assert edit_distance_reference(a, b) == Levenshtein.distance(a, b)


@pytest.mark.parametrize("engine", ENGINES)
@given(queries=TEXTS, choices=TEXTS, workers=st.integers(1, 3))
def test_nearest_is_the_first_least_distance(
    queries: list[str], choices: list[str], workers: int, engine: Engine
) -> None:
    index, distance = nearest_by_edit_distance(queries, choices, workers=workers, engine=engine)
    for query, i, d in zip(queries, index, distance, strict=True):
        distances = [edit_distance_reference(query, choice) for choice in choices]
        assert (i, d) == ((distances.index(min(distances)), min(distances)) if choices else (-1, -1))


@pytest.mark.parametrize("engine", ENGINES)
@given(
    queries=st.lists(st.text("ab", min_size=50, max_size=90), min_size=1, max_size=4),
    choices=st.lists(st.text("ab", max_size=90)),
)
def test_nearest_of_texts_longer_than_a_machine_word(queries: list[str], choices: list[str], engine: Engine) -> None:
    index, distance = nearest_by_edit_distance(queries, choices, engine=engine)
    for query, i, d in zip(queries, index, distance, strict=True):
        distances = [Levenshtein.distance(query, choice) for choice in choices]
        assert (i, d) == ((distances.index(min(distances)), min(distances)) if choices else (-1, -1))


def test_neither_threads_nor_blocks_nor_engine_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh ü"), rng.integers(1, 12))) for _ in range(3000)]
    monkeypatch.setattr(edit_distance, "CELLS", 1500 * 7)  # seven rows of rapidfuzz's distances at a time
    expected = nearest_by_edit_distance(texts[:1500], texts[1500:], engine="rapidfuzz")
    for workers in (1, 2, 3):
        for engine in ENGINES:
            same(expected, nearest_by_edit_distance(texts[:1500], texts[1500:], workers=workers, engine=engine))


def same(one: edit_distance.Nearest, other: edit_distance.Nearest) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype == np.int32
        np.testing.assert_array_equal(a, b)


def test_where_numba_cannot_compile_rapidfuzz_steps_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NumbaError("no such intrinsic")

    usable_engine.cache_clear()
    assert usable_engine() == "numba"
    usable_engine.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(edit_distance, "search_nearest", refuse)
        patched.setitem(edit_distance._ENGINES, "numba", refuse)
        with pytest.warns(RuntimeWarning, match=r"no such intrinsic.*rapidfuzz compares all pairs"):
            index, distance = nearest_by_edit_distance(["ab"], ["b", "abc"])
    assert (index.tolist(), distance.tolist()) == ([0], [1])
    usable_engine.cache_clear()


def test_where_numba_is_switched_off_rapidfuzz_steps_in() -> None:
    code = "from logitfuse.kernels.edit_distance import usable_engine; print(usable_engine())"
    environment = {"NUMBA_DISABLE_JIT": "1", "PATH": ""}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "rapidfuzz"


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown engine 'gpu'.*numba, rapidfuzz"):
        nearest_by_edit_distance(["a"], ["a"], engine="gpu")  # type: ignore[arg-type]


@cache
def pieces(name: str) -> list[str]:
    """A real vocabulary as it is spelled, special tokens and all."""
    from logitfuse.tasks.models.vocabulary import load_tokenizer, read_vocabulary
    from logitfuse.tasks.packaged.models import MODELS, fetch_model
    from logitfuse.tasks.packaged.tokenizers import tokenizer_folder

    folder = fetch_model(name) if name in MODELS else tokenizer_folder(name)
    return [piece for piece in read_vocabulary(load_tokenizer(folder)).pieces if piece is not None]


@pytest.mark.models
@pytest.mark.parametrize(
    ("source", "target"),
    [("smollm2-135m", "llama-2"), pytest.param("gemma3-270m", "smollm2-135m", marks=pytest.mark.slow)],
)
def test_sampled_real_pieces_are_rapidfuzz(source: str, target: str) -> None:
    queries = np.random.default_rng(1).choice(np.array(pieces(source), object), 400, replace=False).tolist()
    expected = nearest_by_edit_distance(queries, pieces(target), engine="rapidfuzz")
    same(expected, nearest_by_edit_distance(queries, pieces(target), workers=2, engine="numba"))


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("source", "target"), [("smollm2-135m", "llama-2"), ("mpt", "llama-2"), ("gemma3-270m", "llama-2")]
)
def test_every_id_of_real_vocabularies_is_rapidfuzz(source: str, target: str) -> None:
    """Every piece as it is spelled, also those with an exact match; minutes."""
    queries, choices = pieces(source), pieces(target)
    expected = nearest_by_edit_distance(queries, choices, workers=2, engine="rapidfuzz")
    for workers in (1, 2, 3):
        same(expected, nearest_by_edit_distance(queries, choices, workers=workers, engine="numba"))
