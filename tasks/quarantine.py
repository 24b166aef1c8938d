"""The list of a corpus's bad documents: where each stands and why it was left out, beside the shards it is not in."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from logitfuse.tasks.corpus.bad_documents import quarantines
from logitfuse.tasks.engine import Counts, Progress, Work, find

if TYPE_CHECKING:
    from logitfuse.storage.records import Record
    from logitfuse.tasks.run import Run

PLACE = "prepare"
IN_MEMORY = 1 << 20  # bytes; a longer list waits in a temporary file


class Quarantined:
    """What one pass over a corpus has left out, in its order."""

    def __init__(self) -> None:
        self.count = 0
        self._lines = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115  # it lives as long as the pass
        self._first = ""

    def note(self, where: str, why: str) -> None:
        """Write down a row that cannot be a document."""
        self._first = self._first or why
        self.count += 1
        self._lines.write(json.dumps({"where": where, "why": why}).encode() + b"\n")

    def write(self, path: Path) -> None:
        """Write all lines, each {"where": ..., "why": ...}."""
        self._lines.seek(0)
        with path.open("wb") as file:
            shutil.copyfileobj(self._lines, file)

    @property
    def said(self) -> str:
        """What to add to a refusal, empty if nothing was left out."""
        return f" {self.count} rows were quarantined, the first: {self._first}" if self.count else ""


def quarantine_work(listing: Work, bad: Quarantined | None = None) -> Work:
    """Describe the list of bad documents that belongs to a listing of shards; without `bad`, only where it stands."""

    def compute(path: Path, progress: Progress) -> Counts:
        assert bad is not None
        bad.write(path)
        return {"quarantined": bad.count}

    return Work(
        stage="prepare",
        place=PLACE,
        name="quarantined",
        suffix=".jsonl",
        compute=compute,
        settings=listing.settings,
        fingerprints=listing.fingerprints,
    )


def quarantine_record(run: Run) -> Record | None:
    """Return the record of a prepared run's list of bad documents, None where the recipe refuses them."""
    from logitfuse.tasks.prepare import listing_work  # which imports this

    if not quarantines(run.recipe.corpus):
        return None
    listing = listing_work(run.recipe.corpus, run.published_split)
    return find(run.store, quarantine_work(listing))


def quarantine_line(run: Run) -> str:
    """Say how many rows were left out and where they are listed; empty where none was."""
    record = quarantine_record(run)
    if record is None or not record.counts["quarantined"]:
        return ""
    return (
        f"WARNING: {record.counts['quarantined']:,} rows of the corpus cannot be documents and were left out; where "
        f"they stand and why: {run.store.place}/{record.place}/{record.files[0].name}"
    )
