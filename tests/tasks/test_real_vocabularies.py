"""The packaged tokenizers: what they tile, what they claim, and the maps between them."""

import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist
from small_tokenizers import HARD, check_order, read_so_far
from transformers import PreTrainedTokenizerFast

from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS, How
from logitfuse.tasks.models.vocabulary import (
    Vocabulary,
    encode_texts,
    load_tokenizer,
    map_context,
    read_vocabulary,
    vocabulary_view,
)

LARGE = ["llama-3", "qwen2", "gemma3-270m"]  # each takes seconds to read
PACKAGED = ["llama-2", "mpt", "gpt-2", "gpt-neox", "smollm2-135m", *LARGE]


@cache
def packaged(name: str) -> tuple[PreTrainedTokenizerFast, Vocabulary]:
    from logitfuse.tasks.packaged.models import MODELS, fetch_model
    from logitfuse.tasks.packaged.tokenizers import tokenizer_folder

    tokenizer = load_tokenizer(fetch_model(name) if name in MODELS else tokenizer_folder(name))
    return tokenizer, read_vocabulary(tokenizer)


@pytest.mark.models
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in PACKAGED])
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
    assert llama.dummy_prefix and llama.kind == "sentencepiece"


@pytest.mark.models
@pytest.mark.slow
def test_every_real_vocabulary_is_told_from_the_others() -> None:
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
