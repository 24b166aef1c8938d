"""Bad input is refused at once, with what, where and what next, and nothing is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import paper_models
import pytest

from logitfuse.storage.errors import BadInput, LogitfuseError, ModelRefused, OutOfSpace
from logitfuse.tasks.checks import check_run, claim_folder
from logitfuse.tasks.execute import chosen_units, do_prepare
from logitfuse.tasks.recipe import parse_recipe, read_recipe
from logitfuse.tasks.recipe_text import shipped_recipes
from logitfuse.tasks.run import Run

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def content(tmp_path: Path, models: Path) -> dict[str, Any]:
    return paper_models.recipe_content(tmp_path, models, documents=10)


def refused(content: dict[str, Any], kind: type[Exception], *words: str) -> None:
    with pytest.raises(kind) as caught:
        check_run(Run(parse_recipe(content, "my.yaml")))
    for word in words:
        assert word in str(caught.value)
    assert not (Path(content["execution"]["folder"])).exists()


def test_a_sound_recipe_passes(content: dict[str, Any]) -> None:
    check_run(Run(parse_recipe(content, "my.yaml")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fuze": {}}, ["my.yaml", "fuze", "Did you mean 'fuse'"]),
        ({"capture": {"top_k": 4}}, ["capture.top_k", "no such field"]),
        ({"train": {"learning_rat": 1}}, ["train.learning_rat", "'learning_rate'"]),
        ({"fuse": {"rule": "min_c"}}, ["fuse.rule", "Did you mean 'min_ce'"]),
        ({"fuse": {"rule": "min_ce", "options": {"temperature": 1}}}, ["fuse", "no option 'temperature'"]),
        ({"map": {"strategy": "minned"}}, ["map.strategy", "'mined'"]),
        ({"align": {"strategy": "ofsets"}}, ["align.strategy", "'offsets'"]),
        ({"align": {"values": "logits", "collision": "first"}}, ["align.values", "capture.raw_logits"]),
        ({"align": {"values": "logits"}, "capture": {"raw_logits": True}}, ["align", "collision"]),
        (
            {"align": {"condition_on_target": "always"}, "include_target": False},
            ["condition_on_target", "include_target"],
        ),
        ({"fuse": {"granularity": "block"}}, ["fuse.granularity", "capture.past_end"]),
        ({"fuse": {"temperature": 2.0}}, ["fuse.temperature", "align.values"]),
        ({"fuse": {"source_weights": {"tiny-mtp": 2}}}, ["fuse.source_weights", "Did you mean 'tiny-mpt'"]),
        ({"fuse": {"source_weights": {"tiny-llama": 0, "tiny-mpt": 0}}}, ["every source has weight 0"]),
        ({"train": {"residual": "buckt"}}, ["train.residual", "'bucket'"]),
        ({"train": {"clm_weight": 1.5}}, ["train.clm_weight", "less than or equal to 1", "1.5"]),
        ({"train": {"clm_weight": -0.1}}, ["train.clm_weight", "greater than or equal to 0"]),
        ({"capture": {"k": 0}}, ["capture.k"]),
        ({"name": "../escape"}, ["name", "folder"]),
    ],
)
def test_a_wrong_field_is_named_with_the_closest(content: dict[str, Any], change: dict, words: list[str]) -> None:
    refused(content | change, BadInput, *words)


def test_a_source_listed_twice(content: dict[str, Any]) -> None:
    refused(content | {"sources": content["sources"] * 2}, BadInput, "listed twice")
    refused(content | {"sources": [content["target"]]}, BadInput, "listed twice")


def test_the_same_model_under_two_names(content: dict[str, Any], tmp_path: Path) -> None:
    copy = shutil.copytree(content["sources"][0]["model"], tmp_path / "copy")
    refused(content | {"sources": [*content["sources"], {"model": str(copy)}]}, BadInput, "same model")


def test_k_larger_than_a_vocabulary(content: dict[str, Any], models: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({piece: number for number, piece in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", bos_token="<bos>")
    fast.save_pretrained(tmp_path / "bytes")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), **sizes)).save_pretrained(tmp_path / "bytes")
    small = content | {"sources": [{"model": str(tmp_path / "bytes")}], "capture": {"k": 300}}
    refused(small, BadInput, "capture.k: 300", "258 tokens", "'bytes'")


@pytest.mark.parametrize("missing", ["tokenizer", "weights", "config", "shard", "folder"])
def test_a_model_that_is_not_whole(content: dict[str, Any], tmp_path: Path, missing: str) -> None:
    broken = shutil.copytree(content["sources"][0]["model"], tmp_path / "broken")
    if missing == "tokenizer":
        for file in broken.glob("*token*"):
            file.unlink()
    elif missing == "weights":
        (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    elif missing == "config":
        (broken / "config.json").unlink()
    elif missing == "shard":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
        (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        broken = tmp_path / "nowhere"
    words = {
        "tokenizer": "tokenizer", "weights": "safetensors", "config": "config.json", "shard": "00001-of-00002",
        "folder": "no such folder",
    }  # fmt: skip
    refused(content | {"sources": [{"model": str(broken)}]}, ModelRefused, str(broken), words[missing])


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (b"", ["corpus.jsonl", "no document"]),
        (b'{"body": "x"}\n', ["'body'", "text_column"]),
        (b'{"id": "1", "text": "caf\xe9"}\n', ["UTF-8"]),
        (b'{"id": "1", "text": 3}\n', ["not text"]),
        (b'{"id": "1", "text": \n', ["corpus.jsonl"]),
        (None, ["corpus.jsonl"]),
    ],
)
def test_a_corpus_that_cannot_be_used(content: dict[str, Any], written: bytes | None, words: list[str]) -> None:
    corpus = Path(content["corpus"]["source"])
    corpus.write_bytes(written) if written is not None else corpus.unlink()
    refused(content, BadInput, *words)


def test_no_free_disk(content: dict[str, Any]) -> None:
    refused(content | {"execution": content["execution"] | {"min_free_gb": 1e9}}, OutOfSpace, "min_free_gb", "GB free")


def test_a_folder_made_by_other_settings_is_left_alone(content: dict[str, Any], tmp_path: Path) -> None:
    claim_folder(parse_recipe(content, "my.yaml"))
    other = content | {"target": content["sources"][0], "sources": [content["target"]]}
    with pytest.raises(BadInput, match=r"other settings: target .*Give this run another name"):
        check_run(Run(parse_recipe(other, "my.yaml")))
    check_run(Run(parse_recipe(content | {"fuse": {"rule": "avg_ce"}}, "my.yaml")))  # this is what a run may change


def test_a_folder_that_is_no_run_is_left_alone(content: dict[str, Any]) -> None:
    folder = parse_recipe(content, "my.yaml").folder
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match="no run folder"):
        check_run(Run(parse_recipe(content, "my.yaml")))
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]


def test_unknown_sources_and_shards_are_named(content: dict[str, Any]) -> None:
    run = Run(parse_recipe(content, "my.yaml"))
    do_prepare(run)
    with pytest.raises(BadInput, match=r"no such source\. Known: .*tiny-mpt"):
        chosen_units(run, "capture", "tiny-mtp")
    with pytest.raises(BadInput, match="has shards 0-1"):
        chosen_units(run, "capture", None, (7, 9))
    assert [u.shard for u in chosen_units(run, "capture", "tiny-mpt", (1, 1))] == [1]
    assert len(chosen_units(run, "encode", "tiny-mpt")) == 2


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    for text, word in (
        (b"a: [", "not YAML"),
        (b"- 1", "this is a list"),
        (b"fuse my models", "a single value"),
        (b"\xff\xfe", "UTF-8"),
    ):
        (tmp_path / "bad.yaml").write_bytes(text)
        with pytest.raises(BadInput, match=word):
            read_recipe(str(tmp_path / "bad.yaml"))
    with pytest.raises(BadInput, match=r"this is a folder.*logitfuse inspect"):
        read_recipe(str(tmp_path))
    for override, words in (
        ("target=5", r"target: it holds fields, such as target\.model; .*Fields: model, name"),
        ("fuse.rule=", r"fuse\.rule: Input should be a valid string\. Choices: avg_ce, .*weighted"),
    ):
        with pytest.raises(BadInput, match=words):
            read_recipe("default", [override])
    with pytest.raises(BadInput, match="Did you mean 'paper'"):
        read_recipe("papr")
    with pytest.raises(BadInput, match=r"field\.field=value"):
        read_recipe("default", ["fuse.rule"])


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "nothing in it"), ("# a note\n", "nothing in it"), ("null", "nothing in it"), ("name: x", "no target"),
     ("train: {}\nsources: []\n", "no target")],
)  # fmt: skip
def test_a_file_that_names_neither_models_nor_text_is_not_the_demo(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=rf"{words}.*logitfuse init"):
        read_recipe(str(file), ["name=other"])
    assert read_recipe(str(file), ["corpus.source=texts"]).corpus.source == "texts"


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name.removesuffix(".yaml")
    assert read_recipe(name, ["fuse.rule=avg_ce", "train.clm_weight=0.5"]).train.clm_weight == 0.5


def test_the_paper_recipe_is_the_papers() -> None:
    recipe = read_recipe("paper")
    models = [recipe.target.model, *(source.model for source in recipe.sources)]
    assert models == ["meta-llama/Llama-2-7b-hf", "openlm-research/open_llama_7b", "mosaicml/mpt-7b"]
    assert (recipe.corpus.source, recipe.capture.k, recipe.train.clm_weight) == ("JeanKaddour/minipile", 10, 0.9)
    training = recipe.train
    assert (training.learning_rate, training.schedule, training.warmup_ratio) == (1e-5, "cosine", 0.008)
    assert (training.betas, training.weight_decay, training.max_grad_norm) == ((0.9, 0.95), 0.1, 1.0)
    assert (training.epochs, training.seed, training.dtype) == (1, 42, "bf16")
    assert (training.sequences_per_step, training.sequence_length) == (128, 2048)
    assert (training.residual, training.weighting) == ("as_given", "sequence")


def test_a_hub_model_without_a_hub_says_what_to_do(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(content | {"sources": [{"model": "nobody/nothing-7b"}]}, LogitfuseError, "nobody/nothing-7b", "its folder")
