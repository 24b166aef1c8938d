"""A quantised file becomes a plain model folder, whole or not at all; on a tiny model, without network."""

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.packaged import conversion, models
from logitfuse.tasks.packaged.conversion import convert_gguf
from logitfuse.tasks.packaged.models import MODELS, fetch_model, licence_notice
from logitfuse.tasks.packaged.pinned import PackageFile

WIDTH, HEADS, TOKENS = 64, 2, 288


def write_tiny_gguf(file: Path, vocabulary: int = TOKENS) -> None:
    """A Llama of one layer with random 8-bit weights, and a byte-level vocabulary that names SmolLM's cut."""
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    letters = [chr(code) for code in range(0x21, 0x7F)]
    tokens = ["<|endoftext|>", "<|im_start|>", *letters, "Ġ", "Ġa"]
    writer.add_token_list(tokens + [f"unused{id}" for id in range(len(tokens), vocabulary)])
    writer.add_token_types([3, 3] + [1] * (vocabulary - 2))
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (TOKENS, WIDTH), "blk.0.ffn_down": (WIDTH, 2 * WIDTH)}
    shapes |= {f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{part}": (2 * WIDTH, WIDTH) for part in ("gate", "up")}
    for name, shape in shapes.items():
        weights = gguf.quantize(random.normal(0, 0.1, shape).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", weights, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only source of packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A GGUF file and the folder it was converted to."""
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_tiny_gguf(file)
    folder = tmp_path_factory.mktemp("converted")
    convert_gguf(file, folder, special={"bos": 0, "eos": 0})
    return file, folder


def test_a_quantised_file_becomes_a_plain_model_with_equal_outputs(tiny: tuple[Path, Path]) -> None:
    file, folder = tiny
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ids_BL = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids_BL).logits, quantised(ids_BL).logits, atol=2e-2, rtol=2e-2)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["architectures"], config["bos_token_id"], config["eos_token_id"]) == (["LlamaForCausalLM"], 0, 0)


def test_a_tied_head_is_saved_once_and_stays_tied(tiny: tuple[Path, Path]) -> None:
    with safe_open(tiny[1] / "model.safetensors", "pt") as saved:
        assert "lm_head.weight" not in saved.keys()  # noqa: SIM118 (a safetensors file is no mapping)
        assert {saved.get_tensor(name).dtype for name in saved.keys()} == {torch.bfloat16}  # noqa: SIM118
    plain: Any = AutoModelForCausalLM.from_pretrained(tiny[1])
    head, embeddings = plain.get_output_embeddings().weight, plain.get_input_embeddings().weight
    assert head.data_ptr() == embeddings.data_ptr()
    assert head.shape == (TOKENS, WIDTH)


def test_a_vocabulary_that_is_not_as_wide_as_the_head_is_refused(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "model.gguf", vocabulary=TOKENS + 1)
    with pytest.raises(ModelRefused, match="289 tokens"):
        convert_gguf(tmp_path / "model.gguf", tmp_path, special={})


@pytest.fixture
def tiny_model(index: Path, tiny: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """A packaged model whose GGUF file comes in two parts."""
    data = tiny[0].read_bytes()
    packages = []
    for part, piece in enumerate((data[:5000], data[5000:])):
        file = index / f"tiny_part{part}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(file, "w") as wheel:
            wheel.writestr(f"tiny_part{part}/data/tiny.gguf.part0{part}", piece)
            wheel.writestr(f"tiny_part{part}/data/TERMS", "be kind")
            info = f"tiny_part{part}-1.0.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{part}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        packages.append(PackageFile(f"tiny-part{part}==1.0", file.name, sha256(file.read_bytes())))
    entry = models.PackagedModel(
        packages=tuple(packages),
        gguf="*/data/*.part0?",
        gguf_sha256=sha256(data),
        licence="none",
        notice="A model of nothing.",
        terms_package=packages[0],
        terms=("*/data/TERMS",),
        special={"bos": 0, "eos": 0},
    )
    monkeypatch.setitem(MODELS, "tiny", entry)
    return "tiny"


def test_a_model_is_put_together_converted_and_recorded(tiny_model: str, tmp_path: Path) -> None:
    folder = fetch_model(tiny_model, tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
        + ["TERMS", "logitfuse.json"]
    )
    record = json.loads((folder / "logitfuse.json").read_text())
    assert [package["requirement"] for package in record["packages"]] == ["tiny-part0==1.0", "tiny-part1==1.0"]
    assert record["vocabulary"] == TOKENS
    assert licence_notice(tiny_model, tmp_path / "cache").endswith(str(folder / "TERMS"))
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert fetch_model(tiny_model, tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_parts_in_the_wrong_order_are_refused(tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = MODELS[tiny_model]
    swapped = replace(entry, packages=entry.packages[::-1])
    monkeypatch.setitem(MODELS, tiny_model, swapped)
    with pytest.raises(ModelRefused, match=entry.gguf_sha256):
        fetch_model(tiny_model, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").glob("[!.]*"))


def test_an_interrupted_conversion_leaves_no_folder(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*ignored: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "save_tokenizer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_model(tiny_model, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "models").iterdir()] == [".lock"]
    assert (fetch_model(tiny_model, tmp_path / "cache") / "config.json").exists()
