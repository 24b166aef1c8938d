"""The house's own rules: import directions, no un-prefixed imports, nothing unpackaged, no Prefect in the workers."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ["kernels", "storage", "tasks", "flows"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FORBIDDEN = {
    "kernels": {"prefect", "transformers", "pyarrow", "datasets"},
    "storage": {"prefect", "torch", "transformers"},
    "tasks": {"prefect"},
    "flows": set(),
}


def modules() -> list[Path]:
    return sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards_only(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    above = LAYERS[LAYERS.index(layer) + 1 :]
    for name in imports(path):
        first, *rest = name.split(".")
        assert first not in LAYERS, f"import logitfuse.{first}, not {first}"
        assert first not in FORBIDDEN[layer]
        assert not (first == "logitfuse" and rest and rest[0] in above), f"{layer} must not import {name}"


def test_tests_and_benchmarks_use_the_package_name() -> None:
    for folder in ("tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not {name.split(".")[0] for name in imports(path)} & set(LAYERS), path


def test_every_folder_is_packaged() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    there = {"logitfuse." + ".".join(p.parent.relative_to(ROOT).parts) for p in modules()}
    recipes = {f"logitfuse.{path.parent.relative_to(ROOT)}".replace("/", ".") for path in ROOT.glob("recipes/**/*")}
    assert there | recipes == listed
    assert not (ROOT / "kernels" / "__init__.py").exists(), "it would hide the real package named kernels"


def test_workers_and_the_core_do_not_load_prefect() -> None:
    modules = ("training.worker", "training.trainer", "execute", "recipe")
    code = f"import sys, {', '.join(f'logitfuse.tasks.{name}' for name in modules)}; sys.exit('prefect' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_real_package_named_kernels_is_found(tmp_path: Path) -> None:
    """Hugging Face's `kernels` must win over our folder, also from the repository's root, where it is on the path."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("REAL = True\n")
    code = "import kernels, logitfuse.kernels.topk; assert kernels.REAL"
    for arguments in (["-c", code], ["-m", "check_kernels"]):
        (tmp_path / "check_kernels.py").write_text(code)
        environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
        subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, env=environment)
