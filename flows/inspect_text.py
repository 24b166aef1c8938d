"""What `logitfuse inspect` prints: the text in its tokens, and one of them explained."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from logitfuse.flows.inspect_source_text import figure, marked, show_source
from logitfuse.flows.show import console
from logitfuse.tasks.alignment_report.wording import percent

Facts = dict[str, Any]
Colour = Literal["winner", "harm"]
STYLES = ("white", "cyan", "yellow", "magenta", "green", "bright_red")  # by source, again and again
NOBODY = "dim"
HARMS = ((2.0, "red"), (0.5, "yellow"), (-0.5, ""), (-2.0, "green"))  # nats against the student, at least
RANKED = {
    "harm": "Where the fused targets do worst",
    "loss": "Where the fused targets find the text hardest",
    "gain": "Where the fused targets help most",
    "disagreement": "Where the sources disagree most",
}
RANKS = 32  # the store counts no further


def show_document(facts: Facts, colour: Colour) -> None:
    """Print a document's stretch of text with the chosen token, and all that is known of that."""
    about = facts["document"]
    console.print(Text.assemble((about["doc_id"], "bold"), f" · {about['domain']} · {about['split']}", (
        f" · shard {about['shard']}, {_few(about['chunks'], 'chunk')}, {_few(about['tokens'], 'token')}", "dim"
    )))  # fmt: skip
    for line in facts["cautions"]:
        console.print(Text.assemble(("Note: ", "yellow"), line))
    console.print(scores_line(facts))
    if colour == "harm":
        less = ("less likely", "yellow"), ", ", ("much less likely", "red")
        console.print(Text.assemble(("likelier", "green"), " under the targets than to the student, ", *less))
    console.print()
    console.print(text_of(facts, colour))
    console.print()
    if facts["positions"]:
        show_position(facts, facts["positions"][0])


def scores_line(facts: Facts) -> Text:
    """Each source with its colour, its score and how much it counts; lower scores are better."""
    line = Text()
    about = facts["document"]
    for number, label in enumerate(facts["labels"]):
        score, weight = (about[name][number] if about[name] else None for name in ("scores", "weights"))
        line.append("■ ", style=STYLES[number % len(STYLES)])
        line.append(label, style="bold")
        line.append(f" {figure(score)} {facts['score_unit']}, counts {percent(weight)}   ")
    line.append("■ ", style=NOBODY)
    line.append("nobody")
    return line


def text_of(facts: Facts, colour: Colour) -> Text:
    """Return the stretch of text; every second token is underlined, the chosen one stands in brackets."""
    found, begin = Text(), facts["document"]["begin"]
    if begin:
        found.append("… ", style="dim")
    for n, token in enumerate(facts["tokens"]):
        shown = token["text"].replace("\t", "⇥").replace("\n", "⏎\n")
        style = _style(token, colour)
        if begin + n == facts["at"]:
            found.append("⟦", style="bold reverse").append(shown, style=f"{style} bold reverse")
            found.append("⟧", style="bold reverse")
        else:
            found.append(shown, style=f"{style} underline" if n % 2 else style)
    if facts["document"]["end"] < facts["document"]["tokens"]:
        found.append(" …", style="dim")
    return found


def _style(token: Facts, colour: Colour) -> str:
    if token["nats"] is None:
        return NOBODY
    if colour == "winner":
        return NOBODY if token["winner"] < 0 else STYLES[token["winner"] % len(STYLES)]
    before, fused, _ = token["nats"]
    if before is None or fused is None:
        return NOBODY
    return next((style for least, style in HARMS if fused - before >= least), "bright_green")


def show_position(facts: Facts, found: Facts) -> None:
    """Print one token explained."""
    place = f"token {found['number']:,} of {facts['document']['tokens']:,}, chunk {found['chunk']}"
    where = f", bytes {found['bytes'][0]:,} to {found['bytes'][1]:,}" if found["bytes"] else ""
    console.print(Text.assemble("The true token: ", (found["token"]["text"], "bold"), (f"  ({place}{where})", "dim")))
    if found["fused"] is None:
        console.print("Nothing predicts it: it is the first of its chunk, and the target reads no start token.")
        return
    console.print(Text(found["why"]))
    console.print(predictions_table(found))
    for number, source in enumerate(found["sources"]):
        show_source(facts, source, STYLES[number % len(STYLES)], found["token"]["id"])


def predictions_table(found: Facts) -> Table:
    """The fused target beside what the student predicts before and after training."""
    table = Table(title="What is taught", title_justify="left")
    every = [("fused target", found["fused"]), ("before", found["before"]), ("after", found["after"])]
    every += found["pairs"].items()
    columns = [(name, of) for name, of in every if of is not None]
    for name, _ in columns:
        table.add_column(escape(name), overflow="fold")
        table.add_column("p", justify="right", no_wrap=True)
    gold = found["token"]["id"]
    kept = [[(marked(token, gold), percent(token["p"])) for token in of["kept"]] for _, of in columns]
    for row in zip_longest(*kept, fillvalue=(Text(""), "")):
        table.add_row(*(cell for pair in row for cell in pair))
    table.add_section()
    table.add_row(*(cell for _, of in columns for cell in _rest(of)))
    table.add_row(*(cell for _, of in columns for cell in (Text("nats of ✓"), _nats(of))))
    return table


def _rest(of: Facts) -> tuple[str, str]:
    return "all others", percent(max(0.0, 1 - sum(token["p"] for token in of["kept"])))


def _nats(of: Facts) -> str:
    return figure(of["nats"], "∞" if "held_back" in of and of["kept"] else "–")


def show_worst(documents: Sequence[Facts], recipe: str, by: str = "harm") -> None:
    """Print what is first by some rank, and how to look at each."""
    table = Table(title=RANKED[by], title_justify="left")
    for name in ("document", "token", "", "before", "fused", by):
        table.add_column(name, overflow="fold", justify="right" if name in ("token", "before", "fused") else "left")
    for facts in documents:
        before, fused, _ = facts["tokens"][facts["at"] - facts["document"]["begin"]]["nats"]
        cells = (figure(before, digits=2), figure(fused, "∞", 2), facts["note"].removeprefix(f"{by} "))
        table.add_row(Text(facts["document"]["doc_id"]), str(facts["at"]), _around(facts), *cells)
    console.print(table)
    console.print(Text(f"One of them: logitfuse inspect {recipe} --doc ID --at TOKEN", style="dim"))
    console.print()


def _around(facts: Facts) -> Text:
    """Return a few tokens before the chosen one, and that."""
    n = facts["at"] - facts["document"]["begin"]
    before = "".join(token["text"] for token in facts["tokens"][max(0, n - 6) : n])
    flat = before.replace("\n", "⏎").replace("\t", "⇥")
    return Text("…" + flat[-36:]).append(facts["tokens"][n]["text"].replace("\n", "⏎"), style="bold reverse")


def _few(count: int, one: str) -> str:
    return f"{count:,} {one}" + ("" if count == 1 else "s")
