"""Does anything grow or slow down on a long corpus? 100 M target tokens through every data stage but a model's.

    python benchmarks/scale.py --tokens 100_000_000 --json benchmarks/results/scale-2cpu.json
    python benchmarks/scale.py --tokens 2_000_000          # a trial

Text: the demo's, altered again and again, in documents of very different lengths, one of them of a million tokens;
shards as the default recipe cuts them. Tokenizers are real (the demo's models); captures are STUBS, made without a
model. Each stage runs in a process of its own, one shard after another, through the engine, so a run that was
interrupted goes on where it was; `--folder` needs about 250 bytes of disk for each token.

slowdown_STAGE: processor time per target token of six shards of the last tenth over that of six of the first, made
again in turns by the process that has made all shards and by a fresh one. ageing_STAGE: the one process over the other
on the same shards. In turns, because a shared machine is not the same after an hour; the least of the times, because
other processes only ever add to it. The whole run's own times, tenth by tenth, are in the JSON.
peak_growth_STAGE: most memory resident while a shard was made, median of the last tenth over that of the first. The
shard with the longest document stands in the middle; the table has it under "most".
"""

import argparse
import subprocess
import sys
from pathlib import Path

from enlarged import heavy_tailed, packaged_text, write_jsonl
from measure import options
from scale_report import report
from scale_stages import STAGES, run_stage, serve_stage
from stub_capture import StubRun

from logitfuse.tasks.recipe import Recipe

CHARACTERS_PER_TOKEN = 4.0
GIANT_TOKENS = 1_000_000


def main() -> None:
    """Run what is missing, stage by stage, and print what it took."""
    parser = options(__doc__)
    parser.add_argument("--tokens", type=int, default=100_000_000, help="target tokens, about")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where the run folder lies")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)  # what a child process does
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)  # it, again, shards it is told
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.tokens = min(arguments.tokens, 500_000)
    recipe = recipe_for(arguments.tokens, arguments.folder)
    size = ["--tokens", str(arguments.tokens), "--folder", str(arguments.folder)]
    child = [sys.executable, __file__, *size, "--stage"]
    if arguments.serve:
        return serve_stage(StubRun(recipe), arguments.stage)
    if arguments.stage:
        return run_stage(StubRun(recipe), arguments.stage, [*child, arguments.stage, "--serve"])
    make_corpus(arguments.tokens, Path(recipe.corpus.source))
    for stage in STAGES:
        subprocess.run([*child, stage], check=True)
    report(StubRun(recipe), arguments.json)


def recipe_for(tokens: int, folder: Path) -> Recipe:
    """Return the default recipe over the made corpus, one worker."""
    name = f"scale-{tokens}"
    corpus = {"source": str(folder / f"{name}.jsonl"), "id_column": "id"}
    return Recipe(name=name, corpus=corpus, execution={"folder": str(folder), "workers": 1})  # type: ignore[arg-type]


def make_corpus(tokens: int, path: Path) -> None:
    """Write the text unless it is there."""
    if not path.exists():
        giant = min(GIANT_TOKENS, tokens // 4)
        lengths = (int(number * CHARACTERS_PER_TOKEN) for number in (tokens, giant))
        write_jsonl(heavy_tailed(packaged_text(), *lengths), path)


if __name__ == "__main__":
    main()
