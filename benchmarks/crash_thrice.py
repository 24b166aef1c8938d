"""A server that keeps dying: `up` starts it again twice, and ends with its log the third time within two minutes."""

from __future__ import annotations

import time
from typing import Any

from crash_server import Server, wait_until


def dies_thrice(server: Server) -> list[dict[str, Any]]:
    """Kill the server three times, and return how `up` took it; `up` has ended afterwards."""
    time.sleep(120)  # what died before must not count
    began = time.monotonic()
    for _ in range(3):
        wait_until(lambda: _lives(server), 60, "the server")
        server.kill("server")
        time.sleep(4)  # `up` looks each three seconds
    wait_until(lambda: server.ended is not None, 60, "the end of `up`")
    right = server.ended != 0 and "the server ended 3 times within 120 s" in " ".join(server.said.split())
    return [{"case": "thrice", "stage": "", "right_s": round(time.monotonic() - began, 1), "ok": right}]


def _lives(server: Server) -> bool:
    try:
        return server.part("server").is_running()
    except LookupError:
        return False
