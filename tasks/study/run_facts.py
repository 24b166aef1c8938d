"""What is known of one run of a study: settings, tokens, losses, headroom, time, hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitfuse.storage.errors import ShardMissing
from logitfuse.tasks.headroom import read_headroom
from logitfuse.tasks.headroom_table import ALL, FUSED, pick_rows
from logitfuse.tasks.study.doing import HEADROOM, needed_units, wanted_units
from logitfuse.tasks.study.likeness import flat_settings
from logitfuse.tasks.study.scores import Name, Scores

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.study.plan import Job

Facts = dict[str, Any]
HEADROOM_COLUMNS = ("domain", "class", "positions", "taught", "student", "targets", "difference", "elsewhere")


def run_facts(run: Run, job: Job, scores: Scores) -> Facts:
    """Return a run as JSON; its nats per byte are over the bytes that all models of the study score."""
    name = Name(job.variant, job.seed)
    trained = trained_records(run, job)
    return {
        "variant": job.variant,
        "about": job.what.about,
        "seed": job.seed,
        "model": job.label,
        "settings": flat_settings(job.what.set),
        "times_tokens": job.what.times_tokens,
        "tokens": sum(record.counts["tokens"] for record in trained) if trained else None,
        "steps": sum(record.counts["steps"] for record in trained) if trained else None,
        "hardware": trained[-1].made.get("hardware") if trained else None,
        "versions": trained[-1].made.get("versions") if trained else None,
        "nats_per_byte": {domain: scores.nats_per_byte(name, domain) for domain in scores.domains}
        if name in scores.names
        else None,
        "seconds": seconds_by_stage(run, job),
        "notes": notes(job, trained),
    }


def trained_records(run: Run, job: Job) -> list[Record]:
    """Return the records of the training that a job's model comes from; none for a model as it is given."""
    if job.seed is None or job.model is None:
        return []
    return [run.record(unit) for unit in needed_units(run, "train", job.model)]


def notes(job: Job, trained: list[Record]) -> list[str]:
    """Say what a reader would not expect."""
    wanted = job.recipe.train.max_steps
    found = [
        f"trained for {record.counts['steps']} steps, not {wanted}: the text was used up. Give it more documents or "
        "epochs."
        for record in trained
        if wanted is not None and record.counts["steps"] < wanted
    ]
    return found + [
        f"{r.counts['skipped_steps']} bad steps were left out" for r in trained if "skipped_steps" in r.counts
    ]


def seconds_by_stage(run: Run, job: Job) -> dict[str, float]:
    """Return the seconds of each stage that made a job's result, those included that other jobs share."""
    from logitfuse.tasks.stages import ORDER

    last = wanted_units(job)[-1]
    records: dict[str, list[Record]] = {}
    if job.label is None or job.seed is not None:
        for stage in ORDER[1 : ORDER.index(last.stage)]:
            records[stage] = [run.record(unit) for unit in needed_units(run, stage, last)]
    records = {"prepare": run.shards, **records, last.stage: [run.record(last)]}
    return {
        stage: round(sum(record.made.get("seconds", 0.0) for record in found), 3)
        for stage, found in records.items()
        if found
    }


def headroom_facts(run: Run, job: Job) -> Facts | None:
    """Return how the fused targets of a variant compare with its student, by domain and by class; None without."""
    try:
        run.record(HEADROOM)
    except ShardMissing:
        return None
    found = read_headroom(run)
    rows = pick_rows(found["rows"], subject=FUSED)
    rows = [{name: row[name] for name in (*HEADROOM_COLUMNS, "ruled_out")} for row in rows if _is_sum(row)]
    return {"variant": job.variant, "settings": flat_settings(job.what.set), "why_not": found["why_not"], "rows": rows}


def _is_sum(row: Facts) -> bool:
    return row["domain"] == ALL or row["class"] == ALL
