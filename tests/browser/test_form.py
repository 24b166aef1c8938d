"""The form of every deployment, as it opens: nothing breaks, what is necessary stands at the top under its title."""

from typing import Any

import pytest
from prefect_pages import Pages

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1200)]
STAGES = ("prepare", "encode", "check", "adapt", "capture", "map", "align", "fuse", "headroom", "train", "merge",
          "evaluate", "suites", "report")  # fmt: skip
BY_SOURCE = ("encode", "check", "adapt", "capture", "map", "align", "evaluate", "suites")
BY_SHARDS = ("encode", "capture", "align", "fuse")
RECIPE = ["Recipe", "Name (Optional)", "Target (Optional)", "Model (Optional)", "Short name (Optional)"]
BOXES = ("Sources", "Corpus", "Capture", "Vocabulary map", "Align", "Fuse", "Train", "Evaluate", "Execution")


def titles(deployment: str) -> list[str]:
    """The titles with which a form begins."""
    if deployment in ("pipeline", "rebuild-fused"):
        short = ["Start at", "Stop after"] if deployment == "pipeline" else []
    else:
        short = ["Arm"] if deployment == "train" else ["Source"] * (deployment in BY_SOURCE)
        short += ["Shards"] * (deployment in BY_SHARDS) + ["Redo"]
    return [f"{title} (Optional)" for title in short] + RECIPE


@pytest.mark.parametrize("deployment", ["pipeline", *STAGES, "rebuild-fused"])
def test_a_form_opens_with_titles_and_defaults(pages: Pages, deployment: str) -> None:
    pages.deployment(deployment)
    pages.page.goto(f"{pages.page.url.partition('?')[0]}/run")
    form = pages.form(deployment, pages.page.locator("form"))
    pages.page.get_by_text("Free disk (GB) (Optional)").wait_for()  # the last field of all
    shown = pages.page.locator(".schema-form-property__label").all_inner_texts()
    wanted = titles(deployment)
    assert shown[: len(wanted)] == wanted
    assert all(title and "_" not in title for title in shown)
    assert {f"{box} (Optional)" for box in BOXES} <= set(shown)
    name = "default" if deployment == "rebuild-fused" else "run"  # its schedule has to have one
    for path, default in {"name": name, "target.model": "package:smollm2-135m", "capture.k": "10"}.items():
        field, _ = form.field(f"recipe.{path}")
        assert field.locator("input, textarea").first.input_value() == default
    pages.picture(f"form-{deployment}")


def test_boxes_that_are_closed_open_and_lists_grow(pages: Pages) -> None:
    pages.deployment("pipeline")
    pages.page.goto(f"{pages.page.url.partition('?')[0]}/run")
    form = pages.form("pipeline", pages.page.locator("form"))

    def part(path: str) -> Any:
        return form.field(path)[0]

    for path, button, shown, many in (
        ("target.adapt", "Adapt", "Learning rate (Optional)", 1),
        ("train.lora", "LoRA", "Rank (Optional)", 1),
        ("sources", "Add item", "Short name (Optional)", 2),
    ):
        part(f"recipe.{path}").get_by_role("button", name=button, exact=True).click()
        part(f"recipe.{path}").get_by_text(shown, exact=True).nth(many - 1).wait_for()
    part("recipe.suites.names").get_by_text("No items selected").wait_for()  # a drop-down that takes several
    part("recipe.fuse").scroll_into_view_if_needed()
    pages.picture("form-opened")
