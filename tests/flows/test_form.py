"""What a person finds in the form of a deployment, and how mistakes are told that only a run finds."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from logitfuse.flows.field_titles import with_titles
from logitfuse.flows.form import checked_recipe
from logitfuse.storage.errors import BadInput, ModelRefused
from logitfuse.tasks.checks import check_run
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.run import Run

CONTENT = yaml.safe_load((Path(__file__).resolve().parents[2] / "prefect.yaml").read_text())
ENTRYPOINTS = {deployment["name"]: deployment["entrypoint"] for deployment in CONTENT["deployments"]}
DRAWN = {"string", "integer", "number", "boolean", "array", "object"}


@pytest.fixture(scope="module")
def schemas() -> dict[str, dict[str, Any]]:
    found = {name: parameter_schema(load_flow_from_entrypoint(entry)) for name, entry in ENTRYPOINTS.items()}
    return {name: schema.model_dump() for name, schema in found.items()}


@pytest.fixture(params=ENTRYPOINTS)
def schema(request: pytest.FixtureRequest, schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return schemas[request.param]


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield the path of every field, what stands there, and the same with what it refers to."""
    for owner, box in {"": schema, **schema["definitions"]}.items():
        for name, field in box["properties"].items():
            referred = schema["definitions"].get(field.get("$ref", "").rpartition("/")[2], {})
            yield f"{owner}.{name}", field, referred | field


def test_every_field_has_a_title_a_description_and_a_default(schema: dict[str, Any]) -> None:
    for path, field, whole in fields(schema):
        assert whole.get("title", "")[:1].isupper() or whole["title"][:1] == "λ", path
        assert "_" not in whole["title"] and len(whole["title"]) < 40, path
        assert len(whole.get("description", "")) > 10, path
        assert "default" in field or path == ".recipe", path


def test_descriptions_survive_markdown_as_which_they_are_shown(schema: dict[str, Any]) -> None:
    for path, _, whole in fields(schema):
        plain = re.sub(r"`[^`]*`", "", whole["description"])
        assert "<" not in plain and "`" not in plain and "](" not in plain, path
        assert not re.search(r"(?<!\w)[*_]\w[^*_]*\w[*_](?!\w)", plain), f"{path} would be in italics"


def test_the_ui_can_draw_every_field(schema: dict[str, Any]) -> None:
    """One kind of field, or one and its being left empty: those are shown as two buttons with titles."""
    for path, field, whole in fields(schema):
        assert not {"allOf", "oneOf", "const"} & field.keys(), path
        if "anyOf" not in field:
            assert whole["type"] in DRAWN, path
            continue
        choice, empty = field["anyOf"]
        assert empty["type"] == "null" and empty["title"] in ("Empty", "All"), path
        assert "$ref" in choice or (choice["type"] in DRAWN and choice["title"]), path


def test_fields_stand_in_their_order_on_any_database(schema: dict[str, Any]) -> None:
    """PostgreSQL keeps objects by the length of their names: the order is what `position` says."""
    for owner in schema["definitions"].values():
        places = [field["position"] for field in owner["properties"].values()]
        assert places == list(range(len(places)))
    places = {name: field["position"] for name, field in schema["properties"].items()}
    assert len(set(places.values())) == len(places) and max(places, key=lambda name: places[name]) == "recipe"
    assert list(schema["definitions"]["Recipe"]["properties"])[:5] == [
        "name", "target", "sources", "include_target", "corpus",
    ]  # fmt: skip


def test_a_default_is_accepted_where_it_stands(schema: dict[str, Any]) -> None:
    """So a form can be sent as it opens, and with what is necessary alone."""
    filled = {name: field["default"] for name, field in schema["properties"].items() if "default" in field}
    boxes = {name: field["default"] for name, field in schema["definitions"]["Recipe"]["properties"].items()}
    for recipe in ({}, {"name": "mine"}, boxes):
        assert validate(copy.deepcopy(filled) | {"recipe": recipe}, schema) == []
    assert checked_recipe(boxes) == Recipe()


