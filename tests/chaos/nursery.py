"""A program that has loaded all that the command line needs, and forks one `logitfuse` command for every line it reads.

Starting a process costs seconds of imports; a campaign of hundreds of kills can spare them. Lines are JSON:
{"start": [arguments], "log": file, "moment": [...] or null, "environment": {}} is answered by a process id,
{"wait": process id} by its exit code and the changes that it counted.
"""

import json
import os
import sys
from typing import Any

import transformers.models.llama.modeling_llama  # noqa: F401  # of the tiny models
import troubles
from killer import Moment, arm

import logitfuse.tasks.report
import logitfuse.tasks.training.trainer  # noqa: F401
from logitfuse.flows.cli import main as main_of_cli

NEVER = 1 << 60


def child(task: dict[str, Any]) -> None:
    """Become a command; never returns."""
    os.setsid()
    handle = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.update(task["environment"])
    counted = arm(Moment(*task["moment"]))
    for name, *arguments in task.get("troubles", ()):
        getattr(troubles, name)(*arguments)
    code = 0
    try:
        sys.argv = ["logitfuse", *task["start"]]
        main_of_cli()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code))
    with open(f"{task['log']}.counted", "w") as stream:
        stream.write(str(counted()))
    sys.stdout.flush()
    os._exit(code)


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        task = json.loads(line)
        if "wait" in task:
            print(os.waitstatus_to_exitcode(os.waitpid(task["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            child(task)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
