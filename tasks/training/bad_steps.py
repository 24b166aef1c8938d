"""Steps that must not change the model: a loss or gradient that is no number, or a loss far above the usual.

What is bad is decided by all processes together. Which losses were usual, and how many steps were left out, is state:
it stands in each checkpoint's state.json, so that a resumed run decides as the undisturbed one would.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from logitfuse.storage.errors import WorkFailed
from logitfuse.tasks.training.report import NAMED_DOCUMENTS, bad_step_message
from logitfuse.tasks.training.settings import TrainSettings

MOST_IN_A_ROW = 10
STATE = "bad_steps"  # its name in state.json

Found = Sequence[tuple[tuple[str, ...], Tensor]]  # documents of each batch, and the five parts of its loss


class BadSteps:
    """Tells bad steps from good ones and says what is to be done with them; every process has one."""

    def __init__(self, settings: TrainSettings, accelerator: Accelerator, say: Callable[[str], None]) -> None:
        self._settings, self._accelerator, self._say = settings, accelerator, say
        self._usual: deque[float] = deque(maxlen=settings.spike_window)
        self.skipped = 0  # steps that were left out so far
        self._in_a_row = 0

    def judge(self, loss: float, grad_norm: float) -> str:
        """Say what is wrong with a step, an empty string if nothing; take note of its loss."""
        wrong = self._wrong(loss, grad_norm)
        if math.isfinite(loss):
            self._usual.append(loss)  # a spike's too: what comes again and again is no spike
        if self._any(bool(wrong)):
            return wrong or "another process found it bad"
        self._in_a_row = 0
        return ""

    def _wrong(self, loss: float, grad_norm: float) -> str:
        if not math.isfinite(loss):
            return "the loss is not a finite number"
        if not math.isfinite(grad_norm):
            return "the gradient is not a finite number"
        factor = self._settings.spike_factor
        if factor is not None and len(self._usual) == self._usual.maxlen and loss > factor * median(self._usual):
            return f"the loss {loss:.4f} is more than {factor:g} times {median(self._usual):.4f}, the usual one"
        return ""

    def leave_out(
        self, step: int, wrong: str, found: Found, model: nn.Module, save: Callable[[], Path | None]
    ) -> dict[str, Any]:
        """Count a step as left out and return what its line of metrics says of it.

        Raises `WorkFailed` where the settings say stop, too many were bad in a row, or the weights themselves are no
        numbers. The state before the step is saved first by `save`, which returns where.
        """
        documents = gather_object(suspects(found))
        broken = self._any(not finite_weights(model))
        too_many = self._in_a_row + 1 > MOST_IN_A_ROW
        if broken or too_many or self._settings.on_bad_step == "stop":
            saved = None if broken else save()
            raise WorkFailed(bad_step_message(step, wrong, documents, saved, broken=broken, in_a_row=self._in_a_row))
        self.skipped += 1
        self._in_a_row += 1
        self._say(f"step {step + 1} is left out: {wrong} (documents: {', '.join(documents[:NAMED_DOCUMENTS])})")
        return {"skipped": wrong, "documents": documents[:NAMED_DOCUMENTS]}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold; JSON gives every float back to the bit."""
        return {"usual": list(self._usual), "skipped": self.skipped, "in_a_row": self._in_a_row}

    def restore(self, checkpoint: Path, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Go on as after `step` steps, from a checkpoint's state.json; AdamW counts only the steps it took."""
        state = json.loads(checkpoint.read_text()).get(STATE, {})
        self._usual.extend(state.get("usual", []))
        self.skipped, self._in_a_row = state.get("skipped", 0), state.get("in_a_row", 0)
        if self.skipped:
            for moments in optimizer.state.values():
                moments["step"].fill_(float(step - self.skipped))

    def _any(self, here: bool) -> bool:
        """Whether it is so in any process; all of them ask at once."""
        if self._accelerator.num_processes == 1:
            return here
        asked = torch.tensor([float(here)], device=self._accelerator.device)
        return bool(self._accelerator.reduce(asked, "sum").item() > 0)


def suspects(found: Found) -> list[str]:
    """Return the documents of the batches whose loss is no number, else all, the highest loss a position first."""
    bad = [name for documents, parts_5 in found if not parts_5.isfinite().all() for name in documents]
    if bad:
        return list(dict.fromkeys(bad))
    known = sorted(found, key=lambda batch: -float(batch[1][1] / batch[1][3].clamp(min=1)))
    return list(dict.fromkeys(name for documents, _ in known for name in documents))


def finite_weights(model: nn.Module) -> bool:
    """Whether all weights, or this process's parts of them, are numbers."""
    parts = (p.to_local() if isinstance(p, DTensor) else p for p in model.parameters())
    return all(bool(torch.isfinite(part).all()) for part in parts)
