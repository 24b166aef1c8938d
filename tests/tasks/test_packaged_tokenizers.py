"""Packaged tokenizers encode as the models' own do, and mend what their vocabulary files lose."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from logitfuse.storage.errors import BadInput, ModelRefused
from logitfuse.tasks.packaged import tokenizers as packaged
from logitfuse.tasks.packaged.fetch import fetch_wheel_files
from logitfuse.tasks.packaged.models import MODELS, fetch_model
from logitfuse.tasks.packaged.tokenizers import TOKENIZERS, reference_cases, tokenizer_folder
from logitfuse.tasks.packaged.vocabularies import (
    Vocabulary,
    build_tokenizer,
    merges_from_scores,
    read_vocabulary,
    save_tokenizer,
)

# name: length, bos, eos, unk, and what "Hello world" is with the tokens a tokenizer adds by itself
EXPECTED = {
    "llama-2": (32000, 1, 2, 0, [1, 15043, 3186]),
    "mpt": (50277, 0, 0, 0, [12092, 1533]),
    "gpt-neox": (50277, 0, 0, 0, [12092, 1533]),
    "gpt-2": (50257, 50256, 50256, 50256, [15496, 995]),
    "llama-3": (128256, 128000, 128001, None, [128000, 9906, 1917]),
    "qwen2": (151646, 151643, 151643, None, [9707, 1879]),
}
AWKWARD = ["", " ", "a\r\n\tb  c\u00a0d", "naïve café 東京 🦙🦙", "x" * 300, "3.14159 and 1984", "▁_▁", "\x00\x07"]


@pytest.mark.models
@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_loaded_by_transformers_it_gives_the_shipped_encodings(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(name))
    cases = reference_cases(name)
    assert len(cases) == 47
    for text, ids in cases:
        assert tokenizer(text, add_special_tokens=False).input_ids == ids, text


@pytest.mark.models
@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_size_and_special_tokens_are_the_models_own(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(name))
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert (len(tokenizer), *special, tokenizer("Hello world").input_ids) == EXPECTED[name]


@pytest.mark.models
@pytest.mark.parametrize("name", sorted(set(TOKENIZERS) - {"llama-2"}))
def test_byte_level_text_comes_back(name: str) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder(name) / "tokenizer.json"))
    for text in AWKWARD:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


@pytest.mark.models
def test_ids_that_only_pad_the_vocabulary_are_never_produced() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder("mpt"))
    assert "[PAD50400]" not in tokenizer.get_vocab()
    assert max(tokenizer.get_vocab().values()) == 50276
    assert 50400 not in tokenizer("[PAD50400]").input_ids


def test_an_unknown_name_is_answered_with_the_closest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'lama2'.*Did you mean 'llama-2'"):
        tokenizer_folder("lama2", tmp_path)


@pytest.mark.models
def test_a_tokenizer_that_misses_a_reference_encoding_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabularies = packaged.vocabulary_file("gpt-2").parent
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / vocabularies.name).symlink_to(vocabularies)
    wrong = replace(TOKENIZERS["gpt-2"], cut="smollm")
    monkeypatch.setitem(packaged.TOKENIZERS, "gpt-2", wrong)
    with pytest.raises(ModelRefused, match="gpt-2"):
        tokenizer_folder("gpt-2", tmp_path)
    assert not list((tmp_path / "tokenizers").glob("gpt-2-*"))


@pytest.mark.models
def test_smollm2_cuts_digits_one_by_one() -> None:
    folder = fetch_model("smollm2-135m")
    right = AutoTokenizer.from_pretrained(folder)
    text = "Table  12\n\n34"  # white space before a digit is where the difference shows
    assert right.convert_ids_to_tokens(right(text).input_ids) == ["Table", "ĠĠ", "1", "2", "ĊĊ", "3", "4"]

    unrepaired = json.loads((folder / "tokenizer.json").read_text())
    unrepaired["pre_tokenizer"] = unrepaired["pre_tokenizer"]["pretokenizers"][1]
    wrong = Tokenizer.from_str(json.dumps(unrepaired))
    assert wrong.encode(text).tokens == ["Table", "Ġ", "Ġ", "1", "2", "Ċ", "Ċ", "3", "4"]
    assert wrong.encode("no number").ids == right("no number").input_ids


@pytest.mark.slow
@pytest.mark.models
def test_gemma_has_its_runs_of_whitespace() -> None:
    folder = fetch_model("gemma3-270m")
    right = AutoTokenizer.from_pretrained(folder)
    for length in range(2, 32):
        assert right.convert_tokens_to_ids("▁" * length) == 136 + length
        assert 136 + length in right("a" + " " * length + "b").input_ids
    code = "def f(x):\n    return x\n\n\n        # end\t\t123"
    # As the original tokenizer encodes it, which is distributed apart from the GGUF file.
    original = [
        2,
        2063,
        517,
        236769,
        236781,
        1473,
        107,
        140,
        2060,
        1123,
        109,
        144,
        236865,
        1345,
        255969,
        236770,
        236778,
        236800,
    ]
    assert right(code).input_ids == original

    unrepaired = json.loads((folder / "tokenizer.json").read_text())
    runs = {"▁" * length for length in range(2, 32)}
    model = unrepaired["model"]
    model["vocab"] = {token.replace("▁", " ") if token in runs else token: id for token, id in model["vocab"].items()}
    model["merges"] = [pair for pair in model["merges"] if not runs & {*pair, "".join(pair)}]
    unrepaired["added_tokens"] = [token for token in unrepaired["added_tokens"] if token["content"] not in runs]
    assert Tokenizer.from_str(json.dumps(unrepaired)).encode(code).ids != right(code).input_ids


@pytest.mark.models
def test_start_and_end_of_text() -> None:
    smollm2 = AutoTokenizer.from_pretrained(fetch_model("smollm2-135m"))
    gemma = AutoTokenizer.from_pretrained(fetch_model("gemma3-270m"))
    assert (smollm2.bos_token, smollm2.bos_token_id, smollm2.eos_token_id) == ("<|endoftext|>", 0, 0)
    assert (gemma.bos_token, gemma.bos_token_id, gemma.eos_token_id) == ("<bos>", 2, 1)
    assert smollm2("a").input_ids[0] != 0
    assert gemma("a").input_ids[0] == 2
    assert (len(smollm2), len(gemma)) == (49152, 262144)


def test_the_best_scored_pair_is_merged_first() -> None:
    tokens = ["<unk>", "a", "b", "c", "bc", "ab", "abc"]
    scores = [0.0, -10.0, -11.0, -12.0, -1.0, -2.0, -3.0]
    merges = merges_from_scores(tokens, scores, [2, 1, 1, 1, 1, 1, 1])
    assert merges == [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]


def test_an_unknown_way_of_cutting_text_is_refused_not_guessed() -> None:
    vocabulary = Vocabulary("gpt2", "unheard-of", ["a", "b"], [1, 1], [], [])
    with pytest.raises(ModelRefused, match="unheard-of"):
        build_tokenizer(vocabulary)


@pytest.mark.models
@pytest.mark.parametrize("name", ["llama-2", pytest.param("mpt", marks=pytest.mark.slow)])
def test_made_anew_a_tokenizer_is_the_cached_one(name: str, tmp_path: Path) -> None:
    """If this fails because the conversion was changed on purpose, raise its CONVERSION."""
    vocabularies = packaged.vocabulary_file("mpt").parent
    (tmp_path / "tokenizers").mkdir()
    (tmp_path / "tokenizers" / vocabularies.name).symlink_to(vocabularies)
    for file in tokenizer_folder(name).iterdir():
        assert file.read_bytes() == (tokenizer_folder(name, tmp_path) / file.name).read_bytes(), file.name


@pytest.mark.slow
@pytest.mark.models
def test_made_anew_a_models_tokenizer_is_the_cached_one(tmp_path: Path) -> None:
    """If this fails because the conversion was changed on purpose, raise its CONVERSION."""
    model = MODELS["smollm2-135m"]
    vocabulary = read_vocabulary(fetch_wheel_files(model.packages[0], [model.gguf], tmp_path)[0])
    save_tokenizer(replace(vocabulary, special=vocabulary.special | model.special), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (fetch_model("smollm2-135m") / name).read_bytes()
