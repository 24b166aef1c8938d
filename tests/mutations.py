"""What fuzzing makes of good input: bytes flipped, cut, zeroed, repeated; values of a tree replaced by hostile ones."""

import copy
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Names and values that have broken programs: paths out of a folder, NUL, commands for terminals, markup, huge numbers.
HOSTILE_TEXTS = [
    "", " ", ".", "..", "/", "../../etc/passwd", "/dev/zero", "/proc/self/mem", "~", "~nobody-here/x", "a\0b", "-rf",
    "a/b", "a\nb", "\x1b[2J\x1b]0;x\x07", "[/red]", "[bold]", "<script>alert(1)</script>", "{{ 7*7 }}", "%s%n",
    "$(touch x)", "\u202etxt", "é" * 200, "a" * 300, "a" * 5000, "a/" * 3000, "s3://", "s3://user:pass@bucket/x",
    "file:///etc", "x::y", "package:", "package:../x", "hub/../x", "٣", "²", "NaN", "null", "*", "[a", "**/*", "con",
    "\ufeff", "İ",
]  # fmt: skip
HOSTILE_NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**4000, 0.5, -0.0, 1e308, float("inf")]
HOSTILE = [
    *HOSTILE_TEXTS,
    *HOSTILE_NUMBERS,
    float("nan"),
    None,
    True,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"b": []}},
]


def fuzzing(examples: int) -> settings:
    """Settings of one property: so many examples in CI; HYPOTHESIS_MAX_EXAMPLES gives another number (`make fuzz`)."""
    chosen = int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES") or examples)
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=chosen, deadline=None, suppress_health_check=slow, print_blob=True)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with one to three places flipped, cut, zeroed, repeated, or replaced."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        to = min(len(data), at + draw(st.sampled_from([1, 2, 8, 100, 10**9])))
        how = draw(st.sampled_from(["flip", "cut", "zero", "repeat", "replace", "end"]))
        if how == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif how == "replace":
            data = data[:at] + draw(st.binary(max_size=20)) + data[to:]
        else:
            middle = {"zero": bytes(min(to - at, 10**6)), "repeat": data[at:to] * 2}.get(how, b"")
            data = data[:at] if how == "end" else data[:at] + middle + data[to:]
    return data


@st.composite
def distorted(draw: st.DrawFn, tree: Any) -> Any:
    """A copy of a tree of dictionaries and lists with one to three values replaced, removed or added."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        found = [place for place in places(tree) if place[0]]
        if not found:
            return draw(st.sampled_from(HOSTILE))
        holder, key = draw(st.sampled_from(found))
        how = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if how == "remove":
            del holder[key]
        elif how == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(HOSTILE_TEXTS))] = draw(st.sampled_from(HOSTILE))
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
    return tree


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a tree; of long containers the first and the last few."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    keys = keys if len(keys) <= 24 else keys[:12] + keys[-12:]
    return [(tree, key) for key in keys] + [place for key in keys for place in places(tree[key])]
