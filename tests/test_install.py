"""The wheel: built of the source distribution, installed in a fresh environment, run from another folder."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.install
@pytest.mark.timeout(900)
def test_the_wheel_works_away_from_the_repository(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]  # the wheel from the sdist
    built = subprocess.run(build, check=True, capture_output=True, text=True)
    assert "would be ignored" not in built.stdout + built.stderr
    assert list(tmp_path.glob("logitfuse-*.tar.gz"))
    (wheel,) = tmp_path.glob("logitfuse-*.whl")
    venv.create(tmp_path / "fresh", with_pip=True)
    python = str(tmp_path / "fresh" / "bin" / "python")
    constraints = str(ROOT / "constraints.txt")
    # What is not imported is not compiled: of torch and its like that is nearly all, and takes minutes.
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", constraints]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = tmp_path / "fresh" / "bin" / "logitfuse"
    listed = subprocess.run([command, "--help"], check=True, capture_output=True, text=True, cwd=elsewhere)
    assert "status" in listed.stdout
    code = (
        "import logitfuse.flows.cli as c, logitfuse.kernels.topk; from pathlib import Path; "
        "from logitfuse.tasks.recipe import read_recipe; from logitfuse.tasks.recipe_text import shipped_recipes; "
        "assert 'site-packages' in c.__file__; packages = Path(c.__file__).parents[1]; "
        "assert all((packages / name / 'py.typed').is_file() for name in ('flows', 'tasks', 'storage', 'kernels')); "
        "[read_recipe(name) for name in shipped_recipes()]; print(len(shipped_recipes()))"
    )
    shown = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=elsewhere)
    assert shown.returncode == 0, shown.stderr
    assert int(shown.stdout) >= 4
