"""YAML that users write: plain data only, whatever stands there, and no larger than it looks."""

from __future__ import annotations

from typing import Any

import yaml

MOST_BYTES = 4 << 20  # a recipe has a few thousand
DEEPEST = 100  # lists within lists
LARGEST_BITS = 64  # of a whole number
MOST_VALUES = 1_000_000  # once aliases are written out: nine lines of YAML can stand for a billion values


class YamlRefused(ValueError):
    """Text that is no YAML, or none that is taken; its message is one line."""


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return what YAML text holds; raise `YamlRefused` for anything else.

    `loader` builds plain values, as `SafeLoader` does. Its own constructors raise many errors for scalars such as
    2001-99-99, which are the text's fault like all others.
    """
    if len(text) > MOST_BYTES:
        raise YamlRefused(f"it has {len(text):,} characters, more than the {MOST_BYTES:,} that are read")
    try:
        content = yaml.load(text, loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise YamlRefused(" ".join(str(error).split())) from None
    except RecursionError:
        raise YamlRefused("it is nested too deeply") from None
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError) as error:
        said = " ".join(str(error).split()).split("; use sys.")[0]
        raise YamlRefused(f"a value cannot be read ({type(error).__name__}: {said[:200]})") from None
    _measure(content, {})
    return content


def _measure(value: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return the number of values once aliases are written out, and how deep they lie; raise `YamlRefused`.

    `known` holds both of each container by its identity, zeros while it is being measured.
    """
    if isinstance(value, int) and value.bit_length() > LARGEST_BITS:
        raise YamlRefused("it holds a whole number of more than 64 bits")
    if not isinstance(value, dict | list | tuple | set):
        return 1, 0
    if id(value) not in known:
        known[id(value)] = (0, 0)
        found = [_measure(one, known) for one in ([*value, *value.values()] if isinstance(value, dict) else value)]
        known[id(value)] = (1 + sum(size for size, _ in found), 1 + max((deep for _, deep in found), default=0))
        _refuse_too_much(*known[id(value)])
    if known[id(value)] == (0, 0):
        raise YamlRefused("an alias stands for what it is part of")
    return known[id(value)]


def _refuse_too_much(size: int, deep: int) -> None:
    if size > MOST_VALUES:
        raise YamlRefused(f"its aliases stand for more than {MOST_VALUES:,} values")
    if deep > DEEPEST:
        raise YamlRefused(f"it is nested too deeply: {deep} levels, of {DEEPEST} that are read")
