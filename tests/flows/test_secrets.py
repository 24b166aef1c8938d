"""Secrets are planted, a server, a worker and runs are started, and every byte that they wrote is looked through."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from local_postgres import free_port

from logitfuse.tasks.recipe import Recipe

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]
SECONDS = 300
PLANTED = {
    "HF_TOKEN": "hf_PlantedTokenOfTheHub",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEYID",
    "AWS_SECRET_ACCESS_KEY": "PlantedSecretOfTheBucket",
    "WANDB_API_KEY": "PlantedKeyOfWandb",
    "PREFECT_SERVER_API_AUTH_STRING": "me:PlantedPasswordOfTheServer",
    "PREFECT_API_AUTH_STRING": "me:PlantedPasswordOfTheServer",
}
IN_A_URL = "PlantedInAnAddress"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[Path, int, subprocess.Popen[bytes]]]:
    """A `logitfuse up` with all these secrets in its environment, told to listen everywhere by Prefect's variable."""
    port, clean = free_port(), {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment = clean | PLANTED | {"PREFECT_SERVER_API_HOST": "0.0.0.0"}
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "logitfuse.flows.cli", "up", "--port", str(port)],
            cwd=tmp_path, env=environment, stdout=said, stderr=said,
        )  # fmt: skip
    try:
        wait_for(tmp_path, "Prefect is up:", process)
        yield tmp_path, port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)


def wait_for(folder: Path, words: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while words not in (said := (folder / "said").read_text()):
        assert time.monotonic() < deadline and process.poll() is None, said
        time.sleep(0.2)


def deployed(folder: Path, port: int, flow: str, parameters: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Start a deployment's run, as `prefect deployment run` does."""
    command = [sys.executable, "-m", "prefect", "deployment", "run", flow, "--params", json.dumps(parameters)]
    environment = os.environ | PLANTED | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def where_found(folder: Path, secrets: list[str]) -> list[str]:
    """Return which file holds which secret, of all files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files) and any(path.suffix == ".log" for path in files)
    return [f"{path}: {secret}" for path in files for secret in secrets if secret.encode() in path.read_bytes()]


def test_no_secret_is_kept_or_shown_and_only_this_machine_is_let_in(
    started: tuple[Path, int, subprocess.Popen[bytes]], tiny_recipe: Callable[..., Recipe]
) -> None:
    folder, port, process = started
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    assert listening == {"127.0.0.1"}

    content = tiny_recipe(execution={"folder": "runs", "min_free_gb": 0, "device": "cpu"}).model_dump(mode="json")
    done = deployed(folder, port, "prepare/prepare", {"recipe": content})
    assert done.returncode == 0, done.stderr
    wait_for(folder, "prepare-tiny completed: prepare: 3 done", process)
    address = f"s3://me:{IN_A_URL}@bucket/text.jsonl"
    refused = deployed(folder, port, "prepare/prepare", {"recipe": content | {"corpus": {"source": address}}})
    assert refused.returncode != 0

    secrets = [secret.removeprefix("me:") for secret in PLANTED.values()] + [IN_A_URL]
    commands = "\n".join(" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
    assert not [secret for secret in secrets if secret in commands]
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0
    assert not where_found(folder, secrets)
