"""Tokenizers of large models without their weights, the paper's own pair among them (Llama-2, MPT)."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from logitfuse.storage.errors import ModelRefused
from logitfuse.storage.paths import cache_folder
from logitfuse.tasks.packaged.fetch import fetch_wheel_files
from logitfuse.tasks.packaged.once import make_folder_once, require_known
from logitfuse.tasks.packaged.pinned import PackageFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Parts of folder names: raise one whenever the content of its folders changes.
CONVERSION = 2  # tokenizers
UNPACKED = 1  # the vocabulary files they are made from
CASE_BORDER = "\n__ggml_vocab_test__\n"

LLAMA_CPP = PackageFile(
    "llama-cpp-python==0.3.36",
    "llama_cpp_python-0.3.36.tar.gz",
    "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    backend="scikit_build_core.build",
)


@dataclass(frozen=True)
class PackagedTokenizer:
    """Which vocabulary file, whose reference encodings, and what the file leaves out or gets wrong."""

    vocabulary: str
    cases: str
    cut: str | None = None
    special: dict[str, int] = field(default_factory=dict)
    starts_with_bos: bool = False


TOKENIZERS: dict[str, PackagedTokenizer] = {
    "llama-2": PackagedTokenizer("llama-spm", "llama-spm"),
    "mpt": PackagedTokenizer("mpt", "mpt"),
    # No cases are shipped for it: its vocabulary is MPT's, which took it over.
    "gpt-neox": PackagedTokenizer("gpt-neox", "mpt", cut="gpt-neox"),
    "gpt-2": PackagedTokenizer("gpt-2", "gpt-2", special={"unk": 50256}),
    "llama-3": PackagedTokenizer("llama-bpe", "llama-bpe", starts_with_bos=True),
    "qwen2": PackagedTokenizer("qwen2", "qwen2"),
}


def tokenizer_folder(name: str, cache: Path | None = None) -> Path:
    """Return a folder that `AutoTokenizer.from_pretrained` loads, made and checked on the first call.

    The first call of any name downloads 77 MB and keeps the 19 MB that hold vocabularies. Raises BadInput for an
    unknown name, ModelRefused where a tokenizer does not reproduce the encodings that ship with its vocabulary.
    """
    require_known("tokenizer", name, TOKENIZERS)
    folder = (cache or cache_folder()) / "tokenizers" / f"{name}-{CONVERSION}"
    return make_folder_once(folder, lambda scratch: _make(name, scratch, cache))


def reference_cases(name: str, cache: Path | None = None) -> list[tuple[str, list[int]]]:
    """Return the texts that ship with a vocabulary and the ids its model's own tokenizer gives (no special tokens)."""
    require_known("tokenizer", name, TOKENIZERS)
    stem = vocabulary_file(TOKENIZERS[name].cases, cache)
    # Bytes, because reading as text would turn a carriage return into a newline.
    texts = stem.with_name(f"{stem.name}.inp").read_bytes().decode().split(CASE_BORDER)
    lines = stem.with_name(f"{stem.name}.out").read_text().split("\n")
    return [(text, [int(id) for id in line.split()]) for text, line in zip(texts, lines, strict=True)]


def vocabulary_file(vocabulary: str, cache: Path | None = None) -> Path:
    """Return the path of a vocabulary-only GGUF file, such as `llama-spm`; its reference cases lie beside it."""
    folder = (cache or cache_folder()) / "tokenizers" / f"vocabularies-{UNPACKED}"
    return make_folder_once(folder, lambda scratch: _unpack(scratch, cache)) / f"ggml-vocab-{vocabulary}.gguf"


def _unpack(folder: Path, cache: Path | None) -> None:
    stems = dict.fromkeys(entry.vocabulary for entry in TOKENIZERS.values())
    wanted = [f"*/vendor/llama.cpp/models/ggml-vocab-{stem}.gguf*" for stem in stems]
    fetch_wheel_files(LLAMA_CPP, [*wanted, "*/vendor/llama.cpp/LICENSE"], folder, cache=cache, keep=False)


def _make(name: str, folder: Path, cache: Path | None) -> None:
    from logitfuse.tasks.packaged.vocabularies import read_vocabulary, save_tokenizer

    entry = TOKENIZERS[name]
    found = read_vocabulary(vocabulary_file(entry.vocabulary, cache))
    vocabulary = replace(
        found,
        cut=entry.cut or found.cut,
        special=found.special | entry.special,
        starts_with_bos=entry.starts_with_bos or found.starts_with_bos,
    )
    tokenizer = save_tokenizer(vocabulary, folder)
    _check(name, tokenizer, cache)
    record = {"name": name, "conversion": CONVERSION, "package": LLAMA_CPP.requirement, "sha256": LLAMA_CPP.sha256,
              "vocabulary": entry.vocabulary, "packaging_licence": "MIT"}  # fmt: skip
    (folder / "logitfuse.json").write_text(json.dumps(record, indent=2) + "\n")


def _check(name: str, tokenizer: "Tokenizer", cache: Path | None) -> None:
    for text, expected in reference_cases(name, cache):
        found = tokenizer.encode(text, add_special_tokens=False).ids
        if found != expected:
            raise ModelRefused(
                f"tokenizer '{name}' encodes {text!r} as {found}, its model's own as {expected}. The installed "
                f"version of `tokenizers` behaves differently from the ones this was made for."
            )
