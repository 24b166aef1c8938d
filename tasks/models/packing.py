"""Several texts in one row, none of which sees another: attention is computed text by text, all else for the whole row.

transformers keeps packed texts apart by a mask over the whole row, which costs the square of the row's length; some
architectures take no such mask at all, or ignore where texts begin. So this registers an attention of its own: while
`packed(...)` is in force it cuts the row at the texts' borders, and what a text costs is what it costs alone. Whether
that gives an architecture the right results is never decided by its name: tasks/models/body.py tries it.

On a GPU with variable-length attention in torch the texts go through one kernel; where that fails, one after another.

What attention must know of the row is handed down in the mask's place and nowhere else: gradient checkpointing keeps
it with a layer's other arguments, so that a layer run again during the backward pass, maybe in another thread and
long after `packed(...)` has ended, reads the same texts.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "logitfuse_packed"
KERNEL_TOLERANCE = 0.02  # of a result's length, two kernels in 16 bits; a wrong one is off by tenths
_now = threading.local()  # .row: models hand no such argument down to where masks are made


@dataclass(frozen=True, eq=False)
class Row:
    """The row that is being read. No tuple: what wraps a layer must not look into it for tensors to cast or move."""

    lengths: list[int]  # of its texts
    one_kernel: bool  # for all of them
    masks: tuple[Tensor | None, ...] | None = None  # by text, where a layer's window is shorter than one of them

    @property
    def ends(self) -> list[int]:
        """Where its texts end, from 0."""
        return [0, *accumulate(self.lengths)]


class CannotPack(Exception):
    """The architecture asks something of attention that cannot be done text by text."""


@contextmanager
def packed(model: PreTrainedModel, lengths: Sequence[int], one_kernel: bool) -> Iterator[Tensor]:
    """Attend within texts of these lengths while the block runs; yields their positions [1, T], each from 0.

    `one_kernel`: all texts by torch's variable-length attention, where no layer has a window that they exceed.
    """
    before = model.config._attn_implementation
    if before != NAME:
        model.set_attn_implementation(NAME)
    _now.row = Row(list(lengths), one_kernel)
    try:
        yield torch.cat([torch.arange(length) for length in lengths])[None].to(model.device)
    finally:
        _now.row = None
        if before != NAME:
            model.set_attn_implementation(before)


def attend_by_text(model: PreTrainedModel) -> None:
    """Let a model read packed rows from now on; without `packed(...)` it reads as by torch's own attention.

    For training: the backward pass runs checkpointed layers again when `packed(...)` has ended.
    """
    model.set_attn_implementation(NAME)


def packed_mask(
    batch_size: int, q_length: int, kv_length: int, *, local_size: int | None = None, **rest: Any
) -> Row | Tensor | None:
    """Return the row in place of a mask; where a text is longer than a layer's window, with a mask of its own."""
    row: Row | None = getattr(_now, "row", None)
    if row is None:
        if torch._C._current_graph_task_id() != -1:  # a checkpointed layer runs again, and its row is gone
            raise CannotPack("its layers make their masks themselves")
        return sdpa_mask(batch_size, q_length, kv_length, local_size=local_size, **rest)
    if batch_size != 1 or q_length != kv_length or q_length != sum(row.lengths):
        raise CannotPack("the model reads something else than the one row it was given")
    if local_size is None or max(row.lengths) <= local_size:
        return row
    rest |= {"allow_is_causal_skip": False, "attention_mask": None}
    masks = tuple(
        None
        if stop - start <= local_size
        else sdpa_mask(
            1, stop - start, stop - start, **rest | {"q_offset": start, "kv_offset": start, "local_size": local_size}
        )
        for start, stop in pairwise(row.ends)
    )
    return Row(row.lengths, row.one_kernel, masks)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Row | Tensor | None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attend within each text; query, key and value are [1, heads, T, dim], the result [1, T, heads, dim]."""
    row = attention_mask
    if not isinstance(row, Row):
        if getattr(_now, "row", None) is not None:
            raise CannotPack("the model makes masks itself, or keeps them from its attention")
        return sdpa_attention_forward(module, query, key, value, row, **rest)
    _refuse(module, query, row, rest)
    if row.one_kernel and row.masks is None and not rest.get("dropout"):
        return _varlen(query, key, value, row, rest.get("scaling")), None
    rest["is_causal"] = True
    # Split, not sliced: the gradient of each slice would be as long as the row.
    queries, keys, values = (states.split(row.lengths, dim=2) for states in (query, key, value))
    masks = row.masks or (None,) * len(row.lengths)
    parts = [
        sdpa_attention_forward(module, q, k, v, mask, **rest)[0]
        for q, k, v, mask in zip(queries, keys, values, masks, strict=True)
    ]
    return torch.cat(parts, dim=1), None


def _refuse(module: torch.nn.Module, query: Tensor, row: Row, rest: dict[str, Any]) -> None:
    if query.shape[0] != 1 or query.shape[2] != sum(row.lengths):
        raise CannotPack("the model reads something else than the one row it was given")
    if not getattr(module, "is_causal", True):
        raise CannotPack("a layer sees what is to the right")
    for name in ("softcap", "s_aux", "position_bias"):
        if rest.get(name) is not None:
            raise CannotPack(f"its attention has {name}")


def _varlen(query: Tensor, key: Tensor, value: Tensor, row: Row, scale: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    device = query.device.type
    if torch.is_autocast_enabled(device):  # autocast does not know this kernel; rotated queries and keys are float32
        query, key, value = (states.to(torch.get_autocast_dtype(device)) for states in (query, key, value))
    starts = torch.tensor(row.ends, dtype=torch.int32, device=query.device)
    longest = max(row.lengths)
    found = varlen_attn(
        query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), starts, starts, longest, longest,
        scale=scale, window_size=(-1, 0), enable_gqa=key.shape[1] != query.shape[1],
    )  # fmt: skip
    assert isinstance(found, Tensor)
    return found[None]


def one_kernel_fails(heads: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> str | None:
    """Try variable-length attention and its gradients against texts one by one; return what is wrong with it, or None.

    heads: number of query heads, of key heads, and their size.
    """
    queries, keys, dim = heads
    row, generator = Row([12, 70, 1, 33], one_kernel=True), torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, number, sum(row.lengths), dim, generator=generator).to(device, dtype).requires_grad_()
        for number in (queries, keys, keys)
    )
    try:
        found_1THD = _varlen(query, key, value, row, None)
        wanted_1THD = _one_by_one(query, key, value, row)
        weights = torch.arange(found_1THD.numel(), device=device).view_as(found_1THD).sin().to(dtype)
        pairs = [(found_1THD, wanted_1THD)]
        pairs += zip(
            *(torch.autograd.grad((result * weights).sum(), (query, key, value)) for result in pairs[0]),
            strict=True,
        )
        off = max(float(((found - wanted).norm() / wanted.norm()).detach()) for found, wanted in pairs)
    except Exception as error:  # an old GPU, a dtype or size it does not know: texts are read one by one then
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None if off <= KERNEL_TOLERANCE else f"it is off by {off:.2g} from texts one by one"


def _one_by_one(query: Tensor, key: Tensor, value: Tensor, row: Row) -> Tensor:
    shared = key.shape[1] != query.shape[1]
    parts = [
        scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shared)
        for q, k, v in zip(*(states.split(row.lengths, dim=2) for states in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, packed_mask)