def test_closed_choices_are_drop_downs(schemas: dict[str, dict[str, Any]]) -> None:
    found = {path: field for path, field, _ in fields(schemas["pipeline"])}
    for path in (
        ".start_at", ".stop_after", "FuseSettings.rule", "AlignSettings.strategy", "MapSettings.strategy",
        "MergeSettings.method", "TrainSettings.divergence", "TrainSettings.residual", "Execution.device",
        "CorpusSettings.format", "EvaluateSettings.split", "CaptureSettings.mode",
    ):  # fmt: skip
        assert len(found[path]["enum"]) > 1 and found[path]["default"] in found[path]["enum"], path
    assert '`{"temperature": 0.1}`' in found["FuseSettings.options"]["description"]
    assert found["Recipe.map"]["title"] == "Vocabulary map"
    assert schemas["train"]["properties"]["source"]["title"] == "Arm"


@pytest.mark.parametrize(
    ("deployment", "parameters", "field"),
    [
        ("pipeline", {"recipe": {"capture": {"k": 0}}}, "recipe.capture.k"),
        ("pipeline", {"recipe": {"train": {"clm_weight": 2}}}, "recipe.train.clm_weight"),
        ("pipeline", {"recipe": {"train": {"epochs": "one"}}}, "recipe.train.epochs"),
        ("pipeline", {"recipe": {"corpus": "package:demo"}}, "recipe.corpus"),
        ("pipeline", {"recipe": {"fuse": {"rule": "min-ce"}}}, "recipe.fuse.rule"),
        ("pipeline", {"recipe": {"suites": {"limit": -1}}}, "recipe.suites.limit"),
        ("pipeline", {"recipe": {"name": "my run"}}, "recipe.name"),
        ("pipeline", {"recipe": {"target": {"name": "../up"}}}, "recipe.target.name"),
        ("pipeline", {"recipe": {}, "start_at": "prepair"}, "start_at"),
        ("capture", {"recipe": {}, "shards": "first"}, "shards"),
    ],
)
def test_the_form_refuses_beside_the_field(
    schemas: dict[str, dict[str, Any]], deployment: str, parameters: dict[str, Any], field: str
) -> None:
    found = validate(parameters, schemas[deployment])
    best = jsonschema.exceptions.best_match(found)
    assert best is not None and best.json_path.startswith(f"$.{field}")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sources": [{"model": "a/b", "name": "x"}, {"model": "c/d", "name": "x"}]}, "sources: two models are"),
        ({"sources": [], "include_target": False}, "sources: there is none"),
        ({"align": {"values": "logits"}}, "align.collision (Align → Two tokens on one): raw logits"),
        ({"fuse": {"options": {"temprature": 2}}}, "fuse.options (Fuse → Options of the rule): fusion rule 'weighted'"),
        ({"fuse": {"source_weights": {"gema": 2}}}, "fuse.source_weights (Fuse → Weights of sources): no source is"),
        ({"train": {"clm_weight": 2}}, "train.clm_weight (Train → Weight of the labels (λ)): Input should be less"),
        ({"sources": [{"name": "a b"}]}, "sources.0.name (Sources 1 → Short name): 'a b' becomes a folder's name"),
        ({"train": {"lora": {"rank": 0}}}, "train.lora.rank: Input should be greater"),
    ],
    ids=str,
)
def test_what_only_a_run_finds_names_the_field_as_yaml_and_as_the_form_do(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as refusal:
        checked_recipe(given)
    assert with_titles(str(refusal.value), Recipe).startswith(words)


def test_what_the_machine_lacks_names_the_field(tmp_path: Path) -> None:
    here = {"folder": str(tmp_path), "min_free_gb": 0}
    wanting = {"target": {"model": "/no/model"}, "corpus": {"source": str(tmp_path / "none.jsonl")}, "execution": here}
    with pytest.raises(BadInput, match=r"^corpus: there is no file or folder .*Check source"):
        check_run(Run(checked_recipe(wanting)))
    (tmp_path / "none.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ModelRefused) as refusal:
        check_run(Run(checked_recipe(wanting)))
    assert with_titles(str(refusal.value), Recipe).startswith(
        "target.model: model '/no/model': there is no such folder"
    )


def test_a_message_about_no_field_stays_as_it_is() -> None:
    for message in ("no such: thing", "Disk: full", "run folder x: it is a file", "model: a model", "fuse.rul: what"):
        assert with_titles(message, Recipe) == message
