"""The model card: from what a model was made, how, under which licences, how good it is, and how to load it.

The card in the trained folder is part of the result: nothing in it depends on the machine or the day, and the model is
evaluated only after it is written. `logitfuse push` therefore writes it anew with what is known by then, `Done`; the
folder keeps the bytes that its record vouches for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from logitfuse.tasks.arms import CONTROL, source_of
from logitfuse.tasks.licences import NOT_STATED, hub_id, is_hub_id, licence_facts, licence_of, public_name, revision_of
from logitfuse.tasks.markdown_text import fenced, plain

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.models.source import Source
    from logitfuse.tasks.results import Result
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.training.settings import TrainSettings

NAMED_SHARDS = 8
SHUFFLED = (
    " The sources' predictions were those on other documents (fuse.shuffled): this model is a control for what such "
    "targets do as regularisation, and knows nothing of the sources."
)


@dataclass(frozen=True)
class Done:
    """What is known of a model once it is trained and, it may be, evaluated."""

    repository: str  # where it can be loaded from
    counts: dict[str, Any]  # of its training's record
    made: dict[str, Any]
    results: Sequence[Result] = ()


def model_card(
    run: Run, arm: str, settings: TrainSettings, shards: tuple[Record, ...], done: Done | None = None
) -> str:
    """Return the README of one arm's model, with the hub's front matter."""
    models = parents(run, arm)
    sections = [
        f"# {run.recipe.name}: {'control, trained on the labels alone' if arm == CONTROL else 'fused model'}",
        _introduction(run, arm, settings),
        loading(done),
        origin(models, _adapted(run, models)),
        _training(settings, done),
        _results(done),
        _data(run, shards),
        _use(arm),
        _recipe(run),
    ]
    return f"---\n{dumped(front_matter(run, models))}\n---\n\n" + "\n\n".join(sections) + "\n"


def parents(run: Run, arm: str) -> list[tuple[str, Source]]:
    """Return role and model of all that a model was made from; a control learnt nothing from the sources."""
    alone = source_of(run.recipe, arm)
    others = [s for s in run.teachers.values() if s.label != run.target.label and alone in (None, s.label)]
    others = others if arm != CONTROL else []
    return [("target", run.target), *(("source", source) for source in others)]


def common_licence(models: Sequence[tuple[str, Source]]) -> dict[str, Any]:
    """Return what the front matter says of the licence if all models come under the same one, else nothing."""
    found = {licence_of(model.home) for _, model in models}
    return licence_facts(models[0][1].home) if len(found) == 1 and NOT_STATED not in found else {}


def front_matter(run: Run, models: list[tuple[str, Source]]) -> dict[str, Any]:
    """Return the facts at the head of a card."""
    # The weights continue the target's; what the sources gave are predictions, which is no merge of weights.
    facts = base_facts(models, "finetune")
    if is_hub_id(run.recipe.corpus.source):
        facts["datasets"] = [run.recipe.corpus.source]
    return facts | {"tags": ["logitfuse", "knowledge-fusion", "distillation"]}


def base_facts(models: Sequence[tuple[str, Source]], relation: str) -> dict[str, Any]:
    """Return library, licence, and the models on the hub that one was made from, to which it has this relation."""
    facts: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    facts |= common_licence(models)
    if known := [name for _, model in models if (name := hub_id(model.home))]:
        facts |= {"base_model": known, "base_model_relation": relation}
    return facts


def _introduction(run: Run, arm: str, settings: TrainSettings) -> str:
    corpus = plain(public_name(run.recipe.corpus.source))
    if arm == CONTROL:
        return (
            f"{run.target.label}, continued on {corpus} with the plain language-model loss. It saw the same tokens in "
            "the same order as the fused model it is compared with, and nothing of the sources."
        )
    sources = ", ".join(model.label for role, model in parents(run, arm) if role == "source") or "itself"
    return (
        f"{run.target.label}, continued on {corpus}, where it also learnt what {sources} predicted: λ = "
        f"{settings.clm_weight:g} is the weight of the label's loss, the rest is the loss against the fused "
        "predictions. Made with logitfuse, after FuseLLM (Wan et al., *Knowledge Fusion of Large Language Models*, "
        f"ICLR 2024).{SHUFFLED if run.recipe.fuse.shuffled else ''}"
    )


def loading(done: Done | None) -> str:
    """Show how a model is loaded."""
    name = done.repository if done else "path/to/this/folder"
    return f"""## How to load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")
