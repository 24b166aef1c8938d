"""What a run starts from: shards that are the right ones, the target in float32, and its optimiser."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.errors import ShardCorrupt
from logitfuse.tasks.training.config import FusedShard, WorkerConfig
from logitfuse.tasks.training.settings import TrainSettings


def verify_shards(shards: tuple[FusedShard, ...]) -> None:
    """Compare every shard with its checksum before anything is learnt from it; raise `ShardCorrupt`."""
    for shard in shards:
        if not shard.path.is_file():
            raise ShardCorrupt(f"{shard.path}: the file is missing. Redo stage 'fuse' for it.")
        if checksum_file(shard.path) != shard.checksum:
            raise ShardCorrupt(f"{shard.path}: its bytes are not the ones its record vouches for. Redo stage 'fuse'.")


def load_model(config: WorkerConfig) -> PreTrainedModel:
    """Load the target with float32 master weights."""
    model = AutoModelForCausalLM.from_pretrained(
        config.model, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    if config.settings.gradient_checkpointing:
        # Renamed in transformers 5.23; the old name goes with 6.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model


def make_optimizer(model: PreTrainedModel, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return AdamW; vectors (norms, biases) do not decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
