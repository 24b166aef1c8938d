"""What a pipeline's own page shows: a table of its stages as they come, and the result; its stages have their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from logitfuse.flows.artifacts import artifact_key
from logitfuse.storage.errors import said

LONGEST = 300  # characters of a failure in the table; all of it is the run's message
Warn = Callable[[str], None]


class StageTable:
    """One table artifact, updated before each stage that has anything to do, and at the end.

    A run with nothing to do has none. What the server cannot take is warned of once.
    """

    def __init__(self, name: str, warn: Warn) -> None:
        """Show the stages of the run called `name`."""
        self._key, self._warn = artifact_key(name, "stages"), warn
        self._rows: list[dict[str, str]] = []
        self._made: UUID | None = None
        self._warned = False

    def up_to_date(self, stage: str) -> None:
        """Note a stage that had nothing to do."""
        self._rows.append({"stage": stage, "what became of it": "up to date"})
        if self._made is not None:
            self._send()

    @contextmanager
    def at_work(self, stage: str) -> Iterator[Callable[[str], None]]:
        """Show a stage while the block does it; the block hands its summary to the function it is given."""
        row = {"stage": stage, "what became of it": "at work"}
        self._rows.append(row)
        self._send()

        def note(summary: str) -> None:
            row["what became of it"] = summary.removeprefix(f"{stage}: ")

        try:
            yield note
        except Exception as error:
            why = said(error)
            note(f"failed: {why if len(why) <= LONGEST else why[:LONGEST] + ' …'}")
            raise

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show how it ended when the block is left; not where it is cancelled, which must be quick."""
        try:
            yield
        except Exception:
            self._send()
            raise
        if self._made is not None:
            self._send()

    def _send(self) -> None:
        from prefect.artifacts import create_table_artifact
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactUpdate

        text = "The stages of this run, as far as they have come. Each has a page of its own, with its shards."
        try:
            if self._made is None:
                made = create_table_artifact(self._rows, key=self._key, description=text)
                assert isinstance(made, UUID)  # a coroutine only where an event loop runs
                self._made = made
            else:
                with get_client(sync_client=True) as client:
                    client.update_artifact(self._made, ArtifactUpdate(data=json.dumps(self._rows)))
        except Exception as error:  # the server's trouble is not the work's
            if not self._warned:
                self._warn(f"the stages cannot be shown: {type(error).__name__}: {error}. The work goes on.")
            self._warned = True
