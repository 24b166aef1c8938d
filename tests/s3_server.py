"""A local S3 server in the test's own process, which can be told to behave as other stores do, or badly."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

BUCKET = "bucket"
KEY = "a-key-for-tests"
SECRET = "a-secret-for-tests"
NOTHING = b'<?xml version="1.0"?><ListBucketResult><Name>bucket</Name><KeyCount>0</KeyCount></ListBucketResult>'


@dataclass
class Server:
    """The server; `seen` lists its requests. What is set here holds until `as_usual`."""

    address: str = ""
    blind: bool = False  # listings show nothing, as if they lagged behind for ever
    conditional: bool = True  # whether If-None-Match is honoured; many stores ignore it
    before: Callable[[str, str], None] = lambda method, path: None  # told of each request before it is done
    broken: Callable[[str, str], int] = lambda method, path: 0  # answers with this status instead of doing it
    refuses: bool = False  # answers as if no credentials were good
    seen: list[tuple[str, str]] = field(default_factory=list)

    def as_usual(self) -> None:
        """Forget what was set."""
        self.blind, self.conditional, self.refuses = False, True, False
        self.before, self.broken = Server.before, Server.broken
        self.seen.clear()

    def objects(self, prefix: str = "") -> dict[str, int]:
        """Return the size of each object."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        blind, self.blind = self.blind, False
        try:
            return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", [])}
        finally:
            self.blind = blind

    def remove_bucket(self) -> None:
        """Remove the bucket with all that is in it."""
        for name in self.objects():
            self.client.delete_object(Bucket=BUCKET, Key=name)
        self.client.delete_bucket(Bucket=BUCKET)

    def has_bucket(self) -> bool:
        return any(found["Name"] == BUCKET for found in self.client.list_buckets()["Buckets"])

    def make_bucket(self) -> None:
        self.client.create_bucket(Bucket=BUCKET)

    @cached_property
    def client(self) -> Any:
        """Return a client that shares nothing with the code under test."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.address, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )  # fmt: skip


def _answer(start: StartResponse, status: int, body: bytes) -> Iterable[bytes]:
    start(f"{status} said by the test", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _error(code: str, said: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{said}</Message></Error>'.encode()


@contextmanager
def s3_server() -> Iterator[Server]:
    """Run the server while the block does."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server, moto = Server(), DomainDispatcherApplication(create_backend_app)

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        server.seen.append((method, path))
        server.before(method, path)
        if server.refuses:
            body = b"" if method == "HEAD" else _error("InvalidAccessKeyId", "The key does not exist in our records.")
            return _answer(start, 403, body)
        if status := server.broken(method, path):
            return _answer(start, status, b"" if method == "HEAD" else _error("InternalError", "We are sorry."))
        if server.blind and method == "GET" and "list-type=2" in query:
            return _answer(start, 200, NOTHING)
        if not server.conditional:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        return moto(environ, start)

    http = make_server("127.0.0.1", 0, application, threaded=True)
    server.address = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
