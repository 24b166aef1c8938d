"""Strategies by name: a small file with one decorated function or class is all that adding one takes.

Keyword-only arguments are the strategy's options; their annotations and defaults are the whole declaration.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from logitfuse.kernels.closest_name import known_names

Strategy = TypeVar("Strategy", bound=Callable[..., Any])
Declared = TypeVar("Declared", bound=Callable[..., Any])


class UnknownName(ValueError):
    """No strategy, or no option of a strategy, has this name."""


class BadOption(ValueError):
    """An option's value does not fit its declared type, or a required option is missing."""


class Registry(Generic[Strategy]):
    """The strategies of one kind, found in one package: `@FUSIONS("min_ce")` above a function adds it."""

    def __init__(self, kind: str, package: str) -> None:
        """`kind` is what messages call a strategy; the modules of `package` are imported on first use."""
        self.kind = kind
        self.package = package
        self._strategies: dict[str, Strategy] = {}
        self._discovered = False

    def __call__(self, name: str) -> Callable[[Declared], Declared]:
        """Return the decorator that adds a strategy as `name` and hands it back unchanged."""

        def add(strategy: Declared) -> Declared:
            standing = self._strategies.get(name)
            if standing is not None and _origin(standing) != _origin(strategy):
                raise ValueError(f"{self.kind} {name!r} is declared by {_origin(standing)} and {_origin(strategy)}.")
            self._strategies[name] = strategy  # type: ignore[assignment]
            return strategy

        return add

    def names(self) -> list[str]:
        """Return all names, sorted."""
        self._discover()
        return sorted(self._strategies)

    def get(self, name: str) -> Strategy:
        """Return the strategy called `name`; `UnknownName` tells the closest known one."""
        known = self.names()
        if name not in self._strategies:
            raise UnknownName(f"unknown {self.kind} {name!r}. {_known(name, known)}")
        return self._strategies[name]

    def default_options(self, name: str) -> dict[str, Any]:
        """Return the options of the strategy called `name` with their defaults, None where one must be given."""
        declared = _options_of(self.get(name))
        return {option: None if p.default is p.empty else p.default for option, p in declared.items()}

    def check_options(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Validate options against the keyword-only arguments, ready for `get(name)(…, **checked)`.

        Only what differs from the defaults comes back, so that spelling out a default changes no key.
        Raises `UnknownName` for an option it does not have, `BadOption` for a wrong value or a missing one.
        """
        strategy = self.get(name)
        declared = _options_of(strategy)
        for option in options:
            if option not in declared:
                raise UnknownName(f"{self.kind} {name!r} has no option {option!r}. {_known(option, declared)}")
        missing = [o for o, p in declared.items() if p.default is p.empty and o not in options]
        if missing:
            raise BadOption(f"{self.kind} {name!r} needs {', '.join(map(repr, missing))}: give it under its options.")
        hints = get_type_hints(strategy.__init__ if inspect.isclass(strategy) else strategy, include_extras=True)
        checked = {o: self._check(name, o, hints.get(o, Any), value) for o, value in options.items()}
        return {o: value for o, value in checked.items() if not _same(value, declared[o].default)}

    def _check(self, name: str, option: str, annotation: Any, value: Any) -> Any:
        try:
            return TypeAdapter(annotation).validate_python(value)
        except ValidationError as error:
            why = "; ".join(problem["msg"] for problem in error.errors())
            raise BadOption(f"{self.kind} {name!r}: option {option!r} cannot be {value!r}: {why}.") from None

    def _discover(self) -> None:
        """Import the package's modules. The import system makes this safe to enter twice."""
        if self._discovered:
            return
        folder = importlib.import_module(self.package).__path__
        for module in pkgutil.iter_modules(folder):
            importlib.import_module(f"{self.package}.{module.name}")
        self._discovered = True


def _options_of(strategy: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(strategy).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _origin(strategy: Callable[..., Any]) -> str:
    return f"{strategy.__module__}.{strategy.__qualname__}"


def _known(name: str, known: Iterable[str]) -> str:
    return known_names(str(name), sorted(known), cutoff=0.4)
