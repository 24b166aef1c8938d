"""The model card of a merged model: from which weights it was made, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitfuse.tasks.licences import licence_of, public_name, revision_of
from logitfuse.tasks.markdown_text import plain
from logitfuse.tasks.merge_settings import merged_models
from logitfuse.tasks.model_card import base_facts, dumped, parents

if TYPE_CHECKING:
    from logitfuse.tasks.merge import Part
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.run import Run


def merged_card(run: Run, parts: list[Part], base: Source) -> str:
    """Return the README of a merged model, with the hub's front matter."""
    known = [("base", base)]
    for part in parts:
        made = parents(run, part.name) if part.record else [("merged", part.source)]
        known += [(role, model) for role, model in made if model.label not in {one.label for _, one in known}]
    sections = [
        f"# {run.recipe.name}: merged model",
        _introduction(run, parts, base),
        _origin(known),
        "## Intended use and limits\n\nIt exists to be compared with the fused model: what merging weights gives, and "
        "no training beyond that of its parts. For research; it inherits all limits of the models above.",
    ]
    facts = base_facts(known, "merge") | {"tags": ["logitfuse", "merge", "knowledge-fusion"]}
    return f"---\n{dumped(facts)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _introduction(run: Run, parts: list[Part], base: Source) -> str:
    settings, weights = run.recipe.merge, merged_models(run.recipe)
    options = "".join(f", {name} {value}" for name, value in settings.options.items())
    named = ", ".join(f"{public_name(part.name)} (weight {weights[part.name]:g})" for part in parts)
    trained = [public_name(part.name) for part in parts if part.record]
    how = f" Of these, {', '.join(trained)} were trained in the same run." if trained else ""
    return (
        f"The weights of {named}, merged by `{settings.method}`{options} on the base {base.label}, with logitfuse.{how}"
    )


def _origin(known: list[tuple[str, Source]]) -> str:
    lines = ["## What it was made from", "", "| role | model | revision | licence | weights |", "|---|---|---|---|---|"]
    for role, model in known:
        home = model.home
        told = (role, public_name(home.settings.model), revision_of(home) or "–", licence_of(home))
        cells = [plain(cell) for cell in told]
        lines.append(f"| {' | '.join([*cells, f'`{home.fingerprint[:23]}`'])} |")
    return "\n".join([*lines, "", "The licences of all of these models apply to this one."])
