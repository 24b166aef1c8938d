"""What a run starts from: shards that are the right ones, the target in float32, and its optimiser."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from logitfuse.storage.checksums import checksum_file
from logitfuse.storage.errors import BadInput, ShardCorrupt
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.lora import add_adapters, hold_frozen_in, refuse_without_peft
from logitfuse.tasks.training.objective import COMPUTE
from logitfuse.tasks.training.settings import TrainSettings

FLASH = "flash_attention_2"


def verify_shards(config: WorkerConfig) -> None:
    """Compare every shard with its checksum before anything is learnt from it; raise `ShardCorrupt`."""
    for shard in config.shards:
        _verify(shard.path, shard.checksum, "fuse")
    for text in config.text.shards if config.text else ():
        _verify(text.path, text.checksum, "encode")
        _verify(text.prepared, text.prepared_checksum, "prepare")


def _verify(path: Path, checksum: str, stage: str) -> None:
    if not path.is_file():
        raise ShardCorrupt(f"{path}: the file is missing. Redo stage {stage!r} for it.")
    if checksum_file(path) != checksum:
        raise ShardCorrupt(f"{path}: its bytes are not the ones its record vouches for. Redo stage {stage!r}.")


def load_model(config: WorkerConfig) -> PreTrainedModel:
    """Load the target with float32 master weights, and with adapters in it if the settings ask for LoRA.

    Raises `BadInput` if something is asked for that cannot be had here.
    """
    refuse_what_is_missing(config.settings)
    model = load_base(config.model, "sdpa" if config.settings.attention == "sdpa" else None)
    if config.settings.freeze_embeddings:
        freeze_embeddings(model)
    if config.settings.lora:
        add_adapters(model, config.settings)
    if config.settings.gradient_checkpointing:
        # Renamed in transformers 5.23; the old name goes with 6.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return model


def load_base(folder: Path, attention: str | None = None) -> PreTrainedModel:
    """Load a model folder in float32, with an attention of transformers' (None: its own choice)."""
    chosen = {"attn_implementation": attention} if attention else {}
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True, **chosen
        )
    except ValueError as error:
        if attention is None:
            raise
        raise BadInput(f"train.attention: this model does not know {attention!r}: {error}") from None
    return model


def freeze_embeddings(model: PreTrainedModel) -> None:
    """Keep the token embeddings and the output head, tied or not, as they are."""
    for end in (model.get_input_embeddings(), model.get_output_embeddings()):
        end.requires_grad_(False)


def settle(model: PreTrainedModel, settings: TrainSettings, *, packed: bool) -> None:
    """Make the changes that are for training alone, once the model has been probed: a probe computes in float32.

    Packed rows have an attention of their own, which on a GPU is a flash kernel of torch's.
    """
    hold_frozen_in(model, COMPUTE[settings.dtype])
    if not packed:
        use_flash(model, settings)


def use_flash(model: PreTrainedModel, settings: TrainSettings) -> bool:
    """Let the model attend by flash-attn if the settings want it; return whether it does."""
    if settings.attention == "sdpa" or (settings.attention == "auto" and flash_is_missing(settings)):
        return False
    if settings.attention == "auto" and not getattr(model, "_supports_flash_attn", False):
        return False
    try:
        model.set_attn_implementation(FLASH)
    except (ValueError, ImportError) as error:
        raise BadInput(f"train.attention: this model does not know 'flash': {error}") from None
    return True


def refuse_what_is_missing(settings: TrainSettings) -> None:
    """Raise `BadInput` for what the settings ask for and this machine lacks, before anything is loaded."""
    refuse_without_peft(settings)
    if settings.attention == "flash" and (missing := flash_is_missing(settings)):
        raise BadInput(f"train.attention is 'flash', but {missing}. Set it to 'auto' or 'sdpa'.")


def flash_is_missing(settings: TrainSettings) -> str | None:
    """Say what keeps flash-attention from being used here; None if nothing does."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return "training is to run on the CPU"
    if find_spec("flash_attn") is None:
        return "flash-attn is not installed (pip install 'logitfuse[flash]', which needs a CUDA tool chain)"
    if not is_flash_attn_2_available():
        return "transformers cannot use the flash-attn that is installed, or there is no GPU"
    return "its kernels compute in 16 bits, and train.dtype is fp32" if settings.dtype != "bf16" else None


def make_optimizer(model: PreTrainedModel, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return AdamW; vectors (norms, biases) do not decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
