"""Flows that people start by a form: which parameters stand where, what they are called, how mistakes are told."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

import logitfuse.flows.prefect_settings  # noqa: F401

# isort: split
from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed
from pydantic import Field, ValidationError

from logitfuse.flows.field_titles import with_titles
from logitfuse.flows.form_values import plain_values
from logitfuse.flows.quiet_failures import tell_without_traceback
from logitfuse.flows.still_running import shown_as_running
from logitfuse.storage.errors import BadInput, LogitfuseError
from logitfuse.tasks.recipe import Recipe
from logitfuse.tasks.settings_errors import explain

P = ParamSpec("P")
RECIPE = (
    "Everything that defines the run: the fields of a recipe's YAML file, with their defaults. Most runs set Name, "
    "Target, Sources and Corpus, and leave the rest."
)
# What else the form is told of a parameter, beside its title and place.
EXTRA: dict[str, dict[str, Any]] = {
    "source": {"anyOf": [{"type": "string", "title": "One"}, {"type": "null", "title": "All"}]},
    "shards": {
        "anyOf": [
            {"type": "string", "pattern": r"^\d+(-\d+)?$", "title": "Some"},
            {"type": "null", "title": "All"},
        ]
    },
}


def with_form(name: str, titles: Mapping[str, str] | None = None) -> Callable[[Callable[P, str]], Flow[P, State[str]]]:
    """Return a decorator that makes a function the flow `name`; its deployment has a form.

    The recipe, which is long, comes last in it. `titles`: of parameters that are not called as Python calls them. The
    flow ends with the function's summary as its state's message, or with that of an error made for users.
    """

    def made(body: Callable[P, str]) -> Flow[P, State[str]]:
        # Prefect's own validation says in its words, not in ours, what is wrong with a recipe.
        decorated: Flow[P, State[str]] = flow(name=name, flow_run_name=run_name, validate_parameters=False)(
            _saying_how_it_ended(body)
        )
        # `prefect deploy` makes the form of this; calls go by the function's own.
        decorated.__signature__ = _form_of(body, titles or {})  # type: ignore[attr-defined]
        return decorated

    return made


def _form_of(body: Callable[..., Any], titles: Mapping[str, str]) -> inspect.Signature:
    """Return a function's signature with fields as defaults, in which a form finds titles and places."""
    signature = inspect.signature(body, eval_str=True)
    chosen = []
    for place, parameter in enumerate(signature.parameters.values()):
        title = titles.get(parameter.name, parameter.name.replace("_", " ").capitalize())
        extra = EXTRA.get(parameter.name, {}) | {"title": title, "position": place}
        if parameter.name == "recipe":
            field = Field(description=RECIPE, json_schema_extra=extra | {"position": len(signature.parameters)})
        else:
            field = Field(parameter.default, json_schema_extra=extra)
        chosen.append(parameter.replace(default=field))
    return signature.replace(parameters=chosen)


def run_name() -> str:
    """Name a run after what it does: capture-demo-gemma3-270m-0-9."""
    given = FlowRunContext.get()
    assert given is not None and given.flow is not None, "Prefect asks for the name inside the run"
    chosen = given.parameters or {}
    recipe = chosen.get("recipe")  # as it was sent, until it is looked at
    name = recipe.name if isinstance(recipe, Recipe) else recipe.get("name") if isinstance(recipe, dict) else None
    parts = given.flow.name, name, chosen.get("source"), chosen.get("shards")
    return "-".join(str(part) for part in parts if part)


def _saying_how_it_ended(body: Callable[P, str]) -> Callable[P, State[str]]:
    @functools.wraps(body)
    def flow_body(*args: P.args, **kwargs: P.kwargs) -> State[str]:
        try:
            given = inspect.signature(body).bind(*args, **kwargs)
            given.arguments["recipe"] = checked_recipe(given.arguments["recipe"])
            with shown_as_running():
                summary = body(*given.args, **given.kwargs)
        except LogitfuseError as error:  # returned, not raised: Prefect logs a traceback of what is raised
            message = with_titles(str(error), Recipe)
            tell_without_traceback(message)
            return Failed(message=message, data=error)
        return Completed(message=summary, data=summary)

    return flow_body


def checked_recipe(given: Any) -> Recipe:
    """Return what a form, the API or Python gave as a recipe; raise `BadInput` that names every wrong field."""
    if isinstance(given, Recipe):
        return given
    try:
        return Recipe.model_validate(plain_values(given))
    except ValidationError as error:
        raise BadInput(explain(error, Recipe)) from None
