"""Stage train: the target learns the fused distributions, in a child process; a control learns the labels alone."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfuse.storage.errors import StoreFailed
from logitfuse.storage.shards import verified_path
from logitfuse.tasks.arms import CONTROL, arms, fused_shards
from logitfuse.tasks.computed_on import trained_on
from logitfuse.tasks.engine import MADE, Counts, Progress, Work
from logitfuse.tasks.model_card import model_card
from logitfuse.tasks.training.checkpoint import steps_done
from logitfuse.tasks.training.checkpoint_copies import sending_checkpoints
from logitfuse.tasks.training.config import FusedShard, WorkerConfig
from logitfuse.tasks.training.fused_file import check_texts
from logitfuse.tasks.training.held_out_sample import spread_out, write_sample
from logitfuse.tasks.training.hosts import hosts_of
from logitfuse.tasks.training.launch import run_training, threads_of
from logitfuse.tasks.training.metrics import last_line, read_metrics, stood_before
from logitfuse.tasks.training.settings import TrainSettings, control_of, fused_of
from logitfuse.tasks.training.watch_settings import WatchSettings
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run

LOG = logging.getLogger("logitfuse.train")


def units(run: Run) -> list[Unit]:
    """One unit per arm."""
    return [Unit("train", arm) for arm in arms(run.recipe)]


def arm_settings(settings: TrainSettings, arm: str) -> TrainSettings:
    """Return the settings of one arm, as they are in its key.

    Which other arms are wanted is no property of one. Nor is what happens at a bad step: stop makes no other model
    than skip does, it may only make none, and a stopped run shall go on where it is.
    """
    settings = settings.model_copy(update={"on_bad_step": "stop", "pairwise": False})
    return control_of(settings) if arm == CONTROL else fused_of(settings)


def work(run: Run, unit: Unit) -> Work:
    """Describe the training of one arm on all its fused shards."""
    arm = unit.needed_source
    settings = arm_settings(run.recipe.train, arm)
    shards = fused_shards(run, arm)
    card, target = model_card(run, arm, settings, shards), run.model(run.target.label)

    def compute(path: Path, progress: Progress) -> Counts:
        return _train(run, described, shards, card, path, progress)

    described = Work(
        stage="train",
        place=f"train/{arm}",
        name="model",
        compute=compute,
        settings=settings,
        inputs=shards,
        fingerprints={"target": target.home.fingerprint},
        folder=True,
        after=lambda: remove_checkpoints(run, described),
    )
    return described


def _train(run: Run, described: Work, shards: tuple[Record, ...], card: str, path: Path, progress: Progress) -> Counts:
    return trained(run, described, worker_config(run, described, shards, card, path), progress)


def trained(run: Run, described: Work, config: WorkerConfig, progress: Progress) -> Counts:
    """Train in a child process, report its steps, and count what was learnt."""
    run.unload()  # the last source's weights would take the memory that training needs
    execution, began = run.recipe.execution, time.time()

    def report() -> None:
        if (line := last_line(config.metrics)) and not stood_before(line, began):
            progress(line["step"], line["steps"])

    with sending_checkpoints(run.store.newest(_checkpoints(described)), config, LOG.info):
        stood, steps = steps_done(config.checkpoints)
        progress(stood, steps)  # all steps after them count as made now
        held = run_training(
            config,
            processes=execution.processes,
            device=execution.device,
            hosts=hosts_of(execution.hosts),
            log=LOG.info,
            heartbeat=report,
        )
    lines = read_metrics(config.metrics)
    hosts = hosts_of(execution.hosts)
    computed = trained_on(
        config.settings,
        execution.device,
        execution.processes,
        hosts.count if hosts else 1,
        threads_of(execution.processes),
    )
    return {**learnt(lines, stood), MADE: {**seconds_of(lines, began), **peak_memory(held, lines), **computed}}


def seconds_of(lines: list[dict[str, Any]], began: float) -> dict[str, float]:
    """Return how long the steps took, and those of earlier processes, before the Unix time `began`, by themselves."""
    steps = sum(line.get("seconds", 0.0) for line in lines)
    earlier = sum(line.get("seconds", 0.0) for line in lines if stood_before(line, began))
    return {"model_seconds": round(steps, 3), "earlier_seconds": round(earlier, 3)}


def peak_memory(held: int | None, lines: list[dict[str, Any]]) -> dict[str, int]:
    """Return the most bytes that one process held; a training that was resumed also has its steps' word for it."""
    most = max([held or 0, *(round(1e9 * line.get("peak_memory_gb", 0.0)) for line in lines)])
    return {"peak_memory_bytes": most} if most else {}


