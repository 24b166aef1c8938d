"""Keys of months-old shards must stay valid: defaults and versions are written down here.

If this fails you changed a default, a field's name or a schema. When only a *new option with a default* was added,
nothing here changes. Otherwise raise the stage's version in storage/schemas.py, then write the new values down: every
shard of that stage will be made again, and users should read so in the CHANGELOG.
"""

import hashlib
import inspect
from typing import Any

import pytest

from logitfuse.kernels.alignment import ALIGNMENTS
from logitfuse.kernels.fusion import FUSIONS
from logitfuse.kernels.losses.divergences import DIVERGENCES
from logitfuse.kernels.losses.residuals import RESIDUALS
from logitfuse.kernels.merging import MERGES
from logitfuse.kernels.registry import Registry
from logitfuse.kernels.vocabulary_map import VOCABULARY_MAPS
from logitfuse.storage.keys import canonical_json, result_key
from logitfuse.storage.schemas import schema_version
from logitfuse.storage.settings import Settings
from logitfuse.tasks.align_settings import AlignSettings, key_settings
from logitfuse.tasks.capture_settings import CaptureSettings
from logitfuse.tasks.check import CheckSettings
from logitfuse.tasks.corpus.settings import CorpusSettings
from logitfuse.tasks.encode import EncodeSettings
from logitfuse.tasks.evaluate import EvaluateSettings
from logitfuse.tasks.fuse_settings import FuseSettings
from logitfuse.tasks.merge_settings import MergeSettings
from logitfuse.tasks.suites_settings import SuiteSettings
from logitfuse.tasks.training.adapt_settings import AdaptSettings
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
            "published_split",
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
        "c8146c954551",
        "2f2647ca19fc911218f3",
    ),
    ("encode", EncodeSettings, ["special_tokens"], 2, "804c34d6a0f2", "dc06b2be762b626be47c"),
    ("check", CheckSettings, ["nats_per_byte", "unknown_ends"], 2, "1f5b89964ad3", "df2ed89fdc26f61f9674"),
    (
        "adapt",
        AdaptSettings,
        [
            "attention",
            "batching",
            "betas",
            "documents",
            "dtype",
            "epochs",
            "freeze_embeddings",
            "gradient_checkpointing",
            "learning_rate",
            "lora",
            "loss_backend",
            "loss_chunk",
            "max_grad_norm",
            "max_steps",
            "micro_batch_tokens",
            "on_bad_step",
            "schedule",
            "seed",
            "sequence_length",
            "sequences_per_step",
            "shuffle_rows",
            "spike_factor",
            "spike_window",
            "tokens_per_step",
            "warmup_ratio",
            "weight_decay",
        ],
        1,
        "b38b6bc4aa13",
        "6e5463da8e44ed2b4636",
    ),
    (
        "capture",
        CaptureSettings,
        [
            "batching",
            "codec",
            "draws",
            "head_positions",
            "k",
            "max_length",
            "mode",
            "past_end",
            "raw_logits",
            "seed",
            "temperature",
            "tokens_per_batch",
            "top_p",
            "window_chunks",
        ],
        3,
        "284fa953d790",
        "1b2ad771dd75563e4f5f",
    ),
    ("map", MapSettings, ["options", "strategy"], 3, "0ab8d3b585ca", "adb0ec7428304cbcdd52"),
    (
        "align",
        AlignSettings,
        [
            "collision",
            "condition_on_target",
            "fallback",
            "min_probability",
            "options",
            "strategy",
            "values",
        ],
        2,
        "d4b2ccf2d8de",
        "b0857dff5e4a9b9228c2",
    ),
    (
        "fuse",
        FuseSettings,
        ["block_tokens", "granularity", "options", "rule", "score", "source_weights", "temperature"],
        2,
        "b3416204304b",
        "070163de31b0c4f3bde4",
    ),
    (
        "train",
        TrainSettings,
        [
            "betas",
            "clm_weight",
            "clm_weight_schedule",
            "control",
            "divergence",
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
            "weighting",
        ],
        2,
        "5efc25b7968a",
        "a9689275757f7f15863e",
    ),
    ("merge", MergeSettings, ["method", "options"], 1, "93657586c8ca", "b4be82796c7b53b3c494"),
    (
        "evaluate",
        EvaluateSettings,
        ["head_positions", "split", "tokens_per_batch"],
        1,
        "61ffdad970f5",
        "9ea5bf4710abe0abfdfe",
    ),
    (
        "suites",
        SuiteSettings,
        [
            "batch_size",
            "execute_generated_code",
            "fewshot",
            "include_path",
            "limit",
            "max_new_tokens",
            "names",
            "program_memory_mb",
            "program_seconds",
            "seed",
            "tasks",
        ],
        1,
        "f2cc627ed14f",
        "2b687568f845696a1f41",
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
        "prepare", "encode", "check", "adapt", "capture", "map", "align", "fuse", "train", "merge", "evaluate",
        "suites",
    ]  # fmt: skip


def align_key(include_target: bool = True, **settings: Any) -> AlignSettings:
    return key_settings(AlignSettings(**settings), include_target)


def defaults_of(registry: Registry[Any], name: str) -> dict[str, Any]:
    parameters = inspect.signature(registry.get(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def test_defaults_of_strategies_are_written_down() -> None:
    """Options at their defaults are in no key: a default that changes must raise its stage's version too."""
    found = {
        registry.kind: {name: options for name in registry.names() if (options := defaults_of(registry, name))}
        for registry in (VOCABULARY_MAPS, ALIGNMENTS, FUSIONS, RESIDUALS, DIVERGENCES, MERGES)
    }
    assert found == {
        "vocabulary map": {
            "learned": {"max_tokens": 4_000_000, "prior": 1.0, "prune": 0.0001},
            "published": {"nearest": True},
        },
        "alignment": {"dtw": {"first_marker": "auto"}},
        "fusion rule": {
            "avg_ce": {"precision": "full"},
            "bayes": {"switch": 0.001},
            "min_ce": {"precision": "full"},
            "weighted": {"temperature": 0.1},
        },
        "residual rule": {},
        "divergence": {"jsd": {"mixing": 0.5}, "reverse_kl": {"floor": 1e-6}},
        "merging method": {
            "dare": {"drop": 0.5, "scale": 1.0, "seed": 0},
            "sce": {"select": 0.1},
            "ties": {"density": 0.2, "scale": 1.0},
        },
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (MapSettings(), MapSettings(options={"prior": 1})),
        (MapSettings(options={"max_tokens": 9}), MapSettings(options={"max_tokens": "9"})),
        (align_key(), align_key(condition_on_target="always")),
        (align_key(include_target=False), align_key(include_target=False, condition_on_target="never")),
        (align_key(strategy="dtw"), align_key(strategy="dtw", options={"first_marker": "auto"})),
        (
            align_key(values="logits", collision="first"),
            align_key(values="logits", collision="first", min_probability=0.1, condition_on_target="never"),
        ),
    ],
)
def test_two_spellings_of_one_thing_are_one_key(one: Settings, other: Settings) -> None:
    assert result_key("align", one, []) == result_key("align", other, [])


def test_what_changes_bytes_changes_the_key() -> None:
    changed = [{"condition_on_target": "never"}, {"min_probability": 0.0}, {"collision": "first"}, {"strategy": "dtw"}]
    keys = {result_key("align", align_key(**change), []) for change in [{}, *changed]}
    assert len(keys) == 1 + len(changed)
