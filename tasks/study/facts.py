"""A whole study as JSON: every run, the contrasts, the locked comparison, and what one must know to judge them."""

from __future__ import annotations

import platform
from typing import Any

from logitfuse.tasks.computed_on import hardware
from logitfuse.tasks.study.contrasts import contrast_facts, gap_facts, multiple_facts
from logitfuse.tasks.study.likeness import flat_settings
from logitfuse.tasks.study.looks import caution
from logitfuse.tasks.study.plan import Job
from logitfuse.tasks.study.run_facts import headroom_facts, run_facts, trained_records
from logitfuse.tasks.study.scores import Name, Scores, read_scores
from logitfuse.tasks.study.session import Session
from logitfuse.tasks.study.settings import Split
from logitfuse.tasks.study.text_facts import text_facts
from logitfuse.tasks.training.settings import learns_targets

Facts = dict[str, Any]


def study_facts(session: Session) -> Facts:
    """Return everything that is known so far; variants that are not done are left out."""
    study, done = session.study, session.done
    scores = gathered(session, done, study.choose_on)
    tokens = {Name(job.variant, job.seed): _tokens(session, job) for job in done}
    execution = session.jobs[0].recipe.execution
    facts: Facts = {
        "study": study.name,
        "about": study.about,
        "recipe": study.recipe,
        "settings": flat_settings(study.set),
        "scale": session.scale,
        "seeds": list(study.seeds),
        "split": study.choose_on,
        "hardware": hardware(execution.device, execution.processes),
        "python": platform.python_version(),
        "missing": [str(job) for job in session.jobs if job not in done],
        "runs": [run_facts(session.opened.run(job), job, scores) for job in done] if scores else [],
        "headroom": _headroom(session, done),
        "contrasts": contrast_facts(scores, study.contrasts) if scores else [],
        "token_multiple": multiple_facts(scores, study.token_curve, tokens) if scores and study.token_curve else None,
        "gaps": _gaps(session, scores, done),
        "locked": locked_facts(session, tokens),
        "looks": session.looks,
    }
    if done:
        facts["text"] = text_facts(session.opened.run(done[0]), session.folder, (study.choose_on, study.lock))
    return facts


def locked_facts(session: Session, tokens: dict[Name, int]) -> Facts | None:
    """Return the declared contrasts on the locked split; None before it was looked at with the present models."""
    if not session.was_looked_at():
        return None
    scores = gathered(session, session.declared, session.study.lock)
    assert scores is not None
    contrasts = contrast_facts(scores, session.study.contrasts)
    primary = next(facts for facts in contrasts if facts["primary"])
    trained = [tokens[Name(primary["of"], seed)] for seed in primary["seeds"] if seed is not None]
    return {
        "split": session.study.lock,
        "contrasts": contrasts,
        "caution": caution(session.looks, session.study.lock),
        "primary": {name: primary[name] for name in ("delta", "low", "high")}
        | {"seeds": len(primary["seeds"]), "tokens": round(sum(trained) / len(trained)) if trained else 0},
    }


def gathered(session: Session, jobs: list[Job], split: Split) -> Scores | None:
    """Return the scores of all these jobs' models on a split; None if nothing was evaluated."""
    found = []
    for job in jobs:
        run = session.opened.run(job, split)
        if record := session.evaluation(run, job):
            found.append((Name(job.variant, job.seed), run.store, record))
    return read_scores(found) if found else None


def _tokens(session: Session, job: Job) -> int:
    return sum(record.counts["tokens"] for record in trained_records(session.opened.run(job), job))


def _headroom(session: Session, done: list[Job]) -> list[Facts]:
    """Return the headroom of every variant that learns from fused targets, or makes them alone, once for all seeds."""
    learning = [job for job in done if job.label is None or (job.seed is not None and learns_targets(job.recipe.train))]
    first = {job.variant: job for job in reversed(learning)}
    found = [headroom_facts(session.opened.run(job), job) for job in first.values()]
    order = list(session.study.variants)
    return sorted((facts for facts in found if facts), key=lambda facts: order.index(facts["variant"]))


def _gaps(session: Session, scores: Scores | None, done: list[Job]) -> list[Facts]:
    study = session.study
    if scores is None or not study.plain:
        return []
    trained = dict.fromkeys(job.variant for job in done if job.seed is not None and job.variant != study.plain)
    return gap_facts(scores, study.plain, study.references, list(trained))
