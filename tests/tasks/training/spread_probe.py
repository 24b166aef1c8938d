"""A program for torchrun: trains the runs it is told, in float64 where asked, and says how they were really spread."""

import inspect
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from logitfuse.kernels.losses.fused import ObjectiveParts
from logitfuse.kernels.losses.reference import objective_reference
from logitfuse.tasks.training import objective, trainer, worker
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.sharding import leave_processes

KNOWN = set(inspect.signature(objective_reference).parameters)


def reference(hidden_NH, weight_VH, labels_N, targets, weights, **options):
    """The loss as its definition has it: the fast one sums in float32 whatever it is given."""
    options = {name: value for name, value in options.items() if name in KNOWN}
    sums = objective_reference(hidden_NH, weight_VH, labels_N, targets, weights, **options)
    labelled = labels_N >= 0
    served = targets.served_N & (labelled | (weights.fusion_N > 0))
    return ObjectiveParts(sums[0], *(s.detach() for s in sums[1:]), labelled.sum(), served.sum())


@contextmanager
def everything_in_float64() -> Iterator[None]:
    """Hold weights, optimiser and activations in float64: what then differs is not rounding."""
    kept = trainer.load_model, objective.fused_objective, objective.COMPUTE["fp32"]
    trainer.load_model = lambda config: kept[0](config).double()
    objective.fused_objective = reference
    objective.COMPUTE["fp32"] = torch.float64
    try:
        yield
    finally:
        trainer.load_model, objective.fused_objective, objective.COMPUTE["fp32"] = kept


def facts(run: trainer.Trainer) -> dict:
    """What must be true of a spread run, seen from this process."""
    held = list(run.model.parameters())
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in held]
    return {
        "world": dist.get_world_size() if dist.is_initialized() else 1,
        "ddp": isinstance(run.objective, DistributedDataParallel),
        "dtensors": sum(isinstance(p, DTensor) for p in held),
        "parameters": len(held),
        "share": sum(p.numel() for p in parts) / sum(p.numel() for p in held),
        "dtypes": sorted({str(p.dtype) for p in held}),
    }


def train(config: WorkerConfig) -> None:
    run = trainer.Trainer(config, threading.Event(), print)
    rank = run.accelerator.process_index
    (config.metrics.parent / f"facts-{rank}.json").write_text(json.dumps(facts(run)))
    run.train()


def main(jobs: Path) -> None:
    torch.set_num_threads(1)
    for job in json.loads(jobs.read_text()):
        config = WorkerConfig.model_validate(job["config"])
        if job["float64"]:
            with everything_in_float64():
                train(config)
        else:
            train(config)
    leave_processes()
    worker.end(0)  # as those that train for users do


if __name__ == "__main__":
    main(Path(sys.argv[1]))
