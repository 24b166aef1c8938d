"""One Prefect flow per stage. Each checks the recipe first, then does what is missing and nothing else."""

from typing import Any

import logitfuse.flows.prefect_settings  # noqa: F401

# isort: split
from prefect import Flow, get_run_logger

from logitfuse.flows.fan_out import run_stage
from logitfuse.flows.form import with_form
from logitfuse.flows.leader import leading
from logitfuse.flows.result_artifacts import publish_result
from logitfuse.flows.session import opened
from logitfuse.tasks.headroom import read_headroom
from logitfuse.tasks.recipe import Recipe


@with_form("prepare")
def prepare_flow(recipe: Recipe, redo: bool = False) -> str:
    """Cut the corpus losslessly into chunks, in shards, with a clean held-out part.

    Args:
        recipe: Everything that defines the run.
        redo: Make again what is there already.
    """
    return run_stage("prepare", recipe, redo=redo)


@with_form("encode")
def encode_flow(recipe: Recipe, source: str | None = None, shards: str | None = None, redo: bool = False) -> str:
    """Tokenise every shard with every model's tokenizer.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        shards: Only these shards: A-B, both included, or one number.
        redo: Make again what is there already.
    """
    return run_stage("encode", recipe, source, shards, redo)


@with_form("check")
def check_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Check that every source model is sound and read as it was trained, before hours are spent on it.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        redo: Make again what is there already.
    """
    return run_stage("check", recipe, source, redo=redo)


@with_form("adapt")
def adapt_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Continue models on the training text by plain language modelling, where the recipe says so, before they are used.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        redo: Make again what is there already.
    """
    return run_stage("adapt", leading(recipe), source, redo=redo)


@with_form("capture")
def capture_flow(recipe: Recipe, source: str | None = None, shards: str | None = None, redo: bool = False) -> str:
    """Keep what every source model predicts at every position of the text, as top-k.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        shards: Only these shards: A-B, both included, or one number.
        redo: Make again what is there already.
    """
    return run_stage("capture", recipe, source, shards, redo)


@with_form("map")
def map_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Map every source's vocabulary onto the target's.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        redo: Make again what is there already.
    """
    return run_stage("map", recipe, source, redo=redo)


@with_form("align")
def align_flow(recipe: Recipe, source: str | None = None, shards: str | None = None, redo: bool = False) -> str:
    """Bring every source's distributions to the target's positions and vocabulary.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name.
        shards: Only these shards: A-B, both included, or one number.
        redo: Make again what is there already.
    """
    return run_stage("align", recipe, source, shards, redo)


@with_form("fuse")
def fuse_flow(recipe: Recipe, shards: str | None = None, redo: bool = False) -> str:
    """Fuse the sources' distributions into one target distribution per position.

    Args:
        recipe: Everything that defines the run.
        shards: Only these shards: A-B, both included, or one number.
        redo: Make again what is there already.
    """
    return run_stage("fuse", recipe, None, shards, redo)


@with_form("headroom")
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


@with_form("train", {"source": "Arm"})
def train_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Train the target on the fused distributions, and its control on the text alone.

    Args:
        recipe: Everything that defines the run.
        source: Only this arm: fused, control, or fused-NAME.
        redo: Make again what is there already.
    """
    return run_stage("train", leading(recipe), source, redo=redo)


@with_form("merge")
def merge_flow(recipe: Recipe, redo: bool = False) -> str:
    """Make one model of the weights of several, where the recipe names them or trains pairwise fused ones.

    Args:
        recipe: Everything that defines the run.
        redo: Make again what is there already.
    """
    return run_stage("merge", recipe, redo=redo)


@with_form("evaluate")
def evaluate_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Score target, sources and trained models on the held-out text.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name, or an arm, ensemble or merged.
        redo: Make again what is there already.
    """
    return run_stage("evaluate", recipe, source, redo=redo)


@with_form("suites")
def suites_flow(recipe: Recipe, source: str | None = None, redo: bool = False) -> str:
    """Ask every model the benchmark tasks that the recipe names; nothing unless it names some.

    Args:
        recipe: Everything that defines the run.
        source: Only this model, by its short name, or fused or control.
        redo: Make again what is there already.
    """
    return run_stage("suites", recipe, source, redo=redo)


@with_form("report")
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
