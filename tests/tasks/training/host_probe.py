"""A program for one host of a run: what stage train does there, without a recipe around it."""

import sys
from pathlib import Path

from logitfuse.storage.errors import WorkFailed
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.hosts import Hosts
from logitfuse.tasks.training.launch import run_training

if __name__ == "__main__":
    config, rank, address, port = sys.argv[1:]
    hosts = Hosts(count=2, rank=int(rank), address=address, port=int(port))
    try:
        run_training(WorkerConfig.model_validate_json(Path(config).read_text()), device="cpu", hosts=hosts)
    except WorkFailed as error:
        print(f"state: {error}", flush=True)
        sys.exit(1)
    print("state: done", flush=True)
