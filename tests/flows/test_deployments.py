"""prefect.yaml: every deployment loads, and its form has titles, defaults and drop-downs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from logitfuse.flows.stages import STAGE_FLOWS

ROOT = Path(__file__).resolve().parents[2]
CONTENT = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in CONTENT["deployments"]}


def schema_of(name: str) -> dict[str, Any]:
    return parameter_schema(load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"])).model_dump()


def test_there_is_a_deployment_for_the_pipeline_each_stage_and_the_rebuild() -> None:
    assert list(DEPLOYMENTS) == ["pipeline", *STAGE_FLOWS, "rebuild-fused"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_deployments_load_installed_code_and_check_their_parameters(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert isinstance(flow, Flow) and flow.name == name
    assert ":" not in deployment["entrypoint"], "a path entrypoint would copy the folder and load modules twice"
    assert CONTENT["pull"] == [] and deployment["enforce_parameter_schema"] is True
    pool = deployment["work_pool"]
    assert pool["name"] == "logitfuse" and pool["work_queue_name"] in ("orchestrate", "data", "capture", "train")
    assert pool["job_variables"]["stream_output"] is False


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_forms_have_titles_descriptions_and_defaults(name: str) -> None:
    schema = schema_of(name)
    assert schema["required"] == ["recipe"]
    for parameter, field in schema["properties"].items():
        assert field.get("description"), parameter
        assert parameter == "recipe" or "default" in field, parameter
    for model, definition in schema["definitions"].items():
        required = set(definition.get("required", ()))
        for field_name, field in definition["properties"].items():
            box = schema["definitions"].get(field.get("$ref", "").rpartition("/")[2], {})
            assert field.get("title") or box.get("title"), f"{model}.{field_name} has no title"
            assert field_name in required or "default" in field, f"{model}.{field_name}: its default is not in the form"


def test_choices_are_drop_downs() -> None:
    schema = schema_of("pipeline")
    assert schema["properties"]["start_at"]["enum"] == list(STAGE_FLOWS)
    fields = {name: definition["properties"] for name, definition in schema["definitions"].items()}
    assert {"offsets"} <= set(fields["AlignSettings"]["strategy"]["enum"])
    assert {"min_ce", "avg_ce"} <= set(fields["FuseSettings"]["rule"]["enum"])
    assert fields["Execution"]["device"]["enum"] == ["auto", "cpu", "cuda"]


def test_the_nightly_schedule_is_there_but_asleep() -> None:
    (schedule,) = DEPLOYMENTS["rebuild-fused"]["schedules"]
    assert schedule["cron"] == "0 3 * * *" and schedule["active"] is False
