"""A program that has loaded all that a training process needs, and forks one for every line it reads.

Starting a process costs seconds of imports; a test that kills many can spare them. A line is [configuration, log];
the answers are the child's process id, and its exit code once it ended.
"""

import json
import os
import sys

import transformers.models.llama.modeling_llama  # noqa: F401  # of the tiny model

import logitfuse.tasks.training.trainer  # noqa: F401
from logitfuse.tasks.training import worker


def child(config: str, log: str) -> None:
    """Become a training process."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    code = worker.main([config])
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            child(*json.loads(line))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
