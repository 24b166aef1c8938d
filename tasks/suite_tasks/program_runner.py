"""The child that runs one generated program: it gives up what it could harm with, then runs it. Standard library only.

Run as a script with the order as JSON on its standard input. It imports nothing of this project.
"""

import ctypes
import json
import math
import os
import resource
import signal
import sys

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
NOBODY = 65534
KEEP_CAPABILITIES = 8  # of prctl: PR_SET_KEEPCAPS
CAPABILITY_VERSION = 0x20080522
READ_EVERYTHING = 1 << 2  # CAP_DAC_READ_SEARCH


def leave_network() -> bool:
    """Go where there is no network, if the system allows it; return whether one can still be reached."""
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is None:
        return True
    ways = (NEW_NETWORK,) if os.geteuid() == 0 else (NEW_USER | NEW_NETWORK,)
    return all(unshare(way) != 0 for way in ways)


def leave_root(folder: str) -> None:
    """Become nobody, because root's limits on processes do not hold.

    Where only root can read Python's own library (it lies in /root), the right to read every file is kept.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None)
    os.chown(folder, NOBODY, NOBODY)
    libc.prctl(KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    set_capabilities(libc, 0)
    if not os.access(os.__file__, os.R_OK):
        set_capabilities(libc, READ_EVERYTHING)


def set_capabilities(libc: ctypes.CDLL, effective: int) -> None:
    """Keep no right of root's but, at most, that to read; what is not in effect can still be put into effect here."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)(effective, READ_EVERYTHING, 0, 0, 0, 0))


def set_limits(order: dict) -> None:
    """Set hard limits, which a normal user cannot raise again."""
    seconds = math.ceil(order["seconds"])
    wanted = {
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_AS: (order["memory_mb"] << 20,) * 2,
        resource.RLIMIT_FSIZE: (order["file_mb"] << 20,) * 2,
        resource.RLIMIT_NOFILE: (order["open_files"],) * 2,
        resource.RLIMIT_NPROC: (1, 1),  # itself: it may start none
        resource.RLIMIT_CORE: (0, 0),
    }
    for limit, values in wanted.items():
        resource.setrlimit(limit, values)


def main() -> None:
    """Run the program and write a report: the agreed word if it came to its end, its error otherwise."""
    order = json.load(sys.stdin)
    network = leave_network()
    leave_root(order["folder"])
    set_limits(order)
    sys.setrecursionlimit(10_000)
    signal.setitimer(signal.ITIMER_REAL, order["seconds"])  # nobody handles it: the process ends
    report: dict[str, object] = {"network": network}
    with open("report", "w") as stream:
        json.dump(report, stream)
    try:
        exec(compile(order["program"], "program", "exec"), {"__name__": "__main__"})  # its whole purpose
        report["word"] = order["word"]
    except BaseException as error:  # a program may also raise SystemExit or KeyboardInterrupt
        kind = type(error).__name__
        report["error"] = f"{kind}: {str(error)[:160]}" if not isinstance(error, MemoryError) else "MemoryError"
    signal.setitimer(signal.ITIMER_REAL, 0)
    with open(os.path.join(order["folder"], "report"), "w") as stream:
        json.dump(report, stream)
    sys.stdout = sys.stderr = None
    os._exit(0 if "word" in report else 1)


main()
