"""One small run for each file of fuzzing, made by the command line, in a folder of which nothing outside may change."""

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import answer
from tiny_run import write_tiny_run

from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.packaged.pinned import PackageFile

MOST_GROWTH = 1_500_000  # kB by which a whole module's tests may grow this process


@dataclass(frozen=True)
class Home:
    """Where the run, its models and its corpus lie."""

    root: Path
    content: dict[str, Any]

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def run(self) -> Path:
        return self.root / "runs" / "tiny"

    def write(self, name: str, content: Any) -> str:
        """Write a recipe beside the good one; return its path."""
        path = self.root / "scratch" / name
        data = content if isinstance(content, bytes) else yaml.safe_dump(content, allow_unicode=True).encode()
        path.write_bytes(data)
        return str(path)


def _not_here(package: PackageFile, target: Path) -> None:
    raise ModelRefused(f"cannot fetch {package.requirement} for {target}: not in this test.")


def _no_text(name: str, folder: Path, cache: Path | None) -> None:
    raise ModelRefused(f"cannot make text {name!r} in {folder}: not in this test.")


@pytest.fixture(scope="module")  # other tests of this process must find their own folder, cache and network
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A run that is done up to stage fuse."""
    root = tmp_path_factory.mktemp("home")
    (root / "scratch").mkdir()
    content = write_tiny_run(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "scratch")
        for name, value in {"LOGITFUSE_CACHE": str(root / "cache"), "HF_HUB_OFFLINE": "1", "HOME": str(root)}.items():
            patch.setenv(name, value)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        # Recipes that say nothing ask for these; the text would be gathered for seconds before a package is missed.
        patch.setattr("logitfuse.tasks.packaged.fetch.download", _not_here)
        patch.setattr("logitfuse.tasks.packaged.text._make", _no_text)
        made = answer("run", str(root / "recipe.yaml"), "--plain", "--stop-after", "fuse")
        assert made.code == 0, made
        yield Home(root, content)


@pytest.fixture(autouse=True)
def nothing_else_is_touched(home: Home) -> Iterator[None]:
    """No test writes anywhere but in the scratch folder, runs and cache, nor makes this process grow without bound."""
    before, held = _listing(home.root), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert _listing(home.root) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < MOST_GROWTH


def _listing(root: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file that must stay as it is, and the names around the root."""
    found = {str(path): (0, 0) for path in root.parent.iterdir()}
    for folder, names, files in os.walk(root):
        skipped = ("scratch", "cache", ".cache", ".config")  # the last two are those of libraries
        names[:] = [name for name in names if name not in skipped and folder != str(root / "runs")]
        for name in files:
            stat = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (stat.st_size, stat.st_mtime_ns)
    return found
