"""Pushing a model to a hub: what is uploaded, byte by byte, to a small hub of the test's own, and what is refused."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import paper_models
import pytest
import yaml
from command_line import answer
from done_runs import done_run
from huggingface_hub import ModelCard, constants
from typer.testing import CliRunner

from logitfuse.flows.cli import app
from logitfuse.storage.errors import BadInput, ShardCorrupt, ShardMissing, WorkFailed
from logitfuse.tasks.execute import do_units
from logitfuse.tasks.push import plan_push, push
from logitfuse.tasks.recipe import parse_recipe
from logitfuse.tasks.report import READS
from logitfuse.tasks.run import Run
from logitfuse.tasks.unit import Unit

pytestmark = pytest.mark.models
TOKEN = "hf_" + "t" * 20


class Hub:
    """As much of the hub's HTTP interface as an upload needs; it keeps what it is sent."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.repositories: dict[str, bool] = {}  # whether private
        self.asked: list[str] = []
        self.status: int | None = None  # to answer every request with

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, object]:
        """Return status and JSON."""
        path = path.partition("?")[0]
        self.asked.append(f"{method} {path}")
        if method == "PUT":  # pre-signed, so without a token
            self.blobs[path.rpartition("/")[2]] = body
            return 200, {}
        if self.status or token != TOKEN:
            return self.status or 401, {"error": "no"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if method == "GET" and path.startswith("/api/models/"):
            name = path.removeprefix("/api/models/").removesuffix("/revision/main")
            return 200, {"id": name, "private": self.repositories[name], "siblings": [], "tags": []}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return 200, {"files": files}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._lfs(o) for o in json.loads(body)["objects"]]}
        if "/commit/" in path:
            return self._commit(path.removeprefix("/api/models/").partition("/commit/")[0], body)
        return 404, {"error": path}

    def _create(self, asked: dict) -> tuple[int, object]:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if name in self.repositories:
            return 409, {"error": "exists", "url": f"{self.url}/{name}"}
        visibility = asked.get("visibility")
        self.repositories[name] = bool(asked.get("private")) or visibility == "private"
        return 200, {"url": f"{self.url}/{name}", "name": name}

    def _lfs(self, asked: dict) -> dict:
        upload = {"href": f"{self.url}/blobs/{asked['oid']}"}
        return {"oid": asked["oid"], "size": asked["size"], "actions": {"upload": upload}}

    def _commit(self, name: str, body: bytes) -> tuple[int, object]:
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
        address = f"{self.url}/{name}/commit/{'0' * 40}"
        return 200, {"commitUrl": address, "commitOid": "0" * 40, "success": True, "hookOutput": ""}


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    """A hub at an address of its own, for this process; `hub.url` for others."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            status, content = hub.answer(self.command, self.path, body, token)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_HEAD = respond

        def log_message(self, *arguments) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("push")
    content = paper_models.recipe_content(folder, folder / "models", documents=14)
    content["train"] |= {"tokens_per_step": 2048}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def trained(recipe_file) -> Run:
    """A run that is trained but not evaluated."""
    return done_run(yaml.safe_load(recipe_file.read_text()), READS[: READS.index("evaluate")])


@pytest.fixture(scope="module")
def run(trained) -> Run:
    """The same, evaluated."""
    list(do_units(trained, trained.units("evaluate")))
    return trained


def test_before_it_is_evaluated_results_are_missing(trained):
    plan = plan_push(trained, "fused", "me/mine")
    assert "It was not evaluated" in plan.card
    assert any("evaluate" in line for line in plan.missing)
    assert any("licence of tiny-llama, tiny-mpt" in line for line in plan.missing)


def test_a_plan_names_the_results_files_and_nothing_else(run):
    record = run.record(Unit("train", "fused"))
    folder = run.store.local(f"{record.place}/{record.files[0].name.split('/')[0]}")
    (folder / "notes.txt").write_text("mine alone")
    try:
        plan = plan_push(run, "fused", "me/mine", private=True)
    finally:
        (folder / "notes.txt").unlink()
    names = {file.name for file in plan.files}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "generation_config.json"} <= names
    assert "notes.txt" not in names and not any("results" in line for line in plan.missing)
    for file in plan.files:
        content = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
        assert len(content) == file.bytes and file.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"
    card = ModelCard(plan.card)
    assert "| target |" in card.text and 'from_pretrained("me/mine")' in card.text
    assert re.search(r"\| mean \(\d+ documents\) \| (\*\*)?\d\.\d{4}", card.text)
    assert str(run.recipe.folder.parent.parent) not in plan.card


def test_an_upload_arrives_byte_by_byte_and_leaves_the_run_as_it_is(run, hub):
    record = run.record(Unit("train", "fused"))
    plan = plan_push(run, "fused", "me/mine", private=True)
    said: list[str] = []
    assert push(plan, said.append) == f"{hub.url}/me/mine"
    assert hub.repositories == {"me/mine": True} and "me/mine" in said[0]
    assert set(hub.files) == {file.name for file in plan.files}
    for file in record.files:
        name = file.name.partition("/")[2]
        here = run.store.local(f"{record.place}/{file.name}").read_bytes()
        assert f"sha256:{hashlib.sha256(here).hexdigest()}" == file.checksum
        if name != "README.md":
            assert hub.files[name] == here
    assert hub.files["README.md"].decode() == plan.card
    assert push(plan, said.append)  # again: nothing to object to


def test_a_dry_run_asks_nobody(run, recipe_file, hub):
    dry = answer("push", str(recipe_file), "--to", "me/mine", "--dry-run")
    assert dry.code == 0, dry.err
    assert "model.safetensors" in dry.out and "Missing: licence" in dry.out and "dry run" in dry.out
    assert "## Results" in dry.out and hub.asked == []


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own(run, recipe_file, hub):
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "logitfuse.flows.cli", "push", str(recipe_file), "--to", "me/mine"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/me/mine" in done.stdout and "model.safetensors" in hub.files
    assert hub.repositories == {"me/mine": False}


@pytest.mark.parametrize("name", ["mine", "me/mine/more", "me/mi ne", "me/..", "/mine"])
def test_impossible_names_are_refused(run, name):
    with pytest.raises(BadInput, match="--to"):
        plan_push(run, "fused", name)


def test_an_arm_that_is_not_trained_is_refused(run):
    with pytest.raises(BadInput, match="--arm control: this recipe trains fused"):
        plan_push(run, "control", "me/mine")


def test_before_training_there_is_nothing_to_push(recipe_file, tmp_path):
    content = yaml.safe_load(recipe_file.read_text()) | {"name": "other"}
    with pytest.raises(ShardMissing):
        plan_push(Run(parse_recipe(content, "test")), "fused", "me/mine")


def test_a_damaged_file_is_never_sent(run, hub):
    record = run.record(Unit("train", "fused"))
    file = next(f for f in record.files if f.name.endswith(".safetensors"))
    path = run.store.local(f"{record.place}/{file.name}")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        with pytest.raises(ShardCorrupt, match="nothing is uploaded"):
            plan_push(run, "fused", "me/mine")
    finally:
        path.write_bytes(good)
    assert hub.asked == []


def test_without_a_token_nothing_is_sent(run, hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="HF_TOKEN"):
        push(plan_push(run, "fused", "me/mine"))
    assert hub.asked == []


@pytest.mark.parametrize(("status", "advice"), [(403, "write access"), (401, "write access"), (500, "run again")])
def test_what_the_hub_refuses_is_said_with_what_to_do(run, hub, status, advice):
    hub.status = status
    with pytest.raises(WorkFailed, match=advice):
        push(plan_push(run, "fused", "me/mine"))


def test_a_hub_out_of_reach_is_said(run, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WorkFailed, match="HF_ENDPOINT"):
        push(plan_push(run, "fused", "me/mine"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="HF_HUB_OFFLINE"):
        push(plan_push(run, "fused", "me/mine"))


def test_private_is_not_uploaded_to_an_open_repository(run, hub):
    hub.repositories["me/mine"] = False
    with pytest.raises(BadInput, match="everybody can read it"):
        push(plan_push(run, "fused", "me/mine", private=True))
    assert not hub.files and not hub.blobs


def test_help_names_the_options():
    found = CliRunner().invoke(app, ["push", "--help"], env={"COLUMNS": "200"}).output
    assert "--dry-run" in found and "--private" in found and "--arm" in found
