"""A server that keeps dying: `up` starts it again twice, and ends with its log the third time within two minutes."""

from __future__ import annotations

import time
from typing import Any

from crash_server import Server, wait_until

SECONDS_OF_MEMORY = 120.0  # in which `up` counts deaths
SECONDS_TO_NOTICE = 120.0


def dies_thrice(server: Server) -> list[dict[str, Any]]:
    """Kill the server three times; return how `up` took it, which has ended afterwards.

    The first two must be followed by a server that answers.
    """
    time.sleep(max(0.0, server.last_killed + SECONDS_OF_MEMORY - time.monotonic()))  # what died before must not count
    began, answered = time.monotonic(), []
    for death in range(3):
        dead = server.part("server").pid
        server.kill("server")
        if death < 2:
            wait_until(lambda dead=dead: server.has_another("server", dead), SECONDS_TO_NOTICE, "another server")
            answered.append(round(wait_until(server.answers, SECONDS_TO_NOTICE, "its answer"), 1))
    wait_until(lambda: server.ended is not None, SECONDS_TO_NOTICE, "the end of `up`")
    right = server.ended != 0 and "the server ended 3 times within 120 s" in " ".join(server.said.split())
    seconds = round(time.monotonic() - began, 1)
    return [{"case": "thrice", "stage": "", "right_s": seconds, "answered_s": answered, "ok": right}]
