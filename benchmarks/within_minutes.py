"""A child process that works until the minutes are over, and is stopped so that it can go on next time."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time

from logitfuse.tasks.training.parent import PARENT, identity

DONE, FAILED, MORE = 0, 1, 75  # 75 is EX_TEMPFAIL: try again
STOPPED = 128 + signal.SIGTERM
FOR_RESULTS = 45.0  # seconds kept for reading and writing the results
TO_STOP = 45.0  # seconds that the child has for a checkpoint, or for the batch it is at


def run_within(arguments: argparse.Namespace, began: float, command: list[str]) -> int:
    """Let a child do the studies until the minutes since `began` are over, then write and print where they stand.

    Returns 0 with everything done, 75 with more to do, 1 where a run failed, another code of a child that broke down.
    """
    seconds = arguments.minutes * 60
    for_results, to_stop = min(FOR_RESULTS, seconds / 10), min(TO_STOP, seconds / 4)
    code = _child([sys.executable, *command, "--child"], began + seconds - for_results, to_stop)
    if code not in (DONE, FAILED, STOPPED):
        return code
    from gpu_studies import report

    left = report(arguments)
    if code == FAILED:
        return FAILED
    print(f"{left} runs are left: the same command goes on." if left else "everything is done.")
    return MORE if left else DONE


def _child(command: list[str], end: float, to_stop: float) -> int:
    """Run the command; ask it to stop `to_stop` seconds before `end`, kill it at the end; return its exit code."""
    child = subprocess.Popen(command, env={**os.environ, PARENT: identity(os.getpid()), "PYTHONUNBUFFERED": "1"})
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # whoever stops us wants the checkpoint too
    import gpu_studies  # noqa: F401  # loading torch takes seconds that would be missing in the end

    with contextlib.suppress(subprocess.TimeoutExpired):
        return _code(child.wait(max(0.0, end - to_stop - time.monotonic())))
    print("the minutes are over: stopping", flush=True)
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return _code(child.wait(max(0.0, end - time.monotonic())))
    print("it did not stop in time: killed. It goes on from the last checkpoint.", flush=True)
    child.kill()  # its training processes die with it
    child.wait()
    return STOPPED


def _code(code: int) -> int:
    """Return an exit code; a child that SIGTERM ended before it could listen was stopped, too."""
    return STOPPED if code == -signal.SIGTERM else code
