"""Two halves of the documents, the same for every stage: by a hash of the id, whatever the corpus's order or size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from logitfuse.tasks.training.settings import DocumentShare


def of_share(doc_ids: Sequence[str], share: DocumentShare) -> NDArray[np.bool_]:
    """Say which documents are of a share; `odd` and `even` have none in common and together are all."""
    if share == "all":
        return np.ones(len(doc_ids), np.bool_)
    return np.array([_is_odd(doc_id) == (share == "odd") for doc_id in doc_ids], np.bool_)


def _is_odd(doc_id: str) -> bool:
    return bool(hashlib.blake2b(doc_id.encode(), digest_size=8).digest()[-1] & 1)
