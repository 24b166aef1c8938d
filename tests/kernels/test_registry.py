"""Registries find strategies in their folder, know their options and help with wrong names."""

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from logitfuse.kernels.registry import BadOption, Registry, UnknownName

PACKAGE = "strategies_for_the_registry_test"
MIN_CE = f"""
    from typing import Annotated, Literal
    from pydantic import Field
    from {PACKAGE} import RULES

    @RULES("min_ce")
    def min_ce(scores, *, temperature: Annotated[float, Field(gt=0)] = 1.0,
               granularity: Literal["document", "block"] = "document"):
        return scores, temperature, granularity
"""
BACKEND = f"""
    from {PACKAGE} import RULES

    @RULES("backend")
    class Backend:
        def __init__(self, model, *, depth: int, sizes: tuple[int, ...] = (1, 2)):
            self.depth = depth
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    folder = tmp_path / PACKAGE
    folder.mkdir()
    init = "from logitfuse.kernels.registry import Registry\nRULES = Registry('fusion rule', __name__)\n"
    (folder / "__init__.py").write_text(init)
    (folder / "min_ce.py").write_text(dedent(MIN_CE))
    (folder / "backend.py").write_text(dedent(BACKEND))
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__(PACKAGE).RULES
    for module in [m for m in sys.modules if m.startswith(PACKAGE)]:
        del sys.modules[module]


def test_strategies_are_found_in_the_folder(rules: Registry) -> None:
    assert f"{PACKAGE}.min_ce" not in sys.modules  # lazily: nothing is imported before it is asked for
    assert rules.names() == ["backend", "min_ce"]
    assert rules.get("min_ce")(3, temperature=2.0) == (3, 2.0, "document")


def test_unknown_name_tells_the_closest(rules: Registry) -> None:
    with pytest.raises(UnknownName) as caught:
        rules.get("minc")
    assert str(caught.value) == "unknown fusion rule 'minc'. Did you mean 'min_ce'? Known: backend, min_ce."
    assert isinstance(caught.value, ValueError)


def test_a_name_like_no_other_gets_no_suggestion(rules: Registry) -> None:
    with pytest.raises(UnknownName, match=r"^unknown fusion rule 'zzz'\. Known: "):
        rules.get("zzz")


def test_options_are_validated_and_defaults_dropped(rules: Registry) -> None:
    given = {"temperature": "2", "granularity": "document"}
    assert rules.check_options("min_ce", given) == {"temperature": 2.0}
    assert rules.check_options("min_ce", {"temperature": 1}) == {}
    assert rules.check_options("min_ce", {}) == {}
    assert rules.check_options("backend", {"depth": 3, "sizes": [4]}) == {"depth": 3, "sizes": (4,)}


def test_unknown_option_tells_the_closest(rules: Registry) -> None:
    with pytest.raises(UnknownName, match=r"'min_ce' has no option 'temprature'\. Did you mean 'temperature'"):
        rules.check_options("min_ce", {"temprature": 1.0})
    with pytest.raises(UnknownName, match="no option 'scores'"):  # an array is not an option
        rules.check_options("min_ce", {"scores": 1})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("min_ce", {"temperature": "hot"}, "option 'temperature' cannot be 'hot': .*valid number"),
        ("min_ce", {"temperature": 0}, "greater than 0"),
        ("min_ce", {"granularity": "word"}, "'document' or 'block'"),
        ("backend", {}, "needs 'depth'"),
        ("backend", {"depth": 1.5}, "option 'depth' cannot be 1.5"),
    ],
)
def test_wrong_values_are_refused(rules: Registry, name: str, options: dict, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        rules.check_options(name, options)


def test_two_strategies_cannot_share_a_name(rules: Registry) -> None:
    rules.names()
    with pytest.raises(ValueError, match="'min_ce' is declared by"):
        rules("min_ce")(lambda scores: scores)


def test_a_broken_strategy_is_not_passed_over(rules: Registry, tmp_path: Path) -> None:
    (tmp_path / PACKAGE / "broken.py").write_text("import no_such_module_anywhere\n")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
            rules.names()
