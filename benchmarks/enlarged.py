"""Text in any amount: packaged text, altered again and again so that no part of it repeats another.

A fourth of all words is drawn anew for each copy. So no run of 13 words stays, by which near duplicates are found, and
what a tokenizer makes of the text stays about the same.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from logitfuse.storage.atomic import replacing
from logitfuse.tasks.packaged.text import fetch_text

ALTERED = 4  # every so many words one is another
MEDIAN, SPREAD = 1200, 1.2  # characters of a made document: log-normal, so that some are hundreds of times longer
SHORTEST, LONGEST = 100, 400_000


@dataclass(frozen=True)
class Text:
    """Real documents, and their words to draw from."""

    documents: list[dict[str, str]]  # id, text, domain
    words: list[str]

    def altered(self, text: str, rng: random.Random) -> str:
        """Return the text with a fourth of its words drawn anew."""
        words = text.split(" ")
        words[::ALTERED] = rng.choices(self.words, k=len(words[::ALTERED]))
        return " ".join(words)


def packaged_text() -> Text:
    """Return the demo's text; the first call downloads it."""
    with fetch_text("demo").open(encoding="utf-8", newline="\n") as lines:
        documents = [json.loads(line) for line in lines]
    return Text(documents, [word for row in documents[:500] for word in row["text"].split() if word.isascii()])


def copies(text: Text, documents: int, times: int) -> Iterator[dict[str, str]]:
    """Yield so many of the documents so many times, never the same twice; evenly chosen, so each copy is alike."""
    chosen = text.documents[:: max(len(text.documents) // documents, 1)][:documents]
    for number in range(times):
        rng = random.Random(number)
        for row in chosen:
            yield row | {"id": f"{number}/{row['id']}", "text": text.altered(row["text"], rng)}


def heavy_tailed(text: Text, characters: int, giant: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield documents of so many characters in all, of very different lengths; the middle one has `giant`."""
    rng = random.Random(seed)
    whole = "\n".join(row["text"] for row in text.documents)
    written, number, giant_is_due = 0, 0, giant > 0
    while written < characters:
        length = int(min(max(rng.lognormvariate(0, SPREAD) * MEDIAN, SHORTEST), LONGEST))
        if giant_is_due and written >= characters // 2:
            length, giant_is_due = giant, False
        start = rng.randrange(max(len(whole) - length, 1))
        yield {"id": f"made/{number}", "text": text.altered(whole[start : start + length], rng), "domain": "made"}
        written, number = written + length, number + 1


def write_jsonl(rows: Iterator[dict[str, str]] | Sequence[dict[str, str]], path: Path) -> Path:
    """Write rows as JSON lines, whole or not at all; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch, scratch.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path
