"""Where a server of `logitfuse up` is: its address, its folder, and the environment that its processes get."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from logitfuse.flows.prefect_settings import DEFAULTS
from logitfuse.flows.up.child import UP
from logitfuse.flows.up.database import VARIABLE as DATABASE
from logitfuse.storage.errors import BadInput

SERVER_AUTH, CLIENT_AUTH = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
FOR_THE_SERVER = (DATABASE, SERVER_AUTH)  # secrets that workers and runs have no use for
# A profile or a key of another server must not reach this one's clients.
OF_OTHER_SERVERS = ("PREFECT_PROFILE", "PREFECT_API_KEY", "PREFECT_API_URL", "PREFECT_SERVER_API_HOST")
WANTED = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",  # outlive it
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",  # a page that is open in the browser could start runs here
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_CLI_COLORS": "false",  # what follows makes logs that can be read as lines
    "PREFECT_CLI_WRAP_LINES": "false",
    "PREFECT_LOGGING_COLORS": "false",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Place:
    """A server at `host` and `port`, whose runs start in `folder`; both folders are absolute."""

    host: str
    port: int
    folder: Path
    home: Path  # Prefect's state: database, leases, logs

    @property
    def url(self) -> str:
        """What a browser opens."""
        return f"http://{_in_url(socket.gethostname() if _is_any(self.host) else self.host)}:{self.port}"

    @property
    def api(self) -> str:
        """Where clients on this machine reach the API."""
        own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{_in_url(own)}:{self.port}/api"

    def environment(self, identity: str) -> dict[str, str]:
        """Return what workers, runs and clients get; what the user has set stays, but for other servers' addresses."""
        inherited = {name: value for name, value in os.environ.items() if name not in OF_OTHER_SERVERS + FOR_THE_SERVER}
        own = {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": self.api, UP: identity}
        if SERVER_AUTH in os.environ:
            own[CLIENT_AUTH] = os.environ[SERVER_AUTH]
        return DEFAULTS | WANTED | inherited | own

    def server_environment(self, identity: str, database: str | None) -> dict[str, str]:
        """Return what the server gets: also the secrets, and that the browser may come from its own pages alone."""
        own = {DATABASE: database} if database else {}
        if SERVER_AUTH in os.environ:
            own[SERVER_AUTH] = os.environ[SERVER_AUTH]
        pages = {self.url, f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"}
        ui = {
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(sorted(pages)),
            "PREFECT_UI_API_URL": f"{self.url}/api",
        }
        return ui | self.environment(identity) | own


def chosen_place(host: str, port: int, folder: Path) -> Place:
    """Return the place that the options name; raise `BadInput` for one that must not or cannot be."""
    if not folder.is_dir():
        raise BadInput(f"--folder {folder}: there is no such folder. Create it, or give the one that shall hold runs/.")
    check_exposure(host)
    whole = folder.resolve()
    home = Path(os.environ.get("PREFECT_HOME") or whole / "runs" / ".prefect")
    return Place(host, port, whole, home.expanduser().absolute())


def check_exposure(host: str) -> None:
    """Raise `BadInput` if other machines could reach the server without a password."""
    server, client = os.environ.get(SERVER_AUTH), os.environ.get(CLIENT_AUTH)
    if server and client and server != client:
        raise BadInput(f"{SERVER_AUTH} and {CLIENT_AUTH} differ: workers would be turned away. Set both to one value.")
    if not server and not is_loopback(host):
        raise BadInput(
            f"--host {host}: other machines could reach the server, and whoever reaches it can run commands here. Give "
            f"it a password first, here and for every client:\n"
            f"  export {SERVER_AUTH}=USER:PASSWORD\n  export {CLIENT_AUTH}=USER:PASSWORD\n"
            f"and put a TLS proxy before it (docs/prefect.md). Or stay on 127.0.0.1 and reach it by "
            f"ssh -L 4200:127.0.0.1:4200 {socket.gethostname()}"
        )


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches `host`; a name counts as what it resolves to."""
    try:
        found = {ipaddress.ip_address(str(info[4][0])) for info in socket.getaddrinfo(host, None)}
    except (OSError, ValueError) as error:
        raise BadInput(f"--host {host}: this machine has no such address ({error}). Use 127.0.0.1.") from None
    return all(address.is_loopback for address in found)


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::")


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