```"""


def origin(models: list[tuple[str, Source]], more: str = "") -> str:
    """Return the table of the models that one was made from, and what else is to be said of them."""
    lines = ["## What it was made from", "", "| role | model | revision | licence | weights | tokenizer |"]
    lines.append("|---|---|---|---|---|---|")
    for role, model in models:
        home, prints = model.home, (model.home.fingerprint, model.vocabulary.fingerprint)
        name, revision = public_name(home.settings.model), revision_of(home)
        told = [plain(cell) for cell in (role, name, revision or "–", licence_of(home))]
        cells = [*told, *(f"`{p[:23]}`" for p in prints)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", "The licences of all of these models apply to this one, and so may the text's." + more]
    )


def _adapted(run: Run, models: list[tuple[str, Source]]) -> str:
    """Say which models were adapted before they were used, and to what weights."""
    labels = [source.label for _, source in models if source.home.settings.adapt is not None]
    named = [f"{label} (`{run.model(label).home.fingerprint[:23]}`)" for label in labels]
    if not named:
        return ""
    return f" First continued on the training text, and used with the weights that came of it: {', '.join(named)}."


def _training(settings: TrainSettings, done: Done | None) -> str:
    rows = [("λ, weight of the labels", f"{settings.clm_weight:g} ({settings.clm_weight_schedule})")]
    rows.append(("residual, divergence", f"{settings.residual}, {settings.divergence}"))
    rows.append(("learning rate", f"{settings.learning_rate:g}, {settings.schedule}, AdamW {settings.betas}"))
    per_step = f"{settings.sequences_per_step} sequences" if settings.sequences_per_step else None
    rows.append(("a step", per_step or f"up to {settings.tokens_per_step:,} tokens"))
    rows.append(("precision", f"{settings.dtype}, float32 weights and optimiser"))
    if settings.lora is not None:
        rows.append(("LoRA", f"rank {settings.lora.rank}; the weights here are merged, `adapter/` holds the adapter"))
    if done:
        rows.append(("steps", f"{done.counts['steps']:,}"))
        rows.append(("tokens with a label", f"{done.counts['tokens']:,}"))
        if skipped := done.counts.get("skipped_steps"):
            rows.append(("steps left out", f"{skipped:,}, whose loss or gradient was bad"))
        if hardware := done.made.get("hardware"):
            rows.append(("hardware", str(hardware)))
    return "\n".join(["## Training", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _results(done: Done | None) -> str:
    if done is None or not done.results:
        after = "`logitfuse push` adds them once the model is evaluated." if done is None else "It was not evaluated."
        return f"## Results\n\nNone are stated here. {after}"
    models = list(dict.fromkeys((result.model, result.role) for result in done.results))
    title = "Held-out nats per byte over identical bytes, with 95% intervals by document (bold: the least of its row)."
    names = [name if name == role else f"{name} ({role})" for name, role in models]
    lines = ["## Results", "", title, "", f"| text | {' | '.join(names)} |", "|---" * (len(models) + 1) + "|"]
    domains = list(dict.fromkeys(result.domain for result in done.results))
    for domain in domains:
        row = {(r.model, r.role): r for r in done.results if r.domain == domain}
        documents = next(iter(row.values())).documents
        least = min((r.nats_per_byte for r in row.values() if math.isfinite(r.nats_per_byte)), default=None)
        cells = [_cell(row.get(model), least) for model in models]
        lines.append(f"| {plain(domain)} ({documents} documents) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(result: Result | None, least: float | None) -> str:
    if result is None:
        return "–"
    text = f"{result.nats_per_byte:.4f} [{result.low:.3f}, {result.high:.3f}]"
    return f"**{text}**" if result.nats_per_byte == least else text


def _data(run: Run, shards: tuple[Record, ...]) -> str:
    name = plain(public_name(run.recipe.corpus.source))
    sums = ", ".join(f"`{shard.checksum[7:19]}`" for shard in shards[:NAMED_SHARDS])
    more = " …" if len(shards) > NAMED_SHARDS else ""
    corpus = run.recipe.corpus
    revision = f" at revision {plain(corpus.revision)}" if corpus.revision else ""
    return (
        f"## Data\n\n{name}{revision}, in {len(shards)} fused shards ({sums}{more}). Held-out "
        "documents, and training documents that repeat them, are not among what it learnt from."
    )


def _use(arm: str) -> str:
    what = (
        "It exists to be compared with: what the fused model does better than this one is due to the sources."
        if arm == CONTROL
        else "For research on fusing language models, and wherever its target model was of use."
    )
    return (
        f"## Intended use and limits\n\n{what} It was trained to predict text, not to follow instructions or to be "
        "safe; behaviour of that kind which the target model had may be weaker. It can repeat errors and prejudices of "
        "its text and of the models above. The results hold for text like that of the table, and for nothing else."
    )


def _recipe(run: Run) -> str:
    recipe = run.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"execution"})
    for model in (recipe.get("target", {}), *recipe.get("sources", ())):
        if "model" in model:
            model["model"] = public_name(model["model"])
    if "source" in recipe.get("corpus", {}):
        recipe["corpus"]["source"] = public_name(recipe["corpus"]["source"])
    return f"## Recipe\n\nOf local paths only the last part is shown.\n\n{fenced(dumped(recipe), 'yaml')}"


def dumped(content: dict[str, Any]) -> str:
    """Return content as YAML, in its own order."""
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return text.rstrip()