def worker_config(run: Run, described: Work, shards: tuple[Record, ...], card: str, out: Path) -> WorkerConfig:
    """Return what the training processes of one arm are told, on whatever host they run."""
    assert isinstance(described.settings, TrainSettings)
    settings = described.settings.model_copy(update={"on_bad_step": run.recipe.train.on_bad_step})
    config = common_config(run, described, run.model(run.target.label), settings, out)
    return config.model_copy(update={"shards": _fused_shards(run, shards), "card": card})


def common_config(run: Run, described: Work, model: Source, settings: TrainSettings, out: Path) -> WorkerConfig:
    """Return what the training of any model is told, but for what it reads and its card."""
    execution = run.recipe.execution
    return WorkerConfig(
        settings=settings,
        model=model.home.folder.resolve(),
        out=out.resolve(),
        checkpoints=checkpoints_folder(run, described).resolve(),
        metrics=metrics_file(run, described).resolve(),
        base_model=model.home.called,
        key=described.key,
        peer_timeout_seconds=execution.peer_timeout_seconds,
        checkpoint_every_steps=execution.checkpoint_every_steps,
        keep_checkpoints=execution.keep_checkpoints,
        sharded=execution.sharded,
        watch=watch_settings(run, described, model, settings.sequence_length),
    )


def _fused_shards(run: Run, shards: tuple[Record, ...]) -> tuple[FusedShard, ...]:
    """Return the fused shards to learn from, each held against the text it was made from."""
    found = []
    for shard in shards:
        path = verified_path(run.store, shard).resolve()
        if run.recipe.fuse.granularity != "block":  # a packed block holds several documents and knows no text hash
            assert shard.shard is not None
            check_texts(verified_path(run.store, run.prepared(shard.shard)), path)
        found.append(FusedShard(path=path, checksum=shard.checksum))
    return tuple(found)


def learnt(lines: list[dict[str, Any]], stood: int = 0) -> Counts:
    """Count the steps and the labelled tokens that the model learnt from; steps that were left out, if there are.

    Where the metrics of the first steps are lost, `untold_steps` says of how many the tokens are not counted: of all
    that `stood`, where no step was missing any more.
    """
    kept = [line for line in lines if "skipped" not in line]
    steps, untold = (lines[-1]["step"], lines[0]["step"] - 1) if lines else (stood, stood)
    counts: Counts = {"steps": steps, "tokens": sum(line["tokens"] for line in kept)}
    counts |= {"untold_steps": untold} if untold else {}
    return counts | ({"skipped_steps": len(lines) - len(kept)} if len(kept) < len(lines) else {})


def watch_settings(run: Run, described: Work, model: Source, longest: int) -> WatchSettings:
    """Return how a training run is watched, and write the held-out sample that it looks at, in the model's tokens."""
    execution = run.recipe.execution
    folder = run.store.local(described.place)
    return WatchSettings(
        peak_tflops=execution.peak_tflops,
        sample=_held_out_sample(run, model, longest, folder / f"held-out.{described.key}.json"),
        evaluate_every_steps=execution.evaluate_every_steps,
        tensorboard=(folder / f"tensorboard.{described.key}").resolve() if execution.tensorboard else None,
        wandb=execution.wandb,
        wandb_run=f"{run.recipe.name}-{described.place.rpartition('/')[2]}",
    )


def _held_out_sample(run: Run, model: Source, longest: int, path: Path) -> Path | None:
    execution = run.recipe.execution
    if not execution.evaluate_every_steps:
        return None
    shards = [verified_path(run.store, run.shards[number]) for number in spread_out(len(run.shards))]
    tokens = write_sample(shards, model, path, execution.evaluate_tokens, longest)
    if not tokens:
        LOG.info("the corpus has no validation split, so there is no held-out text to look at on the way")
        return None
    return path.resolve()


def remove_checkpoints(run: Run, described: Work) -> None:
    """Once the model is published its checkpoints, three times its size each, are of no use; its metrics are."""
    shutil.rmtree(checkpoints_folder(run, described), ignore_errors=True)
    try:
        if (metrics := metrics_file(run, described)).is_file():
            run.store.show(_metrics(described), metrics)
        if (series := run.store.newest(_checkpoints(described))) is not None:
            series.remove()
    except StoreFailed as error:
        LOG.info(f"{described.record_path} is published; what lies beside it was not tidied up: {error}")


def checkpoints_folder(run: Run, described: Work) -> Path:
    """Return where a training run keeps its checkpoints until it is done."""
    return run.store.local(_checkpoints(described))


def metrics_file(run: Run, described: Work) -> Path:
    """Return where a training run writes a JSON line per step; it holds times, so it stays beside the result."""
    return run.store.local(_metrics(described))


def shown_metrics(run: Run, described: Work) -> Path:
    """Return the metrics file of a model that stands, whichever machine trained it; there may be none."""
    return run.store.shown(_metrics(described))


def _checkpoints(described: Work) -> str:
    return f"{described.place}/checkpoints.{described.key}"


def _metrics(described: Work) -> str:
    return f"{described.place}/metrics.{described.key}.jsonl"
