"""`python -m logitfuse.flows.up.child MODULE …` runs a module that ends with the command that started it.

`up` stops its processes in order, and a run its temporary server. Where they cannot, because they were themselves
killed, nothing of them may stay: a worker without its `up` would take runs beside the next one's worker.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys

from logitfuse.tasks.training.parent import die_with

UP = "LOGITFUSE_UP"  # the `identity` of the `logitfuse up` that a process belongs to; all its descendants inherit it
OWNER = "LOGITFUSE_OWNER"  # the `identity` of the process that a child alone, without its descendants, ends with
CHILD = (sys.executable, "-m", "logitfuse.flows.up.child")  # and then a module with its arguments


def end_with_up() -> None:
    """Kill this process once the `logitfuse up` that it belongs to is gone; do nothing if it belongs to none."""
    if belongs_to := os.environ.get(UP):
        die_with(belongs_to)


def main() -> None:
    """Run the module named first, with the arguments that follow."""
    end_with_up()
    if owner := os.environ.pop(OWNER, None):
        die_with(owner)
    # A shell without job control starts what ends in `&` with Ctrl-C ignored; workers are stopped by that signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    module, *sys.argv[1:] = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
