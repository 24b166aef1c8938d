"""LoRA: the model's own weights stay as they are, and small matrices beside them learn (through peft)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfuse.storage.errors import BadInput
from logitfuse.tasks.training.settings import LoraSettings, TrainSettings

ALL_LINEAR = "all-linear"  # peft's word for every linear layer but the output head
ADAPTER_NAME = "default"  # stands in parameter names as long as peft's layers are in the model
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def refuse_without_peft(settings: TrainSettings) -> None:
    """Raise `BadInput` if LoRA is asked for and peft is not installed."""
    if settings.lora and find_spec("peft") is None:
        raise BadInput("train.lora is set, but peft is not installed. Install it with: pip install 'logitfuse[lora]'")


def add_adapters(model: PreTrainedModel, settings: TrainSettings) -> None:
    """Freeze the model and put LoRA's matrices into its linear layers; the model computes what it did before.

    The matrices are drawn from the run's seed, the same in every process. Raises `BadInput` for target modules that
    the model lacks or that the loss reads past.
    """
    assert settings.lora
    refuse_without_peft(settings)
    from peft import inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    torch.manual_seed(settings.seed)
    try:
        inject_adapter_in_model(_peft_config(settings.lora), model, ADAPTER_NAME)
    except ValueError as error:
        raise BadInput(f"train.lora.target_modules {list(settings.lora.target_modules)}: {error}") from None
    for end in (model.get_output_embeddings(), model.get_input_embeddings()):
        if isinstance(end, BaseTunerLayer):
            raise BadInput("train.lora.target_modules names the embeddings or the output head; the loss reads the "
                           "head's own weight. Name layers of the body, or none for all of them.")  # fmt: skip


def hold_frozen_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Hold frozen weights of linear layers as the products take them: under autocast that changes no bit.

    Without LoRA nothing is frozen. Norms and embeddings stay as they are: what flows between the layers is in theirs.
    """
    head = model.get_output_embeddings()  # whose weight may be the embeddings'
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(dtype)


def write_adapter(model: PreTrainedModel, weights: Mapping[str, Tensor], folder: Path, base_model: str) -> None:
    """Write an adapter as peft's users know it: adapter_config.json and adapter_model.safetensors.

    `weights` are LoRA's matrices by the names that they have in `model`. `base_model` is where users find the model
    that the adapter belongs to.
    """
    config = model.peft_config[ADAPTER_NAME]
    config.base_model_name_or_path, config.inference_mode = base_model, True
    config.save_pretrained(folder)
    path = folder / ADAPTER_CONFIG
    content = json.loads(path.read_text())
    content["target_modules"] = sorted(content["target_modules"])  # peft keeps them in a set, whose order varies
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    named = {"base_model.model." + name.replace(f".{ADAPTER_NAME}.", "."): tensor for name, tensor in weights.items()}
    save_file(named, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def merged(base: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Return the base model with an adapter's products added to its weights, without peft's layers."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, str(adapter))
    plain: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return plain


def _peft_config(settings: LoraSettings):  # type: ignore[no-untyped-def]  # peft is optional
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft only divides it by the rank
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules) or ALL_LINEAR,
        task_type="CAUSAL_LM",
    )
