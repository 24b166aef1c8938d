"""The stages after prepare, in order. Each module says what its units are and how one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from logitfuse.tasks import (
    adapt,
    align,
    capture,
    check,
    encode,
    evaluate,
    fuse,
    headroom,
    merge,
    report,
    suites,
    train,
    vocabulary_map,
)

if TYPE_CHECKING:
    from logitfuse.tasks.engine import Work
    from logitfuse.tasks.run import Run
    from logitfuse.tasks.unit import Unit


class Stage(Protocol):
    """What a stage's module offers."""

    def units(self, run: Run) -> list[Unit]: ...

    def work(self, run: Run, unit: Unit) -> Work: ...


STAGES: dict[str, Stage] = {
    "encode": cast(Stage, encode),
    "check": cast(Stage, check),
    "adapt": cast(Stage, adapt),
    "capture": cast(Stage, capture),
    "map": cast(Stage, vocabulary_map),
    "align": cast(Stage, align),
    "fuse": cast(Stage, fuse),
    "headroom": cast(Stage, headroom),
    "train": cast(Stage, train),
    "merge": cast(Stage, merge),
    "evaluate": cast(Stage, evaluate),
    "suites": cast(Stage, suites),
    "report": cast(Stage, report),
}
ORDER = ["prepare", *STAGES]
