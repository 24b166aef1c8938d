"""Stage train over machines that Prefect hands it to: is it the model that one machine trains, also after one died?

    python benchmarks/training_hosts.py --json training_hosts.json      # needs root and PostgreSQL; ~5 minutes

Each machine is a network namespace with an address and a name of its own and a Prefect worker on queue `train`. The
pipeline starts a run per host; the second is told the name of the host that took the first. Measured:

same_model: 1 if two machines with a process each trained, byte for byte, the models that one machine with two
processes trains.
same_model_after_a_death: the same where a machine dies in the middle of training, for good, the pipeline fails, another
machine comes, and the pipeline is retried.
told_in_s: seconds from the death until the pipeline is shown as failed.
steps_kept: share of the steps done before the death that the retried run did not do again.
"""

import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from corpus_growth import tiny_model
from machines import Machine, machines, postgres
from measure import at_least, at_most, options, show, write
from workers import PREFECT, Cluster, cluster_at

from logitfuse.tasks.checks import claim_folder
from logitfuse.tasks.execute import do_prepare, do_units
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run
from logitfuse.tasks.stages import ORDER
from logitfuse.tasks.training.metrics import read_metrics
from logitfuse.tasks.unit import Unit

GOALS = {
    "same_model": at_least(1),
    "same_model_after_a_death": at_least(1),
    "told_in_s": at_most(120),
    "steps_kept": at_least(0.5),
}
ARMS = ("fused",)
STEPS, CHECKPOINT_EVERY = 240, 20
DEATH_AT = STEPS // 2  # in the middle
LONGEST = 900.0  # seconds of one measurement


def main() -> None:
    """Print the table and write the JSON."""
    arguments = options(__doc__).parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that machines and servers are taken away
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        made = stack.enter_context(machines(3))
        cluster = stack.enter_context(cluster_at(folder, stack.enter_context(postgres()).url, 0.0))
        models = [tiny_model(name, folder) for name in ("llama-2", "gpt-2")]
        alone = fused(folder, models, "alone", {"processes": 2})
        list(do_units(Run(alone), Run(alone).units("train")))
        on_two = {"hosts": {"count": 2}, "shards_per_run": 4, "peer_timeout_seconds": 60}
        together = fused(folder, models, "together", on_two)
        seconds = {"two machines": [trained(cluster, together, made[:2])]}
        bereft = fused(folder, models, "bereft", on_two)
        metrics = {"same_model": float(weights(alone) == weights(together))} | death(cluster, bereft, made)
        metrics["same_model_after_a_death"] = float(weights(alone) == weights(bereft))
    show("training handed out to machines", metrics, GOALS, seconds)
    write(arguments.json, metrics, GOALS, {"steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY, "seconds": seconds})


def fused(folder: Path, models: Sequence[Path], name: str, execution: dict[str, Any]) -> Recipe:
    """Return a recipe whose next stage is train."""
    corpus = folder / "training.jsonl"
    texts = (f"Document {number} is about models that share no vocabulary; it says so twice." for number in range(400))
    corpus.write_text("".join(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts)))
    target, *sources = ({"model": str(model), "dtype": "float32"} for model in models)
    run_at = {"folder": str(folder / "runs"), "min_free_gb": 0, "device": "cpu"}
    recipe = Recipe.model_validate(
        {
            "name": name,
            "target": target,
            "sources": sources,
            "check": {"nats_per_byte": None},
            "corpus": {"source": str(corpus), "documents_per_shard": 100, "near_duplicate_overlap": None},
            "train": {
                "learning_rate": 1e-3, "dtype": "fp32", "sequence_length": 128, "sequences_per_step": 4,
                "max_steps": STEPS, "epochs": 100,
            },
            "execution": run_at | {"checkpoint_every_steps": CHECKPOINT_EVERY, **execution},
        }
    )  # fmt: skip
    claim_folder(recipe)
    do_prepare(Run(recipe))
    for stage in ORDER[1 : ORDER.index("train")]:
        run = Run(recipe)
        list(do_units(run, run.units(stage)))
    return recipe


def start_worker(cluster: Cluster, machine: Machine) -> None:
    """Let a machine take training runs, one at a time."""
    command = [*PREFECT, "worker", "start", "--pool", "logitfuse", "--work-queue", "train", "--limit", "1"]
    machine.start([*command, "--name", machine.name], cluster.environment, cluster.folder / f"{machine.name}.log")


def trained(cluster: Cluster, recipe: Recipe, workers: Sequence[Machine]) -> float:
    """Return the seconds that stage train takes on these machines."""
    for machine in workers:
        start_worker(cluster, machine)
    began = time.monotonic()
    ended(cluster, cluster.start(recipe, "train"), "COMPLETED")
    for machine in workers:
        machine.die()
    return time.monotonic() - began


def death(cluster: Cluster, recipe: Recipe, made: Sequence[Machine]) -> dict[str, float]:
    """Let the second machine die in the middle, a third one come, and retry; return the metrics of that."""
    for machine in made[:2]:
        start_worker(cluster, machine)
    pipeline = cluster.start(recipe, "train")
    while len(steps(recipe)) < DEATH_AT:
        time.sleep(0.2)
    made[1].die()
    began, died_at = time.monotonic(), time.time()
    ended(cluster, pipeline, "FAILED")
    told = time.monotonic() - began
    before = len(steps(recipe))
    start_worker(cluster, made[2])
    cluster.retry(pipeline)
    ended(cluster, pipeline, "COMPLETED")
    for machine in made:
        machine.die()
    kept = sum(line["time"] <= died_at for line in steps(recipe))
    return {"told_in_s": told, "steps_kept": kept / before}


def steps(recipe: Recipe) -> list[dict[str, Any]]:
    """Return the lines of the first arm's metrics, one per step."""
    folder = Path(recipe.execution.folder) / recipe.name / "train" / ARMS[0]
    return [line for file in folder.glob("metrics.*.jsonl") for line in read_metrics(file)]


def ended(cluster: Cluster, pipeline: str, wanted: str) -> None:
    """Wait until a run has ended; raise `RuntimeError` if it did in another way than `wanted`."""
    deadline = time.monotonic() + LONGEST
    while (state := cluster.state(pipeline))["type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the pipeline is still {state['name']} after {LONGEST} s")
        time.sleep(0.5)
    if state["type"] != wanted:
        raise RuntimeError(f"the pipeline is {state['name']}, not {wanted}: {state['message']}")


def weights(recipe: Recipe) -> list[str]:
    """Return the checksums of the models' weights, arm by arm."""
    run = Run(recipe)
    records = [run.record(Unit("train", arm)) for arm in ARMS]
    return [file.checksum for record in records for file in record.files if file.name.endswith("model.safetensors")]


if __name__ == "__main__":
    main()
