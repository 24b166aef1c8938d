"""Keys of months-old shards must stay valid: defaults and versions are written down here.

If this fails you changed a default, a field's name or a schema. When only a *new option with a default* was added,
nothing here changes. Otherwise raise the stage's version in storage/schemas.py, then write the new values down: every
shard of that stage will be made again, and users should read so in the CHANGELOG.
"""

import hashlib
from typing import Any

import pytest

from logitfuse.storage.keys import canonical_json, result_key
from logitfuse.storage.schemas import schema_version
from logitfuse.storage.settings import Settings
from logitfuse.tasks.align import AlignSettings
from logitfuse.tasks.capture import CaptureSettings
from logitfuse.tasks.check import CheckSettings
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.evaluate import EvaluateSettings
from logitfuse.tasks.fuse import FuseSettings
from logitfuse.tasks.training.settings import TrainSettings
from logitfuse.tasks.vocabulary_map import MapSettings

# stage → settings, the fields that had meaning when the key was written down, version, digest of their defaults, key
GOLDEN: list[tuple[str, type[Settings], list[str], int, str, str]] = [
    (
        "prepare",
        CorpusSettings,
        [
            "documents_per_shard",
            "domain_column",
            "format",
            "held_out_documents",
            "held_out_share",
            "id_column",
            "max_chunk_bytes",
            "max_documents",
            "near_duplicate_overlap",
            "revision",
            "seed",
            "source",
            "subset",
            "test_split",
            "text_column",
            "train_split",
            "validation_split",
        ],
        1,
        "069635f57826",
        "2f2647ca19fc911218f3",
    ),
    ("check", CheckSettings, ["nats_per_byte", "unknown_ends"], 1, "1f5b89964ad3", "a1d511837c22641cc932"),
    (
        "capture",
        CaptureSettings,
        ["head_positions", "k", "tokens_per_batch", "window_chunks"],
        1,
        "3024ba7b9ed7",
        "e094af1f499ffcbee1f8",
    ),
    ("map", MapSettings, ["options", "strategy"], 1, "5c328c240510", "ce6f31c5b344622b2fa7"),
    ("align", AlignSettings, ["strategy"], 1, "9be7353d5797", "2bf6ed44108a1f4a6d90"),
    ("fuse", FuseSettings, ["options", "rule"], 1, "6ea35e97e50d", "5f8ee56fd01dc506b9d8"),
    (
        "train",
        TrainSettings,
        [
            "betas",
            "clm_weight",
            "control",
            "dtype",
            "epochs",
            "gradient_checkpointing",
            "learning_rate",
            "loss_chunk",
            "max_grad_norm",
            "max_steps",
            "micro_batch_tokens",
            "residual",
            "schedule",
            "seed",
            "sequence_length",
            "sequences_per_step",
            "shuffle_rows",
            "tokens_per_step",
            "warmup_ratio",
            "weight_decay",
        ],
        1,
        "87cdd29ebcaa",
        "af306504fce65262b03d",
    ),
    (
        "evaluate",
        EvaluateSettings,
        ["head_positions", "split", "tokens_per_batch"],
        1,
        "61ffdad970f5",
        "9ea5bf4710abe0abfdfe",
    ),
]


def digest(settings: type[Settings], fields: list[str]) -> str:
    """Digest of the defaults of these fields; fields that came later do not count."""
    values: dict[str, Any] = settings().model_dump(mode="json", include=set(fields))
    return hashlib.sha256(canonical_json(values)).hexdigest()[:12]


@pytest.mark.parametrize(
    ("stage", "settings", "fields", "version", "defaults", "key"), GOLDEN, ids=lambda v: str(v)[:20]
)
def test_keys_are_the_ones_that_stand_on_disks(
    stage: str, settings: type[Settings], fields: list[str], version: int, defaults: str, key: str
) -> None:
    assert digest(settings, fields) == defaults, f"a default of stage {stage} changed: raise its version"
    assert schema_version(stage) == version, "the version was raised: write the new version and key down here"
    assert result_key(stage, settings(), ["sha256:a", "sha256:b"], {"model": "m"}) == key


def test_every_stage_with_settings_is_written_down() -> None:
    assert [row[0] for row in GOLDEN] == [
        "prepare", "check", "capture", "map", "align", "fuse", "train", "evaluate",
    ]  # fmt: skip
