"""Shared by all tests: no time limits on property tests (numba compiles on first use, CI machines are shared)."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from s3_server import KEY, SECRET, Server, s3_server

pytest.register_assert_rewrite("loss_cases", "small_tokenizers")  # their checks say what differs, as tests do
settings.register_profile("logitfuse", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES") or 30))
settings.load_profile("logitfuse")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="module")
def in_this_process() -> Iterator[None]:
    """Models are trained in the test's own process."""
    from done_runs import training_here

    with training_here():
        yield


@pytest.fixture(scope="session")
def only_s3_server() -> Iterator[Server]:
    """One S3 server for all tests of a process."""
    pytest.importorskip("s3fs", reason="object stores need the extra logitfuse[s3]")
    pytest.importorskip("moto.server", reason="the local S3 server is in the extra logitfuse[test]")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(only_s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local S3 server with an empty bucket, credentials for it, and a cache of copies of its own."""
    from s3fs import S3FileSystem

    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": only_s3_server.address,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
        "LOGITFUSE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(S3FileSystem, "retries", 2)  # before a broken store's next attempt each waits longer
    only_s3_server.make_bucket()
    only_s3_server.as_usual()
    yield only_s3_server
    only_s3_server.as_usual()
    if only_s3_server.has_bucket():
        only_s3_server.remove_bucket()
