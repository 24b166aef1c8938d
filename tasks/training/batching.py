"""How sequences become batches: packed into rows where the model is found to keep them apart, else padded."""

# legend: N positions of all texts, H hidden size

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.models.body import PACKED_TOLERANCE, probe_packing, run_body
from logitfuse.tasks.models.packing import attend_by_text, one_kernel_fails, packed
from logitfuse.tasks.training.settings import TrainSettings

PROBE_LENGTHS = (11, 5, 1, 12)
GRADIENT_TOLERANCE = 1e-3  # of a gradient's length, in float32; texts that see each other are off by tenths


class Batching(NamedTuple):
    """How a model's batches are made, and why so, in words for the log."""

    packed: bool
    why: str
    one_kernel: bool = False  # attention of all texts by torch's variable-length kernel (GPU)


def choose_batching(
    model: PreTrainedModel, settings: TrainSettings, device: torch.device, dtype: torch.dtype
) -> Batching:
    """Find out how to batch for a model that will compute on `device` in `dtype`; packed, it attends by text from now.

    Nothing is decided by an architecture's name: hidden states and gradients of texts packed are compared with those
    of each text alone. Raises `ModelRefused` if the settings ask for packing and the model cannot.
    """
    if settings.batching == "padded":
        return Batching(False, "sequences of like length are padded, as set")
    known = model.dtype in PACKED_TOLERANCE  # float64, which only tests use, is held by its gradients alone
    why_not = (probe_packing(model).why_not if known else None) or _gradients_differ(model)
    if why_not and settings.batching == "packed":
        raise ModelRefused(
            f"model {model.config.model_type!r} cannot read packed texts: {why_not}. Set train.batching to auto."
        )
    if why_not:
        return Batching(False, f"sequences of like length are padded: the model cannot read packed ones: {why_not}")
    attend_by_text(model)
    if device.type != "cuda":
        return Batching(True, "sequences are packed, attention is text by text")
    no_kernel = one_kernel_fails(_heads(model), device, dtype)
    how = "by one kernel" if no_kernel is None else f"text by text (variable-length attention: {no_kernel})"
    return Batching(True, f"sequences are packed, attention is {how}", one_kernel=no_kernel is None)


def read_row(model: PreTrainedModel, ids_1N: Tensor, lengths: Sequence[int], one_kernel: bool) -> Tensor:
    """Return the last hidden states [1, N, H] of a packed row of texts of these lengths, none seeing another."""
    with packed(model, lengths, one_kernel) as positions_1N:
        found: Tensor = model.base_model(input_ids=ids_1N, position_ids=positions_1N, use_cache=False).last_hidden_state
    return found


def _gradients_differ(model: PreTrainedModel) -> str | None:
    """Compare gradients of texts packed and alone, and run the backward pass as training will; None if all is well.

    Gradients are those of the embedded tokens, which need none of the weights': no memory is spent on them.
    """
    width = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    texts = [(torch.arange(1, n + 1, device=model.device) * (5 + i)) % width for i, n in enumerate(PROBE_LENGTHS)]
    row = torch.cat(texts)[None]
    training, implementation = model.training, model.config._attn_implementation
    try:
        model.eval()
        wanted = torch.cat([_gradient(model, text[None], lambda ids: run_body(model, ids, None)) for text in texts], 1)
        attend_by_text(model)
        found = _gradient(model, row, lambda ids: read_row(model, ids, PROBE_LENGTHS, one_kernel=False))
        off = float((found - wanted).norm() / wanted.norm())
        model.train()  # with gradient checkpointing, if that is on: layers then run again after the row is gone
        _gradient(model, row, lambda ids: read_row(model, ids, PROBE_LENGTHS, one_kernel=False))
    except Exception as error:  # a model that fails on this is read otherwise, whatever the failure
        return f"its gradients fail on packed texts ({type(error).__name__}: {str(error)[:200]})"
    finally:
        model.train(training)
        model.set_attn_implementation(implementation)
    return None if off <= GRADIENT_TOLERANCE else f"packed, gradients come out otherwise than alone (by {off:.2g})"


def _gradient(model: PreTrainedModel, ids_BT: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient of a fixed weighted sum of hidden states with respect to the embedded tokens."""
    with torch.enable_grad(), _leaves(model.get_input_embeddings()) as embedded:
        hidden_BTH = read(ids_BT)
        weights_H = torch.arange(1, hidden_BTH.shape[-1] + 1, device=hidden_BTH.device).sin()
        return torch.autograd.grad((hidden_BTH * weights_H).sum(), embedded[0])[0].detach()


@contextmanager
def _leaves(embeddings: nn.Module) -> Iterator[list[Tensor]]:
    """Make what the embeddings give out a leaf of its own and collect it, so that frozen weights do no harm."""
    found: list[Tensor] = []

    def collect(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        found.append(output.detach().requires_grad_())
        return found[-1]

    handle = embeddings.register_forward_hook(collect)
    try:
        yield found
    finally:
        handle.remove()


def _heads(model: PreTrainedModel) -> tuple[int, int, int]:
    """Return how many query heads and key heads the model has, and their size."""
    config = model.config.get_text_config()
    queries = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or queries
    return queries, keys, getattr(config, "head_dim", None) or config.hidden_size // queries
