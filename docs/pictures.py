"""Draws the pictures of docs/how-it-works.md from real tokenizers and a token of a real run.

logitfuse inspect RECIPE --doc ID --at N --json > token.json
python docs/pictures.py token.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from logitfuse.tasks.models.reference import ModelSettings
from logitfuse.tasks.models.source import read_source
from logitfuse.tasks.models.vocabulary import encode_texts

IMAGES = Path(__file__).with_name("images")
SENTENCE = "The defendant's counterclaims were unenforceable."
SERVED, UNSERVED, SOURCE = "#2f7d5b", "#b4593a", "#3c68a8"


def ends_of(model: str, text: str) -> list[int]:
    """Return the byte at which each token of a packaged model ends."""
    source = read_source(ModelSettings(model=f"package:{model}"))
    ((_, ends),) = encode_texts(source.tokenizer, source.vocabulary, [text])
    return [int(end) for end in ends]


def two_tokenizers(source: str = "gemma3-270m", target: str = "smollm2-135m") -> None:
    """Draw a sentence as two models cut it; target tokens are coloured by whether a source position serves them."""
    sides = {source: ends_of(source, SENTENCE), target: ends_of(target, SENTENCE)}
    figure, axes = plt.subplots(figsize=(10, 2.9), layout="constrained")
    for height, (name, ends) in zip((1.0, 0.0), sides.items(), strict=True):
        axes.text(-1, height + 0.2, f"{name}\n({'source' if name == source else 'target'})", ha="right", va="center")
        for start, end in zip([0, *ends], ends, strict=False):
            served = end in sides[source]
            colour = SOURCE if name == source else SERVED if served else UNSERVED
            _token(axes, start, end, height, colour)
            if name == target and served:
                axes.plot([end, end], [0.42, 0.98], color=SERVED, linewidth=1)
    axes.text(0, -0.28, "green: both have read the same bytes here, so the source's prediction serves", color=SERVED)
    axes.text(0, -0.56, "brown: the source has no position that ends here; the label alone teaches", color=UNSERVED)
    axes.set(xlim=(-13, len(SENTENCE) + 1), ylim=(-0.7, 1.5))
    _saved(figure, axes, "two-tokenizers")


def _token(axes: Axes, start: int, end: int, height: float, colour: str) -> None:
    box = FancyBboxPatch((start + 0.08, height), end - start - 0.16, 0.4, boxstyle="round,pad=0,rounding_size=0.2",
                         facecolor=colour, alpha=0.18, edgecolor=colour)  # fmt: skip
    axes.add_patch(box)
    text = SENTENCE.encode()[start:end].decode(errors="replace").replace(" ", "␣")
    axes.text((start + end) / 2, height + 0.19, text, ha="center", va="center", family="monospace", fontsize=9)


def one_position(document: dict[str, Any], shown: int = 7) -> None:
    """Draw one token: each source's prediction on the target's vocabulary, and the fused target."""
    token = document["positions"][0]
    sides = [(f"{s['label']}\ncounts {s['share']:.0%}", s["aligned"]) for s in token["sources"] if s["served"]]
    sides.append(("fused target", token["fused"]))
    figure, axes = plt.subplots(1, len(sides), figsize=(10, 2.9), layout="constrained", sharex=True)
    for axis, (title, side) in zip(axes, sides, strict=True):
        kept = side["kept"][:shown]
        named = [entry["text"] for entry in kept]
        values = [entry["p"] for entry in kept]
        gold = [text == token["token"]["text"] for text in named]
        rows = range(len(kept), 0, -1)
        axis.barh(rows, values, color=[SERVED if true else SOURCE for true in gold], alpha=0.75)
        axis.set_yticks(list(rows), named, family="monospace")
        for row, value in zip(rows, values, strict=True):
            axis.text(value + 0.01, row, f"{value:.1%}", va="center", fontsize=8.5)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([])
        axis.set_xlim(0, 0.75)
    read = "".join(token["sources"][-1]["read"]).replace("␣", " ").strip()
    figure.suptitle(f"… {read} ▁ :  the text goes on with “{token['token']['text'].strip('␣')}” (green)", fontsize=10.5)
    figure.savefig(IMAGES / "one-position.svg", facecolor="white", metadata={"Date": None})
    plt.close(figure)


def _saved(figure: plt.Figure, axes: Axes, name: str) -> None:
    axes.axis("off")
    figure.savefig(IMAGES / f"{name}.svg", facecolor="white", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    matplotlib.rcParams.update({"svg.hashsalt": "logitfuse", "font.size": 10})
    two_tokenizers()
    for file in sys.argv[1:]:
        one_position(json.loads(Path(file).read_text())[0])
