"""The most memory each data stage ever holds, on a corpus and on one ten times as long (`pipeline.py --growth`).

Every stage of every run is the command `logitfuse stage NAME RECIPE --plain` in a process of its own, whose peak the
kernel keeps; the two runs go side by side. The models are tiny ones with random weights, the tokenizers and the text
are real.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from enlarged import copies, packaged_text, write_jsonl
from process import memory_mb
from rich.console import Console
from rich.table import Table

STAGES = ("prepare", "encode", "capture", "map", "align", "fuse", "headroom")
TIMES = 10
SHARDS = 4  # of the shorter corpus: what the first shard alone brings (compiled code, thread pools) is in both
VOCABULARIES = {"llama-2": 32_000, "gpt-2": 50_257}


def measure_growth(quick: bool) -> tuple[dict[str, float], dict[str, Any]]:
    """Return (metrics, inputs): the worst stage's peak at ten times the corpus over that at once, each a median."""
    per_shard, rounds = (8, 1) if quick else (64, 3)
    peaks: dict[tuple[str, int], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        models = [tiny_model(name, folder) for name in VOCABULARIES]
        text = packaged_text()
        for times in (1, TIMES):
            write_jsonl(copies(text, per_shard * SHARDS, times), folder / f"{times}.jsonl")
        for number in range(rounds):
            recipes = {times: write_recipe(folder, models, times, number, per_shard) for times in (1, TIMES)}
            for stage in STAGES:
                for times, peak in side_by_side(stage, recipes).items():
                    peaks[stage, times].append(peak)
    medians = {at: statistics.median(values) for at, values in peaks.items()}
    show_peaks(medians)
    growth = {stage: medians[stage, TIMES] / medians[stage, 1] for stage in STAGES}
    inputs = {"documents": per_shard * SHARDS, "documents_per_shard": per_shard, "rounds": rounds}
    found = {stage: {"mb": medians[stage, 1], "mb_at_10": medians[stage, TIMES]} for stage in STAGES}
    return {"rss_growth": max(growth.values())}, inputs | {"peaks": found}


def tiny_model(tokenizer: str, folder: Path) -> Path:
    """Save a Llama with random weights and a real tokenizer; return its folder."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from logitfuse.tasks.packaged.tokenizers import tokenizer_folder

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARIES[tokenizer], hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=8192,
    )  # fmt: skip
    place = folder / f"tiny-{tokenizer}"
    LlamaForCausalLM(config).save_pretrained(place)
    AutoTokenizer.from_pretrained(tokenizer_folder(tokenizer)).save_pretrained(place)
    return place


def write_recipe(folder: Path, models: list[Path], times: int, number: int, per_shard: int) -> Path:
    """Write the recipe of one run; JSON is YAML, too."""
    target, *sources = ({"model": str(model), "dtype": "float32"} for model in models)
    corpus = {"source": str(folder / f"{times}.jsonl"), "id_column": "id", "documents_per_shard": per_shard}
    content = {
        "name": f"times-{times}-round-{number}",
        "target": target,
        "sources": sources,
        # Short chunks and small batches, so that the short corpus fills them, too: a batch is what memory is for.
        "corpus": corpus | {"held_out_share": 0.2, "max_chunk_bytes": 256},
        "capture": {"tokens_per_batch": 512, "window_chunks": 16},
        "execution": {"folder": str(folder / "runs"), "device": "cpu", "min_free_gb": 0},
    }
    path = folder / f"{content['name']}.yaml"
    path.write_text(json.dumps(content))
    return path


def side_by_side(stage: str, recipes: dict[int, Path]) -> dict[int, float]:
    """Run one stage of each run at the same time; return the peaks, MB."""
    children = {
        times: subprocess.Popen([sys.executable, __file__, stage, str(recipe)], stdout=subprocess.PIPE, text=True)
        for times, recipe in recipes.items()
    }
    said = {times: child.communicate()[0] for times, child in children.items()}
    for times, child in children.items():
        if child.returncode:
            sys.exit(f"stage {stage} at {times} times the corpus failed: {said[times]}")
    return {times: float(text.split()[-1]) for times, text in said.items()}


def run_stage(stage: str, recipe: str) -> None:
    """Do what `logitfuse stage` does; print the peak last."""
    from logitfuse.flows.cli import app

    app(["stage", stage, recipe, "--plain"], standalone_mode=False)
    print(memory_mb()[1])


def show_peaks(medians: dict[tuple[str, int], float]) -> None:
    """Print a row per stage."""
    table = Table("stage", "MB", f"MB at {TIMES} times", "ratio", title="peak resident memory")
    for stage in STAGES:
        once, often = medians[stage, 1], medians[stage, TIMES]
        table.add_row(stage, f"{once:.1f}", f"{often:.1f}", f"{often / once:.4f}")
    Console().print(table)


if __name__ == "__main__":
    run_stage(*sys.argv[1:])
