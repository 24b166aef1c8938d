"""Run folders wherever they are: a path on this machine, or the URL of an object store."""

from pathlib import Path

from logitfuse.storage.store import LocalStore
from logitfuse.storage.urls import copies_folder, is_url

RUN_FILE = "run.json"  # in a run's folder: what it was made for
RUNS = "runs"  # in the cache: this machine's copies of run folders


def run_folder(folder: str, name: str) -> Path:
    """Return where a run's files lie on this machine; of one in an object store, its copy."""
    if is_url(folder):
        return copies_folder(run_place(folder, name), RUNS)
    return Path(folder).expanduser() / name


def run_place(folder: str, name: str) -> str:
    """Return how messages call a run's folder: its path or URL."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(run_folder(folder, name))


def open_store(folder: str, name: str) -> LocalStore:
    """Open a run's store; what lies at a URL is not looked at before it is asked for."""
    local = run_folder(folder, name)
    if not is_url(folder):
        return LocalStore(local)
    from logitfuse.storage.object_store import ObjectStore

    return ObjectStore(run_place(folder, name), local)
