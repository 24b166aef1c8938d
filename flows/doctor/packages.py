"""Python and its packages: what is installed, against the versions that this project asks for."""

from __future__ import annotations

import platform
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from logitfuse.flows.doctor.findings import Finding, State

OLDEST_PYTHON = (3, 11)
# What each extra is for, in the order in which it is told; those for developers are left out.
EXTRAS = {
    "flash": "faster attention in training on a GPU",
    "triton": "the GPU's loss kernels",
    "suites": "benchmark tasks (lm-evaluation-harness)",
    "s3": "run folders, corpora and models at s3:// URLs",
    "lora": "training with LoRA",
    "tensorboard": "TensorBoard",
    "wandb": "Weights & Biases",
}


def check_packages() -> Iterator[Finding]:
    """Yield what holds for Python, for the packages that are needed, and for the extras."""
    state: State = "fine" if sys.version_info >= OLDEST_PYTHON else "broken"
    mend = "" if state == "fine" else "Make the environment anew with Python 3.11 or newer."
    yield Finding("Packages", "Python", state, f"{platform.python_version()} ({sys.executable})", mend)
    needed, extras = requirements()
    wrong = [found for requirement in needed if (found := fault_of(requirement))]
    if wrong:
        yield Finding("Packages", "needed packages", "broken", "; ".join(wrong), _install(needed, wrong))
    else:
        yield Finding("Packages", "needed packages", "fine", f"all {len(needed)}, in versions that fit")
    for extra, use in EXTRAS.items():
        yield _extra(extra, use, extras.get(extra, []))


def _install(needed: list[Requirement], wrong: list[str]) -> str:
    named = [requirement for requirement in needed if any(line.startswith(requirement.name) for line in wrong)]
    wanted = " ".join(f"'{requirement.name}{requirement.specifier}'" for requirement in named)
    return f"pip install {wanted}"


def _extra(extra: str, use: str, wanted: list[Requirement]) -> Finding:
    faults = [fault for requirement in wanted if (fault := fault_of(requirement))]
    name = f"logitfuse[{extra}]"
    if not faults:
        versions = ", ".join(f"{requirement.name} {version(requirement.name)}" for requirement in wanted)
        return Finding("Extras", name, "fine", versions or "nothing is needed")
    return Finding("Extras", name, "note", f"{'; '.join(faults)} ({use})", f"If you want it: pip install '{name}'")


def requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Return what is needed, and what each extra needs, on this platform."""
    needed: list[Requirement] = []
    extras: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, _stated()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed.append(requirement)
        elif extra := next((name for name in EXTRAS if requirement.marker.evaluate({"extra": name})), None):
            extras.setdefault(extra, []).append(requirement)
    return needed, extras


def _stated() -> list[str]:
    """Return the requirements of the folder that this package runs from, or of the installed package.

    What an editable installation says of itself is as old as its last `pip install`.
    """
    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if not file.is_file():
        return requires("logitfuse") or []
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    stated = list(project["dependencies"])
    for extra, wanted in project["optional-dependencies"].items():
        for requirement in map(Requirement, wanted):
            also = f"({requirement.marker}) and " if requirement.marker else ""
            stated.append(f"{requirement.name}{requirement.specifier}; {also}extra == '{extra}'")
    return stated


def fault_of(requirement: Requirement) -> str:
    """Say what is wrong with a requirement here; nothing where it is met."""
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(Version(found), prereleases=True):
        return ""
    return f"{requirement.name} {found} does not fit {requirement.specifier}"
