"""The packaged text is real text of several domains, balanced, with its licences, the same each time."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.errors import BadInput
from logitfuse.tasks.corpus.held_out import judged_documents
from logitfuse.tasks.corpus.readers import check_corpus
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.packaged import text as packaged
from logitfuse.tasks.packaged.library_text import library_code, library_docs, reference_text
from logitfuse.tasks.packaged.text import fetch_text, interleave, licence_table, select_documents
from logitfuse.tasks.packaged.text_sources import SOURCES, licences, news, plain_licence, recipes


@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.text("xé", min_size=1), max_size=6)))
def test_interleaving_gives_every_text_once_and_in_order(domains: dict[str, list[str]]) -> None:
    order = list(interleave(domains))
    for domain, texts in domains.items():
        assert [index for name, index in order if name == domain] == list(range(len(texts)))
    assert len(order) == sum(map(len, domains.values()))


def test_any_first_part_is_balanced_by_bytes() -> None:
    domains = {"long": ["x" * 90] * 10, "short": ["x" * 10] * 90}
    given_so_far = Counter[str]()
    for domain, index in interleave(domains):
        given_so_far[domain] += len(domains[domain][index])
        assert abs(given_so_far["long"] - given_so_far["short"]) <= 90


def test_documents_of_a_fair_size_are_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "DOMAIN_BYTES", 25_000)
    paragraphs = "\n\n".join(["A line of text.\r\n" * 100] * 20)
    named = [("short", "x" * 400), *((str(i), paragraphs) for i in range(9))]
    kept = select_documents(iter(named))
    assert kept == select_documents(iter(reversed(named)))
    assert len(kept) == 3 and "short" not in dict(kept)
    assert all(packaged.LONGEST // 2 < len(text) <= packaged.LONGEST for _, text in kept)
    assert all(text.endswith("text.\n") and "\r" not in text for _, text in kept)


def test_reference_pages_give_signatures_and_docstrings() -> None:
    method = '    def f(self, x: int = 1) -> int:\n        """Do.\n\n        More."""\n'
    source = f'"""About it."""\nclass A:\n    "An A."\n{method}'
    assert reference_text("pkg/mod.py", source) == (
        "pkg.mod\n=======\n\nAbout it.\n\nclass pkg.mod.A\n\n    An A.\n\n"
        "pkg.mod.A.f(self, x: int=1)\n\n    Do.\n\n    More.\n"
    )
    assert reference_text("empty.py", "x = 1\n") == ""


@pytest.mark.slow
def test_a_library_module_is_code_or_docs_but_not_both() -> None:
    code, docs = dict(library_code([])), dict(library_docs([]))
    assert len(code) > 150 and len(docs) > 150
    assert not code.keys() & docs.keys()
    assert not any("test" in Path(name).parts for name in code)


def test_licence_templates_become_text() -> None:
    template = "<<beginOptional;name=a>> Copyright <<var;name=y;original=2000 by Me;match=.+>>. <<endOptional>> End"
    assert plain_licence(template) == "Copyright 2000 by Me. End"


def test_recipes_with_leftover_markup_are_left_out(tmp_path: Path) -> None:
    good = {"title": "Tea", "ingredients": ["* 1 cup", "tea&nbsp;leaves"], "steps": ["Boil.", "Steep."]}
    bad = {"title": "Soup", "ingredients": ["water<ref>x</ref>"], "steps": []}
    (tmp_path / "r.json").write_text(json.dumps({"Cookbook:Tea": good, "Cookbook:Soup": bad}))
    expected = "Tea\n\nIngredients\n\n- 1 cup\n- tea\xa0leaves\n\nProcedure\n\n1. Boil.\n2. Steep.\n"
    assert list(recipes([tmp_path / "r.json"])) == [("Tea", expected)]


def test_repeated_and_unreadable_texts_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "news").write_text("one\ntwo\none\n")
    (tmp_path / "L-1.0.txt").write_text("licence")
    (tmp_path / "L-2.0.txt").write_bytes(b"caf\xe9")
    (tmp_path / "deprecated_L.txt").write_text("licence")
    assert list(news([tmp_path / "news"])) == [("000", "one"), ("001", "two")]
    assert list(licences(sorted(tmp_path.glob("*.txt")))) == [("L-1.0", "licence")]


def test_every_source_states_its_terms() -> None:
    table = licence_table()
    assert all(f"| {source.domain} | {source.origin} |" in table and source.licence for source in SOURCES)


def test_an_unknown_text_is_refused() -> None:
    with pytest.raises(BadInput, match="Did you mean 'demo'"):
        fetch_text("dmeo")


@pytest.mark.models
def test_the_demo_text_is_large_balanced_and_described() -> None:
    file = fetch_text()
    assert fetch_text() == file
    rows = [json.loads(line) for line in file.open(encoding="utf-8")]
    size, count = Counter[str](), Counter[str]()
    for row in rows:
        size[row["domain"]] += len(row["text"].encode())
        count[row["domain"]] += 1
    assert len(size) >= 5 and sum(size.values()) >= 4_000_000
    assert min(size.values()) >= 300_000 and min(count.values()) >= 150
    assert len({row["id"] for row in rows}) == len(rows)
    first = Counter[str]()
    for row in rows[:150]:
        first[row["domain"]] += len(row["text"].encode())
    assert min(first[domain] for domain in size) > 0.7 * max(first.values())
    record = json.loads((file.parent / "logitfuse.json").read_text())
    assert record["checksum"] == checksum_file(file)
    assert {domain: entry["documents"] for domain, entry in record["domains"].items()} == count
    assert "CC BY-SA" in (file.parent / "LICENSES.md").read_text()


@pytest.mark.models
def test_the_demo_text_is_a_corpus_with_something_held_out_of_every_domain() -> None:
    settings = CorpusSettings(held_out_share=0.05, max_documents=2000)
    check_corpus(settings)
    judged = list(judged_documents(settings))
    documents = [document for document, verdict in judged if verdict.keep]
    domains = {split: {d.domain for d in documents if d.split == split} for split in ("train", "validation")}
    assert domains["train"] == domains["validation"] == {source.domain for source in SOURCES}
    assert len(documents) > 0.9 * len(judged)
