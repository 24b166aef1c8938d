"""The trained model as a normal Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from logitfuse.storage.atomic import replacing_folder
from logitfuse.tasks.training.config import WorkerConfig
from logitfuse.tasks.training.loading import load_base
from logitfuse.tasks.training.lora import merged, write_adapter
from logitfuse.tasks.training.tensors import model_tensors

COPIED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
)


ADAPTER_FOLDER = "adapter"


def export_trained(config: WorkerConfig, model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Write what a run has trained; `weights` are all that it can change, whole.

    After LoRA the folder holds the merged weights, which need no peft, and beside them `adapter/`.
    """
    dtype = original_dtype(config.model)
    if config.settings.lora is None:
        export_model(model, config.model, config.out, config.card, weights=weights, dtype=dtype)
        return
    with TemporaryDirectory() as scratch:
        adapter = Path(scratch) / ADAPTER_FOLDER
        write_adapter(model, weights, adapter, config.base_model or str(config.model))
        whole = merged(load_base(config.model), adapter)
        export_model(whole, config.model, config.out, config.card, dtype=dtype, adapter=adapter)


def export_model(
    model: PreTrainedModel,
    tokenizer_folder: Path,
    out_folder: Path,
    card: str,
    *,
    weights: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    adapter: Path | None = None,
) -> None:
    """Write weights (safetensors), configuration, tokenizer and model card; the folder is there whole or not at all.

    `weights` replace the model's own (for one whose parts lie in several processes); a tied tensor stands once.
    `dtype` is what the weights are stored in, by default the model's own. The tokenizer's files are copied byte
    by byte: loading and saving a tokenizer can change it. `adapter` is a folder that is copied to `adapter/`.
    """
    dtype = dtype or model.dtype
    weights = dict(model_tensors(model, frozen=True)) if weights is None else weights
    stored = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights.items()}
    with replacing_folder(out_folder) as scratch:
        _save(model, scratch, stored)
        _state_dtype(scratch / "config.json", dtype)
        for name in COPIED_FILES:
            if (tokenizer_folder / name).is_file():
                shutil.copyfile(tokenizer_folder / name, scratch / name)
        if adapter:
            shutil.copytree(adapter, scratch / ADAPTER_FOLDER)
        (scratch / "README.md").write_text(card)


def _save(model: PreTrainedModel, folder: Path, stored: dict[str, Tensor]) -> None:
    """Save weights and configuration; how to generate is copied, because transformers refuses some published ones."""
    kept = model.generation_config
    model.generation_config = GenerationConfig.from_model_config(model.config)
    try:
        model.save_pretrained(folder, state_dict=stored)
    finally:
        model.generation_config = kept


def original_dtype(folder: Path) -> torch.dtype:
    """Return the dtype a model folder says its weights are in; float32 if it says nothing."""
    config = json.loads((folder / "config.json").read_text())
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return getattr(torch, name)


def _state_dtype(config: Path, dtype: torch.dtype) -> None:
    """Write the stored dtype into the configuration; training had the model in float32."""
    content = json.loads(config.read_text())
    content.pop("torch_dtype", None)
    content["dtype"] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
