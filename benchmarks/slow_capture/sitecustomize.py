"""Put on a worker's PYTHONPATH: its captures sleep before they compute, and leave a line when they begin and end.

So a source that a GPU would be busy with is played by one that needs no processor.
"""

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

CAPTURE = "logitfuse.tasks.capture"


class SlowCapture(importlib.abc.MetaPathFinder):
    """Changes the module when it is imported, and nothing else."""

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find the module as usual, and wrap what executes it."""
        if name != CAPTURE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            module.__dict__["capture_shard"] = slowed(module.__dict__["capture_shard"])

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def slowed(capture_shard: Any) -> Any:
    """Return the function with a sleep before it and a note around it."""

    def slow(*arguments: Any) -> Any:
        encoded = arguments[2]
        with noted(encoded.shard):
            time.sleep(float(os.environ["SLOW_CAPTURE_SECONDS"]))
            return capture_shard(*arguments)

    return slow


class noted:  # noqa: N801  # used as a function
    """Appends when a shard was begun and ended, by whom."""

    def __init__(self, shard: int) -> None:
        self._shard = shard

    def __enter__(self) -> None:
        self._began = time.time()
        self._note({"began": self._began})

    def __exit__(self, *error: object) -> None:
        self._note({"began": self._began, "ended": time.time()})

    def _note(self, times: dict[str, float]) -> None:
        line = {"shard": self._shard, "pid": os.getpid(), **times}
        with Path(os.environ["SLOW_CAPTURE_NOTES"]).open("a") as stream:
            stream.write(json.dumps(line) + "\n")


sys.meta_path.insert(0, SlowCapture())
