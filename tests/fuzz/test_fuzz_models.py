"""Model folders from anybody: tokenizer.json, config.json and weights are used or refused; no code in them is run."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import answer, check_answer
from hypothesis import given
from hypothesis import strategies as st
from mutations import damaged, distorted, fuzzing

FILES = ("tokenizer.json", "config.json", "tokenizer_config.json", "generation_config.json")


@contextmanager
def copied(home: Any) -> Iterator[Path]:
    """A copy of the source model, for one example."""
    folder = home.root / "scratch" / "model"
    shutil.rmtree(folder, ignore_errors=True)
    yield Path(shutil.copytree(home.root / "b", folder))
    shutil.rmtree(folder)


def told(home: Any, folder: Path, stop: str = "encode") -> str:
    """Run the first stages with this source; return what is said, after the exit code."""
    chosen = f"sources=[{{model: {folder}, dtype: float32}}]"
    found = answer("run", str(home.recipe), "--plain", "--stop-after", stop, "--set", "name=m", "--set", chosen)
    shutil.rmtree(home.root / "runs" / "m", ignore_errors=True)
    check_answer(found)
    return f"{found.code} {found.said}"


def edited(file: Path, *path: Any, value: Any) -> None:
    tree = json.loads(file.read_text())
    place = tree
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    file.write_text(json.dumps(tree))


@fuzzing(5)
@given(st.data())
def test_distorted_files(home: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    with copied(home) as folder:
        file = folder / name
        file.write_text(json.dumps(data.draw(distorted(json.loads(file.read_text())))))
        told(home, folder)


@fuzzing(3)
@given(st.data())
def test_damaged_files(home: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*FILES, "model.safetensors"]))
    with copied(home) as folder:
        (folder / name).write_bytes(data.draw(damaged((folder / name).read_bytes())))
        told(home, folder, "check" if name == "model.safetensors" else "encode")


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("text", ["", "[]", "1", "null", "{}", "[" * 100_000, '{"a":' * 50_000, "1" * 5000, "\ud800"])
def test_what_is_no_object(home: Any, name: str, text: str) -> None:
    with copied(home) as folder:
        (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
        assert told(home, folder)[0] in ("2" if text != "{}" else "02")


def rule(kind: str, **options: Any) -> dict[str, Any]:
    return {"type": kind, **options}


TOKEN = {"content": "x", "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
TOKENIZERS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "ids far apart": (("added_tokens",), [{"id": 4_000_000_000, **TOKEN}], "token id 4,000,000,000"),
    "growing": (("normalizer",), rule("Replace", pattern={"Regex": "."}, content="y" * 100_000), "times as long"),
    "growing in steps": (
        ("normalizer",),
        rule("Sequence", normalizers=[rule("Replace", pattern={"String": "a"}, content="aa")] * 40),
        "times as long",
    ),
    "prepending": (("normalizer",), rule("Prepend", prepend="x" * 10**6), "times as long"),
    "empty pattern": (("normalizer",), rule("Replace", pattern={"String": ""}, content="x"), "PanicException"),
    "no regex": (
        ("pre_tokenizer",),
        rule("Split", pattern={"Regex": "("}, behavior="Isolated", invert=False),
        "Oniguruma",
    ),
    "backtracking": (
        ("pre_tokenizer",),
        rule("Sequence", pretokenizers=[
            rule("Split", pattern={"Regex": "([a-z ]+)+$(?!.)x"}, behavior="Isolated", invert=False),
            rule("ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]),
        "retry-limit",
    ),
    "charsmap": (("normalizer",), rule("Precompiled", precompiled_charsmap="AAAA"), "PanicException"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "value", "word"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_tokenizers_that_take_all_time_or_memory(home: Any, path: tuple[Any, ...], value: Any, word: str) -> None:
    with copied(home) as folder:
        edited(folder / "tokenizer.json", *path, value=value)
        said = told(home, folder)
        assert said[0] == "2" and word.lower() in said.lower(), said


CODE = {
    "AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.Tokens", "evil.Tokens"],
}  # fmt: skip


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_model_folder_is_never_run(home: Any, known: bool) -> None:
    with copied(home) as folder:
        (folder / "evil.py").write_text("open('owned', 'w')\nclass Model: pass\nTokens = Config = Model\n")
        for name in ("config.json", "tokenizer_config.json"):
            edited(folder / name, "auto_map", value=CODE)
        if not known:
            edited(folder / "config.json", "model_type", value="evil")
            edited(folder / "tokenizer_config.json", "tokenizer_class", value="Tokens")
        assert told(home, folder, "check")[0] in ("02" if known else "2")
        assert not Path("owned").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_code_from_a_hub_of_kernels_is_never_fetched(home: Any, key: str) -> None:
    with copied(home) as folder:
        edited(folder / "config.json", key, value="somebody/kernel")
        said = told(home, folder)
    assert said[0] == "2" and "asks for code" in said


def test_weights_that_can_run_code_are_refused(home: Any) -> None:
    with copied(home) as folder:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        said = told(home, folder)
        assert said[0] == "2" and "save_pretrained(folder)" in said
        shutil.copyfile(home.root / "b" / "model.safetensors", folder / "other.safetensors")
        assert told(home, folder, "check")[0] == "2"  # what the library would now open is the .bin


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/etc/passwd", "pytorch_model.bin", ""])
def test_an_index_names_files_of_its_folder_only(home: Any, name: str) -> None:
    with copied(home) as folder:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        said = told(home, folder)
    assert said[0] == "2" and "no *.safetensors file of the folder" in said


@pytest.mark.parametrize(("key", "value", "word"), [
    ("num_hidden_layers", 3, "lack model.layers.1"), ("hidden_size", 24, "cannot be loaded"),
    ("hidden_act", "evil", "evil"), ("dtype", "os", ""),
    ("quantization_config", {"quant_method": "gptq", "bits": 4}, "cannot be loaded"),
])  # fmt: skip
def test_a_configuration_of_another_model(home: Any, key: str, value: Any, word: str) -> None:
    with copied(home) as folder:
        edited(folder / "config.json", key, value=value)
        said = told(home, folder, "check")
    assert said[0] == "2" and word in said, said


def test_an_adapter_is_not_taken_for_a_model(home: Any) -> None:
    with copied(home) as folder:
        (folder / "adapter_config.json").write_text(
            '{"base_model_name_or_path": "somebody/model", "peft_type": "LORA"}'
        )
        said = told(home, folder)
    assert said[0] == "2" and "merge_and_unload" in said
