"""What forms wrap is unwrapped, and deploying again leaves what users have set."""

from typing import Any

import pytest
from prefect.exceptions import ObjectNotFound

from logitfuse.flows.form import checked_recipe
from logitfuse.flows.form_values import plain_values
from logitfuse.flows.kept_deployments import as_users_left_them
from logitfuse.storage.errors import BadInput


def wrapped(text: str, kind: str = "json") -> dict[str, str]:
    return {"__prefect_kind": kind, "value": text}


def test_a_schedule_s_recipe_is_read_as_the_form_wrote_it() -> None:
    given = {"name": "nightly", "fuse": {"source_weights": wrapped('{"a": 2}'), "options": wrapped("{}")}}
    given["sources"] = [{"model": "package:gemma3-270m", "name": "a"}]  # type: ignore[assignment]
    recipe = checked_recipe(given)
    assert recipe.fuse.source_weights == {"a": 2.0} and recipe.fuse.options == {}
    assert recipe == checked_recipe(recipe)


@pytest.mark.parametrize("bad", [wrapped("{"), wrapped("x", "jinja")], ids=str)
def test_what_is_no_json_is_refused_by_the_field_s_name(bad: dict[str, str]) -> None:
    with pytest.raises(BadInput, match=r"recipe\.fuse\.sources\.1: "):
        plain_values({"fuse": {"sources": [1, bad]}})


class Client:
    """A server that has one deployment."""

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        self.name, self.parameters = name, parameters

    def read_deployment_by_name(self, name: str) -> "Client":
        if name != f"{self.name}/{self.name}":
            raise ObjectNotFound(Exception(name))
        return self


@pytest.mark.parametrize(
    ("users", "kept"),
    [
        ({"recipe": {"name": "mine", "fuse": {"options": wrapped("{}")}}}, {"name": "mine", "fuse": {"options": {}}}),
        ({"recipe": {"was_once": 1}}, {"name": "default"}),
        ({}, {"name": "default"}),
    ],
    ids=["the user's", "no longer understood", "none"],
)
def test_deploying_again_leaves_schedules_and_parameters(users: dict[str, Any], kept: dict[str, Any]) -> None:
    nightly = {"name": "rebuild-fused", "parameters": {"recipe": {"name": "default"}}, "schedules": [{"cron": "0 3"}]}
    other = {"name": "other", "schedules": [{"cron": "0 4"}]}
    left = as_users_left_them(Client("rebuild-fused", users), [nightly, other])  # type: ignore[arg-type]
    assert left == [{"name": "rebuild-fused", "parameters": {"recipe": kept}}, other]
