"""A study that is being done: its jobs, its runs, and its locked split."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitfuse.storage.errors import BadInput, ShardCorrupt, ShardMissing
from logitfuse.storage.urls import is_url
from logitfuse.tasks.checks import check_run, claim_folder
from logitfuse.tasks.study.doing import Finished, Watch, do_jobs, make, stands
from logitfuse.tasks.study.looks import Look, fingerprint, note_look, read_looks
from logitfuse.tasks.study.opened import Opened, study_folder
from logitfuse.tasks.study.plan import Job, plan
from logitfuse.tasks.study.settings import Study

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run


@dataclass
class Session:
    """One process's view of a study; what is done is told by the run folder alone."""

    study: Study
    base: dict[str, Any]
    scale: float = 1.0
    opened: Opened = field(default_factory=Opened)

    @cached_property
    def jobs(self) -> list[Job]:
        """All jobs; raises `BadInput` for what cannot be a study."""
        return plan(self.study, self.base, scale=self.scale)

    @property
    def folder(self) -> Path:
        return study_folder(self.jobs[0].recipe)

    def check(self) -> None:
        """Check every variant before the first hour is spent, and claim the run folder."""
        if is_url(place := self.jobs[0].recipe.place):
            raise BadInput(
                f"study {self.study.name}: {place} is in an object store, and a study keeps what was looked at, and "
                "when, in a folder of one machine. Set execution.folder to a path."
            )
        for job in {job.variant: job for job in self.jobs}.values():
            check_run(self.opened.run(job))
        claim_folder(self.jobs[0].recipe)
        self.folder.mkdir(parents=True, exist_ok=True)

    def do(self, watch: Watch, only: Collection[str] = ()) -> Finished:
        """Do what is missing; `only` some variants."""
        return do_jobs(plan(self.study, self.base, scale=self.scale, only=only), self.opened, watch)

    @property
    def done(self) -> list[Job]:
        """The jobs that are done."""
        return [job for job in self.jobs if self._stands(job)]

    def _stands(self, job: Job) -> bool:
        try:
            return stands(self.opened.run(job), job)
        except ShardCorrupt:
            return False

    @cached_property
    def declared(self) -> list[Job]:
        """The jobs of all variants that a contrast names."""
        named = {name for contrast in self.study.contrasts for name in (contrast.of, contrast.against)}
        return [job for job in self.jobs if job.variant in named]

    def look_at_locked(self, watch: Watch) -> list[Look]:
        """Evaluate the contrasts' models on the locked split, having written down that this is done; return all looks.

        Raises `BadInput` if there is nothing to look at, or if a model of a contrast is not there yet.
        """
        self._refuse_to_look()
        facts = {"split": self.study.lock, "scale": self.scale, "contrasts": [c.name for c in self.study.contrasts]}
        looks = note_look(self.folder, self.fingerprint, facts)
        for number, job in enumerate(self.declared):
            run = self.opened.run(job, self.study.lock)
            assert job.model is not None
            if not self._evaluated(run, job):
                watch.say(f"[{number + 1}/{len(self.declared)}] {job}: {self.study.lock}")
                make(run, job.model, watch)
        return looks

    def _refuse_to_look(self) -> None:
        name, lock = self.study.name, self.study.lock
        if not any(contrast.primary for contrast in self.study.contrasts):
            raise BadInput(f"study {name}: --locked needs a primary contrast. Set primary: true on one of them.")
        if missing := [str(job) for job in self.declared if job.model is None or not self._stands(job)]:
            raise BadInput(f"study {name}: --locked comes last; not done yet: {'; '.join(missing)}. Run it without.")
        if not any(record.counts["splits"].get(lock) for record in self.opened.run(self.declared[0]).shards):
            raise BadInput(f"study {name}: the corpus has no {lock} text. Set corpus.test_share, and run it again.")

    @property
    def fingerprint(self) -> str:
        """What a look at the locked split with the present models and contrasts is known by."""
        runs = [(self.opened.run(job), job) for job in self.declared]
        keys = [run.record(job.model).key for run, job in runs if job.model]
        texts = [record.key for record in runs[0][0].shards if record.counts["splits"].get(self.study.lock)]
        return fingerprint([contrast.model_dump() for contrast in self.study.contrasts], [*keys, *texts])

    @property
    def looks(self) -> list[Look]:
        """All looks at the locked split."""
        return read_looks(self.folder)

    def was_looked_at(self) -> bool:
        """Return whether the locked split was looked at with the present models, and all of them are evaluated."""
        if not self.declared or not all(self._stands(job) for job in self.declared):
            return False
        return self.fingerprint in {look["fingerprint"] for look in self.looks} and all(
            self._evaluated(self.opened.run(job, self.study.lock), job) for job in self.declared
        )

    def _evaluated(self, run: Run, job: Job) -> bool:
        return self.evaluation(run, job) is not None

    def evaluation(self, run: Run, job: Job) -> Record | None:
        """Return the record of a job's evaluation on a run's split, None before it is there."""
        try:
            return run.record(job.model) if job.model else None
        except ShardMissing:
            return None
