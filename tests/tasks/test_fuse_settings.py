"""What stage fuse refuses, and that its settings survive as keys."""

import math

import pytest
from pydantic import ValidationError

from logitfuse.storage.errors import BadInput
from logitfuse.storage.keys import result_key
from logitfuse.tasks.fuse_settings import FuseSettings, check_inputs, check_weights, key_settings
from logitfuse.tasks.recipe import parse_recipe

LABELS = ("small", "big")
TOKENS: dict[str, int | None] = {"start": None, "end": 2}


def test_an_unknown_source_is_refused_with_the_closest_name() -> None:
    with pytest.raises(BadInput, match=r"no source is called 'bgi'\. Did you mean 'big'"):
        check_weights(FuseSettings(source_weights={"bgi": 2.0}), LABELS)
    with pytest.raises(BadInput, match="every source has weight 0"):
        check_weights(FuseSettings(source_weights={"small": 0.0, "big": 0.0}), LABELS)
    check_weights(FuseSettings(source_weights={"small": 0.0, "big": 2.0}), LABELS)
    check_weights(FuseSettings(source_weights={"small": 0.0}), LABELS)


def test_blocks_need_a_prediction_after_every_token() -> None:
    block = FuseSettings(granularity="block")
    with pytest.raises(BadInput, match=r"capture\.past_end"):
        check_inputs(block, past_end=False, logits=False, **TOKENS)
    for start, end in ((1, 2), (None, None)):
        with pytest.raises(BadInput, match=r"target\.start to none and target\.end"):
            check_inputs(block, past_end=True, logits=False, start=start, end=end)
    check_inputs(block, past_end=True, logits=False, **TOKENS)
    check_inputs(FuseSettings(), past_end=False, logits=False, start=1, end=None)


def test_a_temperature_needs_logits() -> None:
    with pytest.raises(BadInput, match=r"align\.values"):
        check_inputs(FuseSettings(temperature=2.0), past_end=False, logits=False, **TOKENS)
    check_inputs(FuseSettings(temperature=2.0), past_end=False, logits=True, **TOKENS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "min"}, "Did you mean 'min_ce'"),
        ({"rule": "min_ce", "options": {"precison": "bf16"}}, "Did you mean 'precision'"),
        ({"rule": "min_ce", "options": {"precision": "fp8"}}, "'full' or 'bf16'"),
        ({"rule": "bayes", "options": {"switch": 2}}, "less than or equal to 1"),
        ({"rule": "weighted", "options": {"temperature": -1}}, "greater than or equal to 0"),
        ({"source_weights": {"a": -1}}, "at least 0"),
        ({"source_weights": {"a": math.inf}}, "at least 0"),
        ({"temperature": 0}, "greater than 0"),
        ({"block_tokens": 1}, "greater than or equal to 2"),
        ({"granularity": "chunk", "score": "nats_per_token"}, "identical bytes"),
        ({"granularity": "token"}, "'document', 'block' or 'chunk'"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FuseSettings(**settings)


def test_the_mean_has_a_key() -> None:
    """Infinity, however it is written, is no JSON number; it stands in keys by its name."""
    settings = FuseSettings(rule="weighted", options={"temperature": math.inf})
    assert settings.options == {"temperature": "inf"}
    assert result_key("fuse", settings, []) == result_key("fuse", FuseSettings(**settings.model_dump()), [])
    assert parse_recipe({"fuse": {"rule": "weighted", "options": {"temperature": "inf"}}}, "x").fuse == settings


def test_every_setting_has_a_title_a_description_and_a_literal_default() -> None:
    for name, field in FuseSettings.model_fields.items():
        assert field.title and field.description and field.default_factory is None, name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"options": {"temperature": 0.1}}),
        ({"options": {"temperature": 1}}, {"options": {"temperature": "1.0"}}),
        ({"options": {"temperature": math.inf}}, {"options": {"temperature": "Infinity"}}),
        ({}, {"block_tokens": 64}),
        ({}, {"source_weights": {"a": 1}}),
        ({"source_weights": {"a": 2, "b": 1.0}}, {"source_weights": {"a": 2.0}}),
    ],
)
def test_what_changes_no_byte_changes_no_key(one: dict, other: dict) -> None:
    keys = [result_key("fuse", key_settings(FuseSettings(**given)), []) for given in (one, other)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"options": {"temperature": 0.2}},
        {"granularity": "block", "block_tokens": 64},
        {"source_weights": {"a": 2}},
        {"rule": "min_ce"},
        {"temperature": 2.0},
        {"score": "nats_per_token"},
    ],
)
def test_what_changes_bytes_changes_the_key(settings: dict) -> None:
    assert result_key("fuse", key_settings(FuseSettings(**settings)), []) != result_key("fuse", FuseSettings(), [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fuse": {"min_advantage": 0.01}, "include_target": False}, "include_target to true"),
        ({"fuse": {"min_advantage": 0.01, "source_weights": {"gemma3-270m": 0}}}, "a source that counts"),
        ({"fuse": {"min_advantage": 0.01, "score": "nats_per_token"}}, "set score to nats_per_byte"),
        ({"fuse": {"min_advantage": float("inf")}}, "finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_recipe(change, "r.yaml")
