"""How `--help` names parameters: an argument in capitals, and no type beside a flag, which takes no value."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


def _named(parameters: list[Any]) -> list[Any]:
    for one in parameters:
        if one.metavar is None and getattr(one, "is_flag", False):
            one.metavar = ""
        elif one.metavar is None and one.param_type_name == "argument":
            one.metavar = one.name.upper()
    return parameters


class Command(TyperCommand):
    """A command with such a help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return its parameters, named."""
        return _named(super().get_params(ctx))


class Group(TyperGroup):
    """The command line as a whole."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return its options, named."""
        return _named(super().get_params(ctx))
