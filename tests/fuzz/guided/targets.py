"""Readers of what users and strangers write: recipes, studies, results, corpora and model folders; see `Target`."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.json
import pyarrow.parquet as pq
from place import Place, Target
from run_targets import RUN_TARGETS

WORDS = b"\0train.max_steps=3\0sources.0.model=x\0fuse.options.temperature=2\0name=a"


def recipe(place: Place, data: bytes) -> None:
    """A recipe, and after each NUL a word of `--set`, which may hold any byte but that one."""
    from logitfuse.tasks.recipe import read_recipe

    text, *words = data.split(b"\0")
    read_recipe(str(place.file("recipe.yaml", text)), [os.fsdecode(word) for word in words])


def _recipes(place: Place) -> list[bytes]:
    folder = Path(__file__).parents[3] / "recipes"
    return [path.read_bytes() + WORDS for path in (place.recipe, *sorted(folder.glob("*.yaml")))]


def study(place: Place, data: bytes) -> None:
    """A study, and after each NUL a word of `--set`, as far as the recipes of its jobs."""
    from logitfuse.tasks.study.plan import plan
    from logitfuse.tasks.study.reading import read_study

    text, *words = data.split(b"\0")
    plan(*read_study(str(place.file("study.yaml", text)), [os.fsdecode(word) for word in words]), scale=0.3)


def _studies(place: Place) -> list[bytes]:
    folder = Path(__file__).parents[3] / "recipes" / "studies"
    return [path.read_bytes() for path in sorted(folder.glob("*.yaml"))]


def form(place: Place, data: bytes) -> None:
    """A recipe as Prefect's form or its API gives it."""
    from logitfuse.flows.form import checked_recipe

    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return  # the server's own affair
    checked_recipe(given)


def _forms(place: Place) -> list[bytes]:
    wrapped = {"fuse": {"options": {"__prefect_kind": "json", "value": '{"temperature": 2}'}}, "name": "tiny"}
    return [json.dumps(wrapped).encode(), *place.contents("report.json")]


def results(place: Place, data: bytes) -> None:
    """A file of results, as far as the page."""
    from logitfuse.tasks.study.page import write_page

    write_page(place.file("results.json", data), place.scratch / "results.md")


def _results(place: Place) -> list[bytes]:
    """The results of this project's own studies, cut short; one study with and one without a locked test."""
    content = json.loads((Path(__file__).parents[3] / "docs" / "results.json").read_bytes())
    return [json.dumps(content | {"studies": {name: _short(content["studies"][name])}}).encode()
            for name in ("main", "domains")]  # fmt: skip


def _short(value: Any) -> Any:
    """Keep the first two of every list."""
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value[:2]] if isinstance(value, list) else value


def corpus(ending: str) -> Callable[[Place, bytes], None]:
    """A corpus of one file, with the settings that look at most of it; then the sample that a plan takes."""

    def read(place: Place, data: bytes) -> None:
        from logitfuse.storage.errors import LogitfuseError
        from logitfuse.tasks.corpus.readers import check_corpus, corpus_parts, located, read_documents
        from logitfuse.tasks.corpus.settings import CorpusSettings
        from logitfuse.tasks.plan.blocks import sampled

        file = place.file(f"corpus{ending}", data)
        ways: list[dict[str, Any]] = [{}, {"on_bad_document": "quarantine"}, {"id_column": "id", "domain_column": "d"}]
        for way in ways:
            settings = CorpusSettings.model_validate(
                {"source": str(file), "held_out_share": 0.2, "test_share": 0.1} | way
            )
            for use in (check_corpus, lambda s: list(read_documents(s))):
                try:
                    use(settings)
                except LogitfuseError:
                    continue
        settings = located(CorpusSettings(source=str(file)))
        sampled(corpus_parts(settings), settings, 4096)

    return read


ROWS = [{"id": f"d{n}", "text": f"text number {n} of some words é", "domain": "news", "d": n} for n in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def _tables(place: Place) -> list[bytes]:
    found = []
    table = pyarrow.json.read_json(io.BytesIO(LINES))
    for options in ({}, {"compression": "none", "use_dictionary": False}, {"compression": "zstd", "row_group_size": 3}):
        stream = io.BytesIO()
        pq.write_table(table, stream, **options)
        found.append(stream.getvalue())
    return found


def model(name: str) -> Callable[[Place, bytes], None]:
    """A model folder in which one file is other than it was, as far as its tokenizer's work on a text."""

    def read(place: Place, data: bytes) -> None:
        from logitfuse.tasks.models.reference import ModelSettings
        from logitfuse.tasks.models.source import read_source
        from logitfuse.tasks.models.vocabulary import encode_texts, vocabulary_view

        folder = place.scratch / "model"
        if not folder.exists():
            place.copy(place.root / "b", "model")
        (folder / name).write_bytes(data)
        source = read_source(ModelSettings(model=str(folder)))
        vocabulary_view(source.vocabulary, source.vocabulary.size)
        encode_texts(source.tokenizer, source.vocabulary, ["naïve cats sleep", "", " \n<s>\x00é" * 3])
        source.start_id, source.end_id, source.context  # noqa: B018

    return read


def _of_model(name: str) -> Callable[[Place], list[bytes]]:
    return lambda place: [(place.root / "b" / name).read_bytes()]


def weights(place: Place, data: bytes) -> None:
    """A file of weights: its header, then its tensors by the name of each, as merging and training open it."""
    from logitfuse.tasks.models.weight_files import check_weights

    check_weights(place.file("weights/model.safetensors", data).parent, "m", quantised=False)


def _weights(place: Place) -> list[bytes]:
    header = json.dumps({"a.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {}})
    return [struct.pack("<Q", len(header)) + header.encode() + bytes(8), *_of_model("model.safetensors")(place)]


def archive(place: Place, data: bytes) -> None:
    """A package's archive. Its bytes are pinned, so that it cannot be a stranger's: only where it writes matters."""
    from logitfuse.tasks.packaged.archives import extract_files

    shutil.rmtree(place.scratch / "out", ignore_errors=True)
    try:
        extract_files(place.file("archive", data), ["*"], place.scratch / "out")
    except Exception:
        return


def _archives(place: Place) -> list[bytes]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in ("a.txt", "../../../outside.txt", "/abs/b.txt", "c/d.txt"):
            file.writestr(name, "text")
    return [stream.getvalue()]


TARGETS: dict[str, Target] = {
    "recipe": Target(recipe, _recipes, "yaml"),
    "study": Target(study, _studies, "yaml"),
    "form": Target(form, _forms, "json"),
    "results": Target(results, _results, "json"),
    "corpus-jsonl": Target(corpus(".jsonl"), lambda place: [LINES], "lines"),
    "corpus-gz": Target(corpus(".jsonl.gz"), lambda place: [gzip.compress(LINES)], "gz"),
    "corpus-text": Target(corpus(".txt"), lambda place: [b"A text.\n\nAnd another one.", "é\ufeff".encode()]),
    "corpus-parquet": Target(corpus(".parquet"), _tables, "parquet"),
    "tokenizer": Target(model("tokenizer.json"), _of_model("tokenizer.json"), "json"),
    "tokenizer-config": Target(model("tokenizer_config.json"), _of_model("tokenizer_config.json"), "json"),
    "model-config": Target(model("config.json"), _of_model("config.json"), "json"),
    "weights": Target(weights, _weights),
    "archive": Target(archive, _archives),
    **RUN_TARGETS,
}
