"""Runs that are interrupted: prepared up to a stage, watched through Prefect's API and on the disk, then compared."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from crash_server import TAG, Server

from logitfuse.storage.errors import ShardMissing
from logitfuse.tasks.checks import check_run, claim_folder
from logitfuse.tasks.execute import do_prepare, do_units, is_up_to_date
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from tiny_models import WORDS, tiny_model

STAGES = ("prepare", "encode", "check", "capture", "map", "align", "fuse", "headroom", "train", "evaluate", "report")
MANY = ("prepare", "encode", "capture", "align", "fuse", "evaluate")  # have several units: the second one is held
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def recipe_at(folder: Path, label: str) -> Recipe:
    """Return a recipe over two models of a few thousand weights and a corpus of three shards, which it writes once.

    Runs differ by the folder that they lie in alone: a model's card tells the run's name.
    """
    corpus, models = folder / "corpus.jsonl", [folder / "first", folder / "second"]
    if not corpus.exists():
        rng = random.Random(0)
        texts = (" ".join(rng.choices(WORDS, k=rng.randint(3, 30))) for _ in range(30))
        lines = (json.dumps({"id": f"doc-{number}", "text": text}) for number, text in enumerate(texts))
        tiny_model(models[0], 300, seed=1), tiny_model(models[1], 340, seed=2)
        corpus.write_text("\n".join(lines) + "\n")
    first, second = ({"model": str(model), "dtype": "float32"} for model in models)
    return Recipe.model_validate(
        {
            "name": "tiny",
            "target": first,
            "sources": [second],
            "corpus": {"source": str(corpus), "documents_per_shard": 10, "held_out_share": 0.2},
            "check": {"nats_per_byte": None},
            "capture": {"k": 4, "tokens_per_batch": 512},
            "train": {"learning_rate": 1e-3, "dtype": "fp32", "sequence_length": 128, "sequences_per_step": 4},
            "execution": {
                "folder": str(folder / "runs" / label), "min_free_gb": 0, "device": "cpu", "workers": 1,
                "checkpoint_every_steps": 1,
            },
        }
    )  # fmt: skip


def undisturbed(folder: Path) -> Run:
    """Do a whole run in this process, unless it stands: what all others are compared with, and begin from."""
    run = Run(recipe_at(folder, "undisturbed"))
    if run.recipe.folder.exists() and is_up_to_date(run):
        return run
    check_run(run)
    claim_folder(run.recipe)
    do_prepare(run)
    for stage in ORDER[1:]:
        list(do_units(run, run.units(stage)))
    run.unload()
    return run


@dataclass
class Interrupted:
    """A run of one stage's deployment, in a run folder in which all stages before it are done."""

    server: Server
    whole: Run
    stage: str
    name: str
    flow_run: str = ""
    stood: dict[str, tuple[int, int]] = field(default_factory=dict)
    asked: float = 0.0  # when it was last started

    @property
    def _control(self) -> Path:
        return self.server.control / self.name

    def prepare(self, *, held: bool = True) -> None:
        """Copy what stands before the stage, and say where to hold."""
        recipe = recipe_at(self.server.folder, self.name)
        shutil.copytree(self.whole.recipe.folder, recipe.folder)
        run = Run(recipe)
        for stage in reversed(ORDER[ORDER.index(self.stage) :]):
            _undo(run, stage)
        self._control.mkdir(parents=True)
        if held:
            wanted = {"stage": self.stage, "after": int(self.stage in MANY)}
            (self._control / "hold").write_text(json.dumps(wanted))

    def start(self) -> None:
        """Ask for a run, as the form does."""
        api, recipe = self.server.api, recipe_at(self.server.folder, self.name)
        deployment = api.get(f"/deployments/name/{self.stage}/{self.stage}")["id"]
        body = {"parameters": {"recipe": recipe.model_dump(mode="json")}, "tags": [TAG]}
        self.asked = time.time()
        self.flow_run = api.send("post", f"/deployments/{deployment}/create_flow_run", body)["id"]

    def retry(self) -> None:
        """What the button Retry of the UI does."""
        self.asked = time.time()
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        self.server.api.send("post", f"/flow_runs/{self.flow_run}/set_state", {"state": state, "force": True})

    def state(self) -> str:
        """Return the type of the state that Prefect shows; AWAY while its server does not answer."""
        try:
            return str(self.server.api.get(f"/flow_runs/{self.flow_run}")["state"]["type"])
        except httpx.HTTPError:
            return "AWAY"

    def is_held(self) -> bool:
        """Whether the process that was started last has come to where it is held."""
        return any(note["what"] == "held" and note["at"] > self.asked for note in self.notes())

    def release(self) -> None:
        """Let it go on."""
        (self._control / "hold").unlink(missing_ok=True)

    def notes(self) -> list[dict[str, Any]]:
        """Return what its processes have noted."""
        path = self._control / "notes"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pid(self) -> int:
        """Return the process that works on its units."""
        return int(next(note["pid"] for note in reversed(self.notes()) if note["what"] == "began"))

    def note_what_stands(self) -> None:
        """Remember the files that must not be written again."""
        self.stood |= _standing(recipe_at(self.server.folder, self.name).folder)

    def verdict(self) -> dict[str, Any]:
        """Say what became of its shards: all there, each computed to its end once, what stood untouched, same bytes."""
        run = Run(recipe_at(self.server.folder, self.name))
        now = _standing(run.recipe.folder)
        computed = [note["unit"] for note in self.notes() if note["what"] == "computed"]
        return {
            "none_lost": is_up_to_date(run, ORDER[: ORDER.index(self.stage) + 1]),
            "none_twice": len(computed) == len(set(computed)) and not self._overlaps(),
            "untouched": all(now.get(path) == seen for path, seen in self.stood.items()),
            "same_bytes": self.stage == "report" or _checksums(run, self.stage) == _checksums(self.whole, self.stage),
        }

    def _overlaps(self) -> bool:
        """Whether a unit was begun while another process that computed it to its end was at it."""
        spans: dict[tuple[str, int], list[float]] = {}
        for note in self.notes():
            if note["what"] in ("began", "computed"):
                spans.setdefault((note["unit"], note["pid"]), []).append(note["at"])
        ended = sorted((unit, min(at), max(at)) for (unit, _), at in spans.items() if len(at) > 1)
        return any(left[0] == right[0] and right[1] < left[2] for left, right in pairwise(ended))


def _undo(run: Run, stage: str) -> None:
    """Remove all that a stage has left, its checkpoints among it."""
    places = {"prepare"} if stage == "prepare" else set()
    for unit in run.units(stage) if stage != "prepare" else []:
        with suppress(ShardMissing):
            places.add(run.record(unit).place.split("/")[0])
    for place in places:
        shutil.rmtree(run.recipe.folder / place)


def _standing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of change of every record, by its path."""
    found = {}
    for path in folder.rglob("*.json"):
        if not path.parent.name.startswith(".") and path.read_bytes().startswith(b'{"checksum":'):
            stat = path.stat()
            found[str(path.relative_to(folder))] = (stat.st_ino, stat.st_mtime_ns)
    return found


def _checksums(run: Run, stage: str) -> list[str]:
    if stage == "prepare":
        return [record.checksum for record in run.shards]
    return [run.record(unit).checksum for unit in run.units(stage)]
