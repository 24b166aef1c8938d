"""The first step of a run that has anything to do: a plan without any model, and an end to what cannot fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from logitfuse.flows.pace import scaled
from logitfuse.storage.errors import BadInput, DoesNotFit
from logitfuse.tasks.plan.fit import gigabytes

if TYPE_CHECKING:
    from logitfuse.tasks.plan.plan import Plan
    from logitfuse.tasks.run import Run

Say = Callable[[str], None]
ANYWAY = "To begin all the same: --set execution.plan=warn"


def plan_first(
    run: Run, stages: list[str], say: Say, show: Callable[[Plan, str], None] = lambda plan, line: None
) -> Plan | None:
    """Tell in a line what these stages will need; raise `DoesNotFit` for what cannot be had.

    Takes seconds; `show` is handed the plan and its line. What keeps a plan from being made (a bad document, say) is
    for the stage itself to refuse: then, and where the recipe wants none, there is none.
    """
    wanted = run.recipe.execution.plan
    if wanted == "skip":
        return None
    from logitfuse.tasks.plan.plan import glance

    try:
        found = glance(run, stages)
    except BadInput as error:
        if "prepare" not in stages:
            say(f"plan: it cannot be made ({error})")
        else:  # it reads the same text, and ends with the very message
            say("plan: it cannot be made of this text")
        return None
    except Exception as error:  # nothing that only informs may end a run
        say(f"plan: it cannot be made ({type(error).__name__}: {error})")
        return None
    line = plan_line(run, found)
    say(line)
    show(found, line)
    if found.reasons and wanted == "stop":
        raise DoesNotFit("\n".join([*found.reasons, f"{ANYWAY}."]))
    for line in [*found.reasons, *found.warnings]:
        say(f"WARNING: {line}")
    return found


def plan_line(run: Run, found: Plan) -> str:
    """Say in a line what a plan found."""
    assert found.disk is not None
    tokens = found.amounts.of(f"tokens/{run.target.tokenizer_label}")
    about = "" if tokens.exact else "about "
    parts = [f"{scaled(round(found.amounts.of('documents').value))} documents, {about}{scaled(tokens.value)} tokens"]
    if steps := max((row.steps for row in found.rows if row.stage == "train" and row.done < row.units), default=0):
        parts.append(f"{steps:,} training step{'s' * (steps != 1)}")
    free = "" if found.disk.free is None else f" of {gigabytes(found.disk.free)} free"
    parts.append(f"disk: {gigabytes(found.disk.needed.value)} more{free}")
    if found.needs:
        most = max(found.needs, key=lambda need: need.memory.needed)
        there = "" if most.there is None else f" of {gigabytes(most.there)}"
        parts.append(f"memory: about {gigabytes(most.memory.needed)}{there} ({most.stage} {most.model})")
    if found.warnings:
        parts.append("1 warning" if len(found.warnings) == 1 else f"{len(found.warnings)} warnings")
    return f"plan: {'; '.join(parts)}"
