"""A study that is another one with changes (`extends`), and a variant that is another one with changes (`like`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from logitfuse.storage.errors import BadInput

Content = dict[str, Any]
MOST_ALIKE = 50  # variants, each like the next


def resolve(content: Content, where: str, read: Callable[[str], Content]) -> Content:
    """Return a study's content without `extends` and `like`; `read` returns the content of another study by name.

    `set` adds to what the other one sets, all other fields take its place; a variant that is null is left out.
    Raises `BadInput`.
    """
    return _with_alike(_with_extended(content, where, read, ()), where)


def _with_extended(content: Content, where: str, read: Callable[[str], Content], seen: tuple[str, ...]) -> Content:
    if "extends" not in content:
        return content
    name = str(content["extends"])
    if name in seen:
        raise BadInput(f"{where}: extends goes round in a circle: {' -> '.join((*seen, name))}.")
    other = _with_extended(read(name), where, read, (*seen, name))
    own = {field: value for field, value in content.items() if field != "extends"}
    return _changed(other, own) | {"variants": _variants(_mapping(other, "variants"), _mapping(own, "variants"))}


def _variants(before: Content, changes: Content) -> Content:
    changed = {name: _changed_variant(before.get(name) or {}, change or {}) for name, change in changes.items()}
    dropped = {name for name, change in changes.items() if change is None}
    return {name: variant for name, variant in (before | changed).items() if name not in dropped}


def _changed_variant(before: Any, change: Any) -> Any:
    """Return a variant with changes; what is no mapping is left to be refused when the study is validated."""
    return _changed(before, change) if isinstance(before, dict) and isinstance(change, dict) else change


def _with_alike(content: Content, where: str) -> Content:
    variants = _mapping(content, "variants")

    def settled(name: str, seen: tuple[str, ...]) -> Content:
        variant = variants[name] or {}
        if not isinstance(variant, dict) or "like" not in variant:
            return variant
        other = variant["like"]
        if not isinstance(other, str) or other not in variants or other in (*seen, name):
            raise BadInput(f"{where}: variant {name!r} is like {other!r}, which is no other variant of the study.")
        if len(seen) >= MOST_ALIKE:
            raise BadInput(f"{where}: variant {name!r} is the end of more than {MOST_ALIKE} that are like another.")
        own = {field: value for field, value in variant.items() if field != "like"}
        return _changed_variant(settled(other, (*seen, name)), own)

    return content | ({"variants": {name: settled(name, ()) for name in variants}} if variants else {})


def _changed(before: Content, own: Content) -> Content:
    """Return fields with an own study's or variant's in their place, and its settings after those that stand there."""
    if not isinstance(own.get("set", {}), dict):
        return before | own  # what is wrong with it is told when the study is validated
    earlier, later = flat_settings(_mapping(before, "set")), flat_settings(_mapping(own, "set"))
    both = {name: value for name, value in earlier.items() if name not in later} | later
    return before | own | ({"set": both} if both else {})


def _mapping(content: Content, field: str) -> Content:
    found = content.get(field)
    return found if isinstance(found, dict) else {}


def flat_settings(changes: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return changes with dotted names, as they are shown."""
    found: dict[str, Any] = {}
    for name, value in changes.items():
        if isinstance(value, dict) and value and "." not in str(name):
            found |= flat_settings(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found
