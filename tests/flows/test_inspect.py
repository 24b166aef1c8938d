"""`logitfuse inspect` as a user meets it: what is printed, written and refused."""

import json
from pathlib import Path

import pytest
import yaml
from command_line import answer, check_answer, refused
from done_runs import done_run
from inspected_runs import LONG, TO_FUSE, recipe_content
from rich.console import Console
from rich.table import Table

from logitfuse.flows.inspect_source_text import aligned_table, own_table


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("looked")
    content = recipe_content(root)
    rows = [json.loads(line) for line in (root / "corpus.jsonl").read_text().splitlines()]
    rows[1]["text"] += " ring\x07 red\x1b[31m over\u202eride [bold]not markup[/bold]"
    (root / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done_run(content, TO_FUSE)
    (root / "my.yaml").write_text(yaml.safe_dump(content))
    return str(root / "my.yaml")


def test_a_document_is_shown_and_one_token_of_it_explained(recipe: str) -> None:
    found = answer("inspect", recipe, "--doc", LONG, "--no-models")
    check_answer(found)
    assert found.code == 0
    for words in (f"{LONG} · ", "⟦", "The true token: ", "What is taught", "fused target", "before", "3 chunks"):
        assert words in found.said
    for words in (
        "counts most: weighted mixes by softmax(-score / 0.1)",
        "Nats per byte: ",
        "second",
        "its token",
        "Added up",
    ):
        assert words in found.said
    assert "token 70 of" in answer("inspect", recipe, "--doc", LONG, "--at", "70", "--no-models").said


def test_a_row_holds_a_token_and_what_becomes_of_that_one_alone() -> None:
    """Here the target's tokens come in another order than the source's own: side by side they would mislead."""
    small, large = ({"id": n, "text": text, "p": p} for n, text, p in ((1, "small", 0.2), (2, "large", 0.6)))
    how = {"how": "learned", "distance": None, "others": 0}
    own = [{"text": "Ga", "p": 0.5, "becomes": [large | {"p": 0.3}, small], **how},
           {"text": "Bu", "p": 0.3, "becomes": [large | {"p": 0.3}], **how},
           {"text": "Zo", "p": 0.1, "becomes": [], **how | {"how": "unmapped"}}]  # fmt: skip
    lines = shown(own_table({"kept": own, "more": 2}))
    assert [line.split() for line in lines[1:]] == [
        ["Ga", "50.0%", "→", "large", "30.0%,", "small", "20.0%", "learned", "from", "text"],
        ["Bu", "30.0%", "→", "large", "30.0%", "learned", "from", "text"],
        ["Zo", "10.0%", "nothing", "not", "mapped"],
        ["and", "2", "more"],
    ]
    lines = shown(aligned_table({"kept": [large, small], "more": 0}, gold=1))
    assert [line.split() for line in lines[1:]] == [["large", "60.0%"], ["small", "✓", "20.0%"]]


def shown(table: Table) -> list[str]:
    """Return a table's lines as they are printed."""
    printed = Console(width=80)
    with printed.capture() as found:
        printed.print(table)
    return found.get().rstrip().splitlines()


def test_what_a_text_holds_cannot_command_the_terminal(recipe: str) -> None:
    found = answer("inspect", recipe, "--search", "RING\x07", "--no-models")
    check_answer(found)
    assert found.code == 0 and "doc-1 " in found.out
    assert not {"\x07", "\x1b", "\u202e"} & set(found.out + found.err)
    for words in ("\\x07", "\\x1b[31m", "<E2><80><AE>", "[bold]not markup[/bold]"):
        assert words in " ".join(found.out.split())  # lines are broken between words


def test_json_is_one_value_and_the_page_is_whole(recipe: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = answer("inspect", recipe, "--worst", "2", "--no-models", "--json", "--html", str(page))
    check_answer(found)
    documents = json.loads(found.out)
    assert len(documents) == 2 and all(len(one["positions"]) == 1 for one in documents)
    harm = [one["positions"][0]["fused"]["nats"] - one["positions"][0]["before"]["nats"] for one in documents]
    assert harm == sorted(harm, reverse=True) and f"harm {harm[0]:+.2f} nats" == documents[0]["note"]
    text = page.read_text()
    assert text.startswith("<!doctype html>") and "Content-Security-Policy" in text and "//" not in bare(text)


def bare(page: str) -> str:
    """Return a page without its script, whose comments begin so."""
    return page[: page.rindex("<script>")]


def test_the_trained_student_is_asked_where_there_is_none(recipe: str) -> None:
    found = answer("inspect", recipe)
    check_answer(found)
    assert found.code == 0 and "Nothing is trained yet" in found.said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--doc", "doc-99"], ["no document", "Ids look like"]),
        (["--doc", "doc-1", "--search", "fox"], ["Give one of them"]),
        (["--worst", "3", "--at", "1"], ["--at"]),
        (["--search", "no such text at all"], ["holds this text"]),
        (["--doc", "doc-1", "--at", "9999"], ["has", "tokens, counted from 0"]),
        (["--shards", "70-80"], ["none of these is fused"]),
        (
            ["--set", "map.strategy=exact"],
            ["nothing is fused yet", "my.yaml --set map.strategy=exact --stop-after fuse"],
        ),
        (["--html", "/nowhere/page.html", "--no-models"], ["cannot be written"]),
    ],
)
def test_mistakes_are_answered_in_plain_words(recipe: str, arguments: list[str], words: list[str]) -> None:
    said = refused("inspect", recipe, *arguments)
    assert all(word in said for word in words), said


def test_where_nothing_is_prepared_it_says_what_to_run(recipe: str, tmp_path: Path) -> None:
    said = refused("inspect", recipe, "--set", f"execution.folder={tmp_path}")
    assert f"Run: logitfuse run {recipe} --set execution.folder={tmp_path} --stop-after fuse" in said, said


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert "report.json" in refused("inspect", str(tmp_path))
