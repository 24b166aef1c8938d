"""One Prefect flow per stage. Each checks the recipe first, then does what is missing and nothing else."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import logitfuse.flows.prefect_settings  # noqa: F401

# isort: split
from prefect import Flow, flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from logitfuse.flows.fan_out import run_stage
from logitfuse.flows.leader import leading
from logitfuse.flows.result_artifacts import publish_result
from logitfuse.flows.session import opened
from logitfuse.flows.still_running import shown_as_running
from logitfuse.storage.errors import LogitfuseError
from logitfuse.tasks.headroom import read_headroom
from logitfuse.tasks.recipe import Recipe

P = ParamSpec("P")


def saying_how_it_ended(body: Callable[P, str]) -> Callable[P, State[str]]:
    """Make a flow end with its summary as its state's message, or with the message of an error made for users."""

    @functools.wraps(body)
    def flow_body(*args: P.args, **kwargs: P.kwargs) -> State[str]:
        try:
            with shown_as_running():
                summary = body(*args, **kwargs)
        except LogitfuseError as error:  # returned, not raised: Prefect logs a traceback of what is raised
            return Failed(message=str(error), data=error)
        return Completed(message=summary, data=summary)

    return flow_body


def run_name() -> str:
    """Name a run after what it does: capture-demo-gemma3-270m-0-9."""
    given = FlowRunContext.get()
    assert given is not None and given.flow is not None, "Prefect asks for the name inside the run"
    chosen = given.parameters or {}
    recipe = chosen.get("recipe")  # as it was sent, where a run is ended before it is looked at
    name = recipe.name if isinstance(recipe, Recipe) else (recipe or {}).get("name")
    parts = given.flow.name, name, chosen.get("source"), chosen.get("shards")
    return "-".join(part for part in parts if part)


@flow(name="prepare", flow_run_name=run_name)
@saying_how_it_ended
def prepare_flow(recipe: Recipe, redo: bool = False) -> str:
    """Cut the corpus losslessly into chunks, in shards, with a clean held-out part.

    Args:
        recipe: Everything that defines the run.
        redo: Make again what is there already.
    """
    return run_stage("prepare", recipe, redo=redo)


@flow(name="encode", flow_run_name=run_name)
@saying_how_it_ended
def encode_flow(recipe: Recipe, source: str | None = None, shards: str | None = None, redo: bool = False) -> str:
    """Tokenise every shard with every model's tokenizer.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        shards: Only these shards: A-B, both included, or one number.
        redo: Make again what is there already.
    """
    return run_stage("encode", recipe, source, shards, redo)


@flow(name="check", flow_run_name=run_name)
@saying_how_it_ended
def check_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Check that every source model is sound and read as it was trained, before hours are spent on it.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        redo: Make again what is there already.
    """
    return run_stage("check", recipe, source, redo=redo)


@flow(name="adapt", flow_run_name=run_name)
@saying_how_it_ended
def adapt_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Continue models on the training text by plain language modelling, where the recipe says so, before they are used.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        redo: Make again what is there already.
    """
    return run_stage("adapt", leading(recipe), source, redo=redo)


@flow(name="capture", flow_run_name=run_name)
@saying_how_it_ended
def capture_flow(recipe: Recipe, source: str | None = None, shards: str | None = None, redo: bool = False) -> str:
    """Keep what every source model predicts at every position of the text, as top-k.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        shards: Only these shards: A-B, both included, or one number.
        redo: Make again what is there already.
    """
    return run_stage("capture", recipe, source, shards, redo)


@flow(name="map", flow_run_name=run_name)
@saying_how_it_ended
def map_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Map every source's vocabulary onto the target's.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        redo: Make again what is there already.
    """
    return run_stage("map", recipe, source, redo=redo)


@flow(name="align", flow_run_name=run_name)
@saying_how_it_ended
def align_flow(recipe: Recipe, source: str | None = None, shards: str | None = None, redo: bool = False) -> str:
    """Bring every source's distributions to the target's positions and vocabulary.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        shards: Only these shards: A-B, both included, or one number.
        redo: Make again what is there already.
    """
    return run_stage("align", recipe, source, shards, redo)


@flow(name="fuse", flow_run_name=run_name)
@saying_how_it_ended
def fuse_flow(recipe: Recipe, shards: str | None = None, redo: bool = False) -> str:
    """Fuse the sources' distributions into one target distribution per position.

    Args:
        recipe: Everything that defines the run.
        shards: Only these shards: A-B, both included, or one number.
        redo: Make again what is there already.
    """
    return run_stage("fuse", recipe, None, shards, redo)


@flow(name="headroom", flow_run_name=run_name)
@saying_how_it_ended
def headroom_flow(recipe: Recipe, redo: bool = False) -> str:
    """Compare the fused targets with the target model itself on held-out text, before anything is trained.

    Args:
        recipe: Everything that defines the run.
        redo: Make again what is there already.
    """
    with opened(recipe) as session:
        summary = run_stage("headroom", recipe, redo=redo)
        for warning in read_headroom(session.run)["warnings"]:
            get_run_logger().warning(warning)
        return summary


@flow(name="train", flow_run_name=run_name)
@saying_how_it_ended
def train_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Train the target on the fused distributions, and its control on the text alone.

    Args:
        recipe: Everything that defines the run.
        source: Only this arm: fused, control, or fused-NAME.
        redo: Make again what is there already.
    """
    return run_stage("train", leading(recipe), source, redo=redo)


@flow(name="merge", flow_run_name=run_name)
@saying_how_it_ended
def merge_flow(recipe: Recipe, redo: bool = False) -> str:
    """Make one model of the weights of several, where the recipe names them or trains pairwise fused ones.

    Args:
        recipe: Everything that defines the run.
        redo: Make again what is there already.
    """
    return run_stage("merge", recipe, redo=redo)


@flow(name="evaluate", flow_run_name=run_name)
@saying_how_it_ended
def evaluate_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Score target, sources and trained models on the held-out text.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name, or an arm, ensemble or merged.
        redo: Make again what is there already.
    """
    return run_stage("evaluate", recipe, source, redo=redo)


@flow(name="suites", flow_run_name=run_name)
@saying_how_it_ended
def suites_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Ask every model the benchmark tasks that the recipe names; nothing unless it names some.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name, or fused or control.
        redo: Make again what is there already.
    """
    return run_stage("suites", recipe, source, redo=redo)


@flow(name="report", flow_run_name=run_name)
@saying_how_it_ended
def report_flow(recipe: Recipe, redo: bool = False) -> str:
    """Write the run's report: what was gained, who won where, what it cost; as JSON and as a page.

    Args:
        recipe: Everything that defines the run.
        redo: Make again what is there already.
    """
    with opened(recipe) as session:
        summary = run_stage("report", recipe, redo=redo)
        publish_result(session.run, get_run_logger().warning)
        return summary


STAGE_FLOWS: dict[str, Flow[..., Any]] = {
    "prepare": prepare_flow,
    "encode": encode_flow,
    "check": check_flow,
    "adapt": adapt_flow,
    "capture": capture_flow,
    "map": map_flow,
    "align": align_flow,
    "fuse": fuse_flow,
    "headroom": headroom_flow,
    "train": train_flow,
    "merge": merge_flow,
    "evaluate": evaluate_flow,
    "suites": suites_flow,
    "report": report_flow,
}
