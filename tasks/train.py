"""Stage train: the target learns the fused distributions, in a child process; a control learns the labels alone."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from logitfuse.storage.shards import verified_path
from logitfuse.tasks.engine import MADE, Counts, Progress, Work
from logitfuse.tasks.training.config import FusedShard, WorkerConfig
from logitfuse.tasks.training.launch import run_training
from logitfuse.tasks.training.metrics import read_metrics
from logitfuse.tasks.training.settings import TrainSettings, control_of
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run

FUSED, CONTROL = "fused", "control"
LOG = logging.getLogger("logitfuse.train")


def arms(settings: TrainSettings) -> list[str]:
    """Return the models that are trained: the fused one and, if asked for, its control (the same run with λ = 1)."""
    return [FUSED, CONTROL] if settings.control else [FUSED]


def units(run: Run) -> list[Unit]:
    """One unit per arm."""
    return [Unit("train", arm) for arm in arms(run.recipe.train)]


def arm_settings(settings: TrainSettings, arm: str) -> TrainSettings:
    """Return the settings of one arm; whether a control is wanted is no property of an arm."""
    return control_of(settings) if arm == CONTROL else settings.model_copy(update={"control": False})


def work(run: Run, unit: Unit) -> Work:
    """Describe the training of one arm on all fused shards."""
    arm = unit.needed_source
    settings = arm_settings(run.recipe.train, arm)
    shards = tuple(run.record(Unit("fuse", None, shard)) for shard in run.shard_numbers)
    card = model_card(run, arm, settings, shards)

    def compute(path: Path, progress: Progress) -> Counts:
        return _train(run, described, shards, card, path, progress)

    described = Work(
        stage="train",
        place=f"train/{arm}",
        name="model",
        compute=compute,
        settings=settings,
        inputs=shards,
        fingerprints={"target": run.target.home.fingerprint},
        folder=True,
        after=lambda: _remove_checkpoints(run, described),
    )
    return described


def _train(run: Run, described: Work, shards: tuple[Record, ...], card: str, path: Path, progress: Progress) -> Counts:
    assert isinstance(described.settings, TrainSettings)
    run.unload()  # the last source's weights would take the memory that training needs
    execution = run.recipe.execution
    config = WorkerConfig(
        settings=described.settings,
        model=run.target.home.folder.resolve(),
        shards=tuple(
            FusedShard(path=verified_path(run.store, shard).resolve(), checksum=shard.checksum) for shard in shards
        ),
        out=path.resolve(),
        checkpoints=checkpoints_folder(run, described).resolve(),
        metrics=metrics_file(run, described).resolve(),
        card=card,
        key=described.key,
        checkpoint_every_steps=execution.checkpoint_every_steps,
        keep_checkpoints=execution.keep_checkpoints,
        sharded=execution.sharded,
    )

    def report() -> None:
        if lines := read_metrics(config.metrics):
            progress(lines[-1]["step"], lines[-1]["steps"])

    run_training(config, processes=execution.processes, device=execution.device, log=LOG.info, heartbeat=report)
    lines = read_metrics(config.metrics)
    tokens = sum(line["tokens"] for line in lines)
    seconds = sum(line["tokens"] / line["tokens_per_s"] for line in lines)
    return {"steps": lines[-1]["step"], "tokens": tokens, MADE: {"model_seconds": round(seconds, 3)}}


def _remove_checkpoints(run: Run, described: Work) -> None:
    """Once the model is published its checkpoints, three times its size each, are of no use."""
    shutil.rmtree(checkpoints_folder(run, described), ignore_errors=True)


def checkpoints_folder(run: Run, described: Work) -> Path:
    """Return where a training run keeps its checkpoints until it is done."""
    return run.store.local(described.place) / f"checkpoints.{described.key}"


def metrics_file(run: Run, described: Work) -> Path:
    """Return where a training run writes a JSON line per step; it holds times, so it stays beside the result."""
    return run.store.local(described.place) / f"metrics.{described.key}.jsonl"


def model_card(run: Run, arm: str, settings: TrainSettings, shards: tuple[Record, ...]) -> str:
    """Return the model's README: from what it was made, how, and the fingerprints. No dates: it is a result."""
    target, others = run.target, [s for s in run.teachers.values() if s.label != run.target.label]
    role = "fused model" if arm == FUSED else "control, trained on the labels alone"
    lines = [
        "---",
        "library_name: transformers",
        "tags: [logitfuse, knowledge-fusion, distillation]",
        "---",
        f"# {run.recipe.name}: {role}",
        "",
        f"{target.label} was continued on {run.recipe.corpus.source} with λ = {settings.clm_weight:g} (weight of the "
        "label's loss; the rest is the loss against the fused predictions of the sources). Made with logitfuse, "
        "after FuseLLM (Wan et al., ICLR 2024).",
        "",
        "| role | model | weights | tokenizer |",
        "|---|---|---|---|",
    ]
    for kind, source in [("target", target), *(("source", source) for source in others)]:
        prints = (source.home.fingerprint, source.vocabulary.fingerprint)
        named = source.home.settings.model + (
            f"@{source.home.settings.revision}" if source.home.settings.revision else ""
        )
        lines.append(f"| {kind} | {named} | {' | '.join(f'`{p[:23]}`' for p in prints)} |")
    recipe = run.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"execution"})
    lines += ["", "The licences of all of these models apply to this one.", "", "## Recipe", "", "```yaml"]
    lines += [yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).rstrip(), "```", ""]
    lines += ["## Data", "", f"{len(shards)} fused shards: {', '.join(s.checksum[7:19] for s in shards[:8])}"]
    return "\n".join(lines) + (" …\n" if len(shards) > 8 else "\n")
