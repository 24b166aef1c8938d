"""The alignment report: its numbers against numbers counted by hand, its page, and its command's answers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile.builders import built
from typer.testing import CliRunner

from logitfuse.flows.alignment_report import show
from logitfuse.flows.cli import app
from logitfuse.kernels.alignment import read_side
from logitfuse.kernels.vocabulary_map import How, VocabularyView, one_to_one
from logitfuse.storage.errors import BadInput, LogitfuseError, ModelRefused
from logitfuse.tasks.alignment_report import maps
from logitfuse.tasks.alignment_report.facts import PAPER, Method, gather
from logitfuse.tasks.alignment_report.mapped import mean_distance, next_token_weights, shares_by_how, shown, tie_share
from logitfuse.tasks.alignment_report.multiscript import TEXTS
from logitfuse.tasks.alignment_report.page import page
from logitfuse.tasks.alignment_report.sample import BUILT_IN, Sample, read_sample
from logitfuse.tasks.alignment_report.scripts import Script, script_of, token_scripts
from logitfuse.tasks.alignment_report.served import reading_shares
from logitfuse.tasks.alignment_report.tokenizers import NamedTokenizer, read_tokenizer
from logitfuse.tasks.alignment_report.wording import notes_on_maps, notes_on_reading, percent, short_name
from logitfuse.tasks.vocabulary_map import MapSettings

DEFAULT = Method("offsets", "first_piece")


def named(name: str) -> NamedTokenizer:
    return NamedTokenizer(name, built(name).tokenizer, built(name).vocabulary)


def folder_of(name: str, path: Path) -> str:
    built(name).tokenizer.save_pretrained(path / name)
    return str(path / name)


def facts_of(source: str, target: str, methods: tuple[Method, ...] = (DEFAULT, PAPER)) -> dict[str, Any]:
    return gather(named(source), named(target), read_sample((), 10_000), methods)


def test_characters_have_scripts() -> None:
    wanted = {"e": Script.LATIN, "É": Script.LATIN, "7": Script.DIGITS, "٣": Script.DIGITS, "日": Script.CJK,
              "각": Script.CJK, "。": Script.CJK, "я": Script.LETTERS, "ש": Script.LETTERS, "{": Script.MARKS,
              "=": Script.MARKS, "…": Script.MARKS, "😀": Script.SYMBOLS, "€": Script.SYMBOLS,
              "\n": Script.SPACE}  # fmt: skip
    assert {character: script_of(character) for character in wanted} == wanted


def test_a_token_is_written_as_its_first_character() -> None:
    found = token_scripts("the \n\n日1=", np.array([3, 6, 7, 9, 10, 11], np.int32))
    assert found.tolist() == [Script.LATIN, Script.SPACE, Script.CJK, Script.CJK, Script.DIGITS, Script.MARKS]
    assert token_scripts("", np.zeros(0, np.int32)).tolist() == []
    assert token_scripts("a 1", np.array([-1, -1, 3], np.int32)).tolist()[0] == Script.LATIN


def test_numbers_counted_by_hand() -> None:
    ours, theirs = named("byte-level"), named("llama")
    sample = Sample("by hand", (("one", "the"), ("two", "日 cat")), 2, 10, False)
    facts = gather(ours, theirs, sample, [DEFAULT])
    of = {side: built(name) for side, name in (("source", "byte-level"), ("target", "llama"))}
    pieces = {
        side: [[of[side].vocabulary.texts[i] for i in of[side].tokenizer(t, add_special_tokens=False).input_ids]
               for _, t in sample.chunks]
        for side in of
    }  # fmt: skip
    served = positions = 0
    for chunk, (_, text) in enumerate(sample.chunks):
        ends = {side: np.cumsum([len(piece or b"") for piece in pieces[side][chunk]]) for side in pieces}
        ends["target"] -= ends["target"][-1] - len(text.encode())  # the dummy prefix is not text
        inner = ends["target"][:-1]
        positions += len(inner)
        served += sum(int(end in ends["source"]) for i, end in enumerate(inner) if end not in inner[i + 1 :])
    assert facts["methods"][0]["positions"] == positions
    assert facts["methods"][0]["served"] == pytest.approx(served / positions)
    assert facts["source"]["bytes_per_token"] == pytest.approx(10 / sum(map(len, pieces["source"])))
    assert {row["name"] for row in facts["methods"][0]["by_domain"]} <= {"one", "two"}


@pytest.mark.parametrize(("source", "target"), [("byte-level", "llama"), ("wordpiece", "byte-level, bare")])
def test_parts_add_up(source: str, target: str) -> None:
    facts = facts_of(source, target)
    for method in facts["methods"]:
        for part in ("by_domain", "by_script"):
            assert sum(row["positions"] for row in method[part]) == method["positions"]
            served = sum(row["positions"] * row["served"] for row in method[part])
            assert served == pytest.approx(method["served"] * method["positions"])
    for found in facts["maps"].values():
        assert sum(found["vocabulary"].values()) == pytest.approx(1)
        assert sum(found["text"].values()) == pytest.approx(1)
        counts = [row["count"] for row in found["worst"]]
        assert counts == sorted(counts, reverse=True) and all(
            row["how"] not in ("exact", "byte") for row in found["worst"]
        )
    assert json.loads(json.dumps(facts)) == facts


def test_segments_of_one_tokenizer_are_one_to_one() -> None:
    facts = facts_of("byte-level", "byte-level", (DEFAULT,))
    assert facts["same_tokenizer"] and facts["methods"][0]["served"] == 1
    assert facts["methods"][0]["next_token_agrees"] == 1
    counts = facts["segments"]
    assert counts["1-1"] == facts["source"]["tokens"] and sum(counts.values()) == counts["1-1"]


def test_what_a_serving_position_had_read() -> None:
    """One chunk of four target positions, served by positions that read the same, further, less, and nobody knows."""
    ids, marks = np.zeros(5, np.int32), np.zeros(1, bool)
    source = read_side(ids, np.array([2, 4, 6, -1, 9], np.int32), np.array([0, 5]), marks, start=False, end=None)
    target = read_side(ids, np.array([2, 4, 6, 7, 9], np.int32), np.array([0, 5]), marks, start=False, end=None)
    assert reading_shares(np.array([0, 2, 1, 3]), source, target) == {
        "read_further": 0.25, "read_less": 0.25, "read_unknown": 0.25,
    }  # fmt: skip
    assert set(reading_shares(np.full(4, -1), source, target).values()) == {0.0}
    assert reading_shares(np.array([-1, 2, -1, -1]), source, target)["read_further"] == 1


@pytest.mark.parametrize(("source", "target"), [("byte-level", "llama"), ("wordpiece", "byte-level, bare")])
def test_offsets_never_read_further_and_dtw_is_said_to(source: str, target: str) -> None:
    facts = facts_of(source, target)
    ours, paper = facts["methods"]
    assert ours["read_further"] == ours["read_less"] == ours["read_unknown"] == 0
    paper["read_further"] = 0.011
    (note,) = notes_on_reading(facts)
    assert note.startswith("dtw teaches from the future at 1.1%") and note in page(facts)


def test_the_papers_map_is_counted_beside_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = facts_of("byte-level", "llama", (DEFAULT,))
    assert list(facts["maps"]) == ["first_piece", "mined"] and facts["not_counted"] == []
    assert len(facts["methods"]) == 1 and facts["maps"]["mined"]["vocabulary"]["distance"] > 0
    assert any("default map is learned" in note for note in notes_on_maps(facts))
    monkeypatch.setattr(maps, "MANY_COMPARISONS", 0)
    short = facts_of("byte-level", "llama", (DEFAULT,))
    assert list(short["maps"]) == ["first_piece"] and short["not_counted"] == ["mined"]
    (note,) = [note for note in notes_on_maps(short) if "mined" in note]
    assert "--compare" in note and note in page(short)
    assert list(facts_of("byte-level", "llama")["maps"]) == ["first_piece", "mined"]  # asked for: however long
    assert list(facts_of("byte-level", "byte-level", (DEFAULT,))["maps"]) == ["first_piece"]
    assert MapSettings().strategy == "learned"  # as the note says


def test_files_are_tried_before_anything_is_computed(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text("kept")
    arguments = ["alignment", "./nowhere", "./nowhere", "--json-file", str(kept), "--html", str(tmp_path / "new.html")]
    assert "no such folder" in str(CliRunner().invoke(app, arguments).exception)
    assert kept.read_text() == "kept" and list(tmp_path.iterdir()) == [kept]
    for file in (tmp_path, tmp_path / "none" / "a.html", kept / "a.html"):
        answer = CliRunner().invoke(app, [*arguments[:3], "--html", str(file)])
        assert isinstance(answer.exception, BadInput) and "cannot be written" in str(answer.exception)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.foo", "hi", "its ending tells no format"),
        ("a.jsonl", '{"body": "x"}\n', "there is no column 'text'; there are: 'body'"),
        ("b.jsonl", '{"text": 3}\n', "the text column 'text' holds"),
        ("c.jsonl", "{\n", "no valid JSON"),
        ("missing.txt", None, "there is no file or folder"),
    ],
)
def test_text_that_cannot_be_read_is_told_of_in_the_commands_own_terms(
    tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInput) as raised:
        read_sample([str(tmp_path / name)], 100)
    said = str(raised.value)
    assert words in said and said.startswith(f"--text {tmp_path / name}: ")
    assert not re.search(r"\b[Ss]et (format|source|text_column)|Check source|text_column", said)


@pytest.mark.parametrize("text", ["x", "\n", "日", "a b"])
def test_very_little_text_is_enough(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    facts = gather(named("byte-level"), named("llama"), read_sample([str(tmp_path / "a.txt")], 100), [DEFAULT, PAPER])
    assert facts["text"]["bytes"] == len(text.encode()) and page(facts)
    show(facts)


@pytest.mark.parametrize(
    ("content", "words"),
    [("{}", "has no 'added_tokens' and no 'model'"), ("[]", "no tokenizer"), ("{", "read as JSON")],
)
def test_a_tokenizer_file_that_is_none(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelRefused, match=words):
        read_tokenizer(str(tmp_path))


def test_distances_and_ties() -> None:
    source = VocabularyView([b"abx", b"qq", b"the"])
    target = VocabularyView([b"ab", b"aby", b"the", b"q", b"ab"])
    how = np.array([How.DISTANCE, How.DISTANCE, How.EXACT], np.int8)
    found = one_to_one(np.array([0, 3, 2], np.int32), how, np.array([1, 1, 0], np.int32))
    assert mean_distance(found, np.ones(3, np.int64)) == 1
    assert mean_distance(found, np.array([0, 0, 1])) is None
    assert tie_share(found, source, target) == 0.5  # abx is as near to ab as to aby; that ab is there twice is no tie
    assert shares_by_how(found, np.array([2, 1, 1]))["distance"] == 0.75
    weights = next_token_weights(found, np.array([0, 1, 2, 2]), np.array([0, 0, 2, 99]))
    assert weights.tolist() == [1, 0, 1, 0]


def test_pieces_can_be_told_apart() -> None:
    vocabulary = built("byte-level").vocabulary
    pieces = {shown(vocabulary, token) for token in range(vocabulary.size)}
    assert len(pieces) == vocabulary.size and "␣the" in pieces and "<E6>" in pieces and "\\n" in pieces


def test_text_comes_from_where_it_is_said_to(tmp_path: Path) -> None:
    assert read_sample((), 10_000).name == BUILT_IN and read_sample((), 10_000).documents == len(TEXTS)
    (tmp_path / "a.txt").write_text("x" * 100_000)
    (tmp_path / "b.jsonl").write_text('{"text": "one", "domain": "d"}\n{"text": "two", "domain": "e"}\n')
    files = [str(tmp_path / "b.jsonl"), str(tmp_path / "a.txt")]
    whole = read_sample(files, 10**9)
    assert whole.documents == 3 and whole.bytes == 100_006 and not whole.cut_short
    assert [domain for domain, _ in whole.chunks][:3] == ["d", "e", files[1]]
    short = read_sample(files, 20_000)
    assert short.cut_short and 20_000 <= short.bytes < 30_000
    (tmp_path / "c.txt").write_text("")
    with pytest.raises(BadInput, match="no text"):
        read_sample([str(tmp_path / "c.txt")], 100)


def test_the_page_is_self_contained_and_escaped() -> None:
    facts = facts_of("byte-level", "llama, added")
    facts["text"]["name"] = "<script>alert(1)</script>"
    html = page(facts)
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert not re.search(r'(src|href)="', html) and "http" not in html and "@import" not in html
    for words in ("dtw + mined", "prefers-color-scheme: dark", "share with a tie"):
        assert words in html


def test_the_command_writes_all_three(tmp_path: Path) -> None:
    source, target = folder_of("byte-level", tmp_path), folder_of("llama", tmp_path)
    arguments = [
        "alignment",
        source,
        target,
        "--compare",
        "--json-file",
        str(tmp_path / "a.json"),
        "--html",
        str(tmp_path / "a.html"),
    ]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    assert BUILT_IN in answer.output.replace("\n", " ") and "dtw + mined" in answer.output
    facts = json.loads((tmp_path / "a.json").read_text())
    assert [method["map"] for method in facts["methods"]] == ["first_piece", "mined"]
    assert percent(facts["methods"][0]["served"]) in answer.output
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("package:gpt2", [], "Did you mean 'gpt-2'"),
        ("mpt", [], "Did you mean package:mpt"),
        ("./nowhere", [], "no such folder"),
        ("{folder}", ["--text", "nowhere.txt"], "no file or folder nowhere.txt"),
        ("{folder}", ["--map", "mind"], "Did you mean 'mined'"),
        ("{folder}", ["--alignment", "offset"], "Did you mean 'offsets'"),
        ("{folder}", ["--html", "nowhere/a.html"], "cannot be written"),
    ],
)
def test_mistakes_are_answered_in_plain_words(tmp_path: Path, source: str, options: list[str], words: str) -> None:
    """The entry point prints these and ends with exit code 2."""
    folder = folder_of("byte-level", tmp_path)
    answer = CliRunner().invoke(app, ["alignment", source.format(folder=folder), folder, *options])
    assert isinstance(answer.exception, LogitfuseError) and words in str(answer.exception)


def test_names_for_headings() -> None:
    assert [short_name(name) for name in ("package:mpt", "a/b-7b", "/x/y/")] == ["mpt", "b-7b", "y"]
    assert [percent(share) for share in (None, 0, 1, 0.0001, 0.99999, 0.5)] == [
        "–",
        "0%",
        "100%",
        "<0.1%",
        ">99.9%",
        "50.0%",
    ]


@pytest.mark.slow
@pytest.mark.models
def test_the_papers_own_pair() -> None:
    sides = [read_tokenizer(f"package:{name}") for name in ("mpt", "llama-2")]
    facts = gather(*sides, read_sample((), 10_000), [DEFAULT, PAPER])
    ours, paper = facts["methods"]
    assert 0.7 < ours["served"] < 0.9 and paper["served"] < ours["served"]
    assert ours["read_further"] == ours["read_less"] == 0 and paper["read_further"] > 0.01
    assert facts["maps"]["mined"]["ties"] > 0.6 and 1 < facts["maps"]["mined"]["mean_distance"] < 3
