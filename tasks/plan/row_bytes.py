"""How many bytes a row of a plan writes, before anything was probed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfuse.tasks.arms import teachers_of
from logitfuse.tasks.plan import stored_bytes as typical
from logitfuse.tasks.plan.amounts import Amounts
from logitfuse.tasks.plan.estimates import Estimate, exact
from logitfuse.tasks.plan.row import Row
from logitfuse.tasks.plan.sizes import model_size

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

TOKENIZER_FILES = 8e6  # bytes beside a model's weights, at most


def row_bytes(run: Run, row: Row, amounts: Amounts) -> Estimate:
    """Estimate what a row writes, before anything was probed."""
    recipe, stage, source = run.recipe, row.stage, row.source
    files = float(row.units * typical.PER_FILE)
    if stage in ("prepare", "encode"):
        return row.amount.times(typical.TEXT[stage]).plus(files)
    if stage == "capture":
        return _product(row.amount, typical.captured(recipe, run.teachers[source or ""].head_width)).plus(files)
    if stage == "align":
        return _product(row.amount, typical.aligned(recipe)).plus(files)
    if stage == "fuse":
        return _product(row.amount, typical.fused(recipe, len(teachers_of(run, source)))).plus(files)
    if stage == "evaluate":
        return _product(row.amount, typical.EVALUATED)
    if stage == "map":
        tokenizer = run.tokenizers[source or ""]
        same = tokenizer.tokenizer_label == run.target.tokenizer_label
        return _product(exact(tokenizer.vocabulary.size), typical.MAPPED[same])
    if stage in ("train", "merge", "adapt"):
        model = run.given[source or ""] if stage == "adapt" else run.target
        return exact(model_size(model).stored + TOKENIZER_FILES)
    return exact(typical.PAGES.get(stage, 0))


def _product(amount: Estimate, each: float) -> Estimate:
    """Return an estimated amount times estimated bytes of each: the wider of both errors, as they are alone."""
    found = typical.around(amount.value * each)
    return Estimate(found.value, min(found.low, amount.low * each), max(found.high, amount.high * each))
