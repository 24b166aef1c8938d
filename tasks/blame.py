"""Why a unit failed: records are not signed, so what it reads may be none of what a stage of this program writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from logitfuse.storage.errors import LogitfuseError, ShardCorrupt
from logitfuse.tasks.unit import Unit

if TYPE_CHECKING:
    from logitfuse.tasks.run import Run

# What arrays and lists that do not fit together bring about; no error of the system, of memory or of a device.
UNFORESEEN = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, pa.ArrowException)


@contextmanager
def blaming(run: Run, unit: Unit) -> Iterator[None]:
    """Raise `ShardCorrupt` where the block, which makes `unit`, fails in a way nobody foresaw, and `verify` knows why.

    What the unit reads is then verified; where no fault is found in it, the error stays what it was: a defect.
    """
    try:
        yield
    except LogitfuseError:
        raise
    except UNFORESEEN as error:
        from logitfuse.tasks.verify.verifier import first_fault  # late: it knows all stages

        if fault := first_fault(run, unit):
            raise ShardCorrupt(f"{unit} cannot be made of what it reads ({type(error).__name__}). {fault}") from error
        raise
