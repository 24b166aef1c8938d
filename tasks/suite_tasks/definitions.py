"""The tasks that a run asks: what each is, where it is defined, and what identifies that definition's content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from logitfuse.storage.checksums import checksum_bytes, checksum_file
from logitfuse.storage.errors import BadInput
from logitfuse.storage.keys import canonical_json
from logitfuse.storage.paths import user_path
from logitfuse.storage.yaml_text import YamlRefused, parse_yaml
from logitfuse.tasks.packaged.task_files import fetch_tasks
from logitfuse.tasks.suite_tasks.harness import built_in_folder, harness_version, registered_tasks
from logitfuse.tasks.suite_tasks.known import BUILT_IN, INLINE, PROGRAM

if TYPE_CHECKING:
    from logitfuse.tasks.suites_settings import SuiteSettings

PACKAGE_PREFIX = "package:"
FUNCTION = "!function"  # the tag before a Python function's name


@dataclass(frozen=True)
class Definition:
    """One task: the suite it is part of, its name, and its file, or its content where it has none."""

    suite: str
    name: str
    file: Path | None
    content: str  # the configuration as JSON, functions by name: enough to see what kind of task it is
    fingerprint: str

    @property
    def config(self) -> dict[str, Any]:
        return dict(json.loads(self.content))

    @property
    def runs_code(self) -> bool:
        """Whether an answer is scored by running it, by us in a child."""
        return PROGRAM in (self.config.get("metadata") or {})

    @property
    def runs_code_inside(self) -> bool:
        """Whether lm-eval itself would run what the model wrote, in this very process."""
        return bool(self.config.get("unsafe_code"))


def chosen_tasks(settings: SuiteSettings) -> list[Definition]:
    """Return the tasks of all that is named, each once, in the order of the tables; raise `BadInput`."""
    found = [definition for name in settings.names for definition in _of_suite(name)]
    if settings.include_path:
        found += _of_folder(user_path(settings.include_path, "suites.include_path"), "own", "suites.include_path")
    found += [_built_in("tasks", name, file) for name, file in registered_tasks(settings.tasks).items()]
    by_name: dict[str, Definition] = {}
    for definition in found:
        known = by_name.setdefault(definition.name, definition)
        if known.fingerprint != definition.fingerprint:
            raise BadInput(
                f"suites: two tasks are called {definition.name!r}, in {known.suite} and in {definition.suite}. "
                "Rename the one of yours, or leave one of them out."
            )
    return list(by_name.values())


def _of_suite(name: str) -> list[Definition]:
    if name.startswith(PACKAGE_PREFIX):
        return _of_folder(fetch_tasks(name.removeprefix(PACKAGE_PREFIX)), name, f"suite {name}")
    if name in INLINE:
        config = INLINE[name]
        return [Definition(name, config["task"], None, json.dumps(config), checksum_bytes(canonical_json(config)))]
    return [_built_in(name, task, built_in_folder() / file) for task, file in BUILT_IN[name].items()]


def _built_in(suite: str, name: str, file: Path) -> Definition:
    """A task of lm-eval's own; its version stands for the content, its data set's is the hub's."""
    config = {**read_task(file), "task": name}
    return Definition(suite, name, file, _plain(config), f"lm_eval {harness_version()} {name}")


def _of_folder(folder: Path, suite: str, where: str) -> list[Definition]:
    if not folder.is_dir():
        raise BadInput(f"{where}: {folder} is no folder. Give a folder of task files (YAML).")
    found = []
    for file in _task_files(folder, where):
        config = read_task(file)
        if isinstance(config.get("task"), str):  # groups name tasks, parts are included by them
            content = checksum_bytes(canonical_json([[name, checksum_file(f)] for name, f in _files_of(file)]))
            found.append(Definition(suite, config["task"], file, _plain(config), content))
    if not found:
        raise BadInput(f"{where}: no file *.yaml under {folder} defines a task. It needs an entry `task: NAME`.")
    return found


def _task_files(folder: Path, where: str) -> list[Path]:
    try:
        return sorted(file for file in folder.rglob("*.yaml") if file.is_file())
    except OSError as error:
        raise BadInput(f"{where}: {folder} cannot be looked through ({error}). Give a folder of task files.") from None


def _plain(config: dict[str, Any]) -> str:
    return json.dumps(config, default=str)


class _Reader(yaml.SafeLoader):
    """Reads task files without importing the functions that they name."""


def _function(_: yaml.SafeLoader, node: yaml.Node) -> str:
    return f"{FUNCTION} {node.value}"


_Reader.add_constructor(FUNCTION, _function)


def read_task(file: Path) -> dict[str, Any]:
    """Return a task file's content, what it includes first, functions as text; raise `BadInput` naming the file."""
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"), _Reader)
    except (OSError, ValueError, YamlRefused) as error:
        raise BadInput(f"{file}: not a task file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{file}: a task file is a mapping of fields, not a {type(content).__name__}.")
    merged: dict[str, Any] = {}
    includes = content.pop("include", [])
    for included in includes if isinstance(includes, list) else [includes]:
        merged |= read_task(file.parent / included)
    return merged | content


def _files_of(file: Path) -> list[tuple[str, Path]]:
    """Return a task file and every file it names (data, parts, Python modules), with the names it uses."""
    content = parse_yaml(file.read_text(encoding="utf-8"), _Reader)
    named = [(file.name, file)]
    for text in _texts(content):
        is_function = text.startswith(f"{FUNCTION} ")
        name = text.removeprefix(f"{FUNCTION} ").rpartition(".")[0] + ".py" if is_function else text
        path = file.parent / name
        if len(name) < 1000 and "\n" not in name and path.is_file():
            named += _files_of(path) if path.suffix == ".yaml" and path != file else [(name, path)]
    return sorted(set(named))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
