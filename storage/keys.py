"""Keys: the name under which a result is found again, made from all that can change its bytes."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from logitfuse.storage.schemas import schema_version
from logitfuse.storage.settings import Settings, changed_settings

KEY_HEX_DIGITS = 20  # 80 bits: collisions are out of question, file names stay readable


def canonical_json(value: Any) -> bytes:
    """Return the one JSON form of a value: sorted names, no spaces, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def result_key(
    stage: str,
    settings: Settings | None,
    inputs: Iterable[str],
    fingerprints: Mapping[str, Any] | None = None,
) -> str:
    """Return the key of one result.

    `settings` count only where they differ from their defaults, so a new option leaves old results valid.
    `inputs` are the checksums of the shards that are read, in order; `fingerprints` name models and tokenizers.
    """
    content = {
        "stage": stage,
        "schema": schema_version(stage),
        "settings": changed_settings(settings) if settings is not None else {},
        "inputs": list(inputs),
        "fingerprints": dict(fingerprints or {}),
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()[:KEY_HEX_DIGITS]
