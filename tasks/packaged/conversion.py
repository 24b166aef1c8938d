"""From a quantised GGUF file to a normal Hugging Face folder: bfloat16 safetensors, configuration, tokenizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.packaged.vocabularies import Vocabulary, read_vocabulary, save_tokenizer


def convert_gguf(gguf_file: Path, folder: Path, *, special: dict[str, int]) -> dict[str, Any]:
    """Write a GGUF model as a normal model folder; `special` replaces ids of special tokens (bos, eos, pad, unk).

    Needs about 3 GB of memory for a vocabulary of 262,144. Returns facts for the record: architecture, parameters,
    vocabulary size. Raises ModelRefused where the head is not as wide as the vocabulary.
    """
    vocabulary = read_vocabulary(gguf_file)
    vocabulary = replace(vocabulary, special=vocabulary.special | special)
    save_tokenizer(vocabulary, folder)
    model = _plain_model(gguf_file, vocabulary)
    _check_head(model, vocabulary, gguf_file)
    model.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # it is written for its owner alone, but a cache may be shared
    return {
        "architecture": type(model).__name__,
        "parameters": model.num_parameters(),
        "vocabulary": len(vocabulary.tokens),
        "dtype": "bfloat16",
    }


def _plain_model(gguf_file: Path, vocabulary: Vocabulary) -> PreTrainedModel:
    """Return the dequantised model as if it had never been quantised: `save_pretrained` refuses one that was."""
    options: dict[str, Any] = {"dtype": torch.bfloat16, "gguf_file": gguf_file.name}
    if hasattr(transformers, "GgufConfig"):  # newer versions would keep weights packed where a kernel is installed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    loaded = AutoModelForCausalLM.from_pretrained(gguf_file.parent, trust_remote_code=False, **options)
    ids = {f"{name}_token_id": id for name, id in vocabulary.special.items() if name != "unk"}
    config = _plain_config(loaded.config, ids)
    with torch.device("meta"):  # weights come from the loaded model, so none are made at random first
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict(), strict=True, assign=True)
    plain.tie_weights()
    plain.generation_config = GenerationConfig(**ids)
    return plain


def _plain_config(config: PretrainedConfig, ids: dict[str, int]) -> PretrainedConfig:
    values = config.to_dict()
    for stale in ("quantization_config", "_model_name_or_path", "transformers_version", "unk_token_id"):
        values.pop(stale, None)
    return type(config)(**(values | ids))


def _check_head(model: PreTrainedModel, vocabulary: Vocabulary, gguf_file: Path) -> None:
    width, size = model.get_output_embeddings().weight.shape[0], len(vocabulary.tokens)
    if not width == model.config.vocab_size == size:
        raise ModelRefused(
            f"{gguf_file.name}: the head has {width} rows, the configuration says {model.config.vocab_size}, the "
            f"vocabulary has {size} tokens. The file does not hold the model it is named after."
        )
