"""What the exit codes of `logitfuse` mean, for scripts; docs/commands.md shows this table."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. A signal's exit code is 128 and its number; `MEANING` has those that are common."""

    DONE = 0
    ANSWERED_NO = 1
    REFUSED = 2
    DEFECT = 70
    HANGUP = 129
    INTERRUPTED = 130
    KILLED = 137
    TERMINATED = 143


MEANING = {
    ExitCode.DONE: "done",
    ExitCode.ANSWERED_NO: "it did what it was asked, and the answer is no: something is missing, damaged or at fault",
    ExitCode.REFUSED: "refused or failed, in a line that says what to do; what was finished stays",
    ExitCode.DEFECT: "a defect of this program, with a traceback: please report it",
    ExitCode.HANGUP: "its terminal was closed",
    ExitCode.INTERRUPTED: "ended by Ctrl-C",
    ExitCode.KILLED: "killed (SIGKILL, the kernel's out-of-memory killer)",
    ExitCode.TERMINATED: "ended by SIGTERM",
}
