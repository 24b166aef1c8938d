"""Checkpoints that are damaged one file at a time: training must go on from the one before, and say so."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import torch
from damages import damaged

from logitfuse.tasks.training.checkpoint import latest_checkpoint, save_checkpoint

KEY = "key"


def two_checkpoints(folder: Path) -> list[Path]:
    """Write the checkpoints of two steps of a small model; return the newer one's files."""
    model = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Linear(40, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    for step in (1, 2):
        model(torch.full((2, 40), 0.5)).sum().backward()
        optimizer.step()
        save_checkpoint(folder, {"step": step, "key": KEY, "processes": 1}, model, optimizer, keep=2)
    return sorted((folder / "checkpoint-00000002").iterdir())


def damage_checkpoints(folder: Path, damages: int, draw: random.Random) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Damage each file of a checkpoint so many times; return what was noticed by kind and way, and what was not."""
    noticed: Counter[tuple[str, str]] = Counter()
    unnoticed = []
    for path in two_checkpoints(folder):
        older = folder / "checkpoint-00000001" / path.name
        for _ in range(damages):
            warnings: list[str] = []
            with damaged(path, [older], draw) as way:
                found = latest_checkpoint(folder, KEY, warnings.append)
            if found is None or found.step != 1 or path.parent.name not in "".join(warnings):
                unnoticed.append(f"{path.name} of a checkpoint, {way}: it was read")
            noticed[f"checkpoint/{path.name}", way] += 1
    return noticed, unnoticed
