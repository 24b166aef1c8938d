"""Where inputs are read: a tiny run that is done, its models, and a folder that alone may be written to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """A reader of untrusted bytes: what it does with them, good ones to begin with, and how they are changed."""

    read: Callable[[Place, bytes], object]
    seeds: Callable[[Place], list[bytes]]
    form: str = "bytes"  # see forms.py
    permitted: tuple[type[Exception], ...] = ()  # beside the errors that are told to users in a line


@dataclass(frozen=True)
class Place:
    """A folder with recipe.yaml, the models a and b, corpus.jsonl and the run runs/tiny; inputs lie in scratch."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def run(self) -> Path:
        return self.root / "runs" / "tiny"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    def file(self, name: str, data: bytes) -> Path:
        """Write an input to a file of its own."""
        path = self.scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def copy(self, folder: Path, name: str) -> Path:
        """Return a fresh copy of a folder among the scratch."""
        shutil.rmtree(self.scratch / name, ignore_errors=True)
        return Path(shutil.copytree(folder, self.scratch / name, symlinks=True))

    def contents(self, pattern: str) -> list[bytes]:
        """Return the bytes of the run's files."""
        return [path.read_bytes() for path in sorted(self.run.glob(pattern))]

    @cached_property
    def sources(self) -> dict[str, Any]:
        """The run's models, each read once."""
        return {}
