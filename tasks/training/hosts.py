"""One training run over several machines: each starts its own processes, and they meet at the first one's address."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from logitfuse.storage.errors import BadInput
from logitfuse.storage.settings import Settings

SIOCGIFADDR = 0x8915  # Linux: the address of a network interface
DISCARD = 9  # any port will do where nothing is sent
ELSEWHERE = "192.0.2.1"  # an address that nobody has (RFC 5737), beyond every local network
SLURM = "SLURM_NNODES", "SLURM_NODEID", "SLURM_JOB_NODELIST"


class HostSettings(Settings):
    """How the machines of one training run find one another."""

    model_config = {"title": "Training hosts"}

    count: int = Field(1, ge=1, title="Hosts", description="Machines that train together, each with `processes`.")
    rank: int = Field(0, ge=0, title="Rank", description="Number of this machine, from 0; another one on each.")
    address: str = Field(
        "",
        title="Address",
        description="Name or IP address of machine 0, as the others reach it; empty on machine 0: its own.",
    )
    port: int = Field(29500, ge=1, le=65535, title="Port", description="A port of machine 0 that is free.")
    given_by: Literal["settings", "slurm"] = Field(
        "settings",
        title="Given by",
        description="slurm: count, rank and address are those of the SLURM job that this runs in, one task per node.",
    )


@dataclass(frozen=True)
class Hosts:
    """One training run over several machines: each of them calls `run_training` with its own rank.

    They share a file system: all read the shards and checkpoints, rank 0 writes checkpoints, metrics and the model.
    """

    count: int
    rank: int
    address: str  # of rank 0
    port: int


def hosts_of(settings: HostSettings, environment: Mapping[str, str] = os.environ) -> Hosts | None:
    """Return the machines of a run, None if it has only this one.

    Raises `BadInput` if something is missing or does not fit together.
    """
    hosts = _of_slurm(settings, environment) if settings.given_by == "slurm" else Hosts(
        settings.count, settings.rank, settings.address, settings.port
    )  # fmt: skip
    if hosts.count == 1:
        return None
    if hosts.rank >= hosts.count:
        raise BadInput(f"execution.hosts.rank is {hosts.rank}, but {hosts.count} hosts have ranks 0-{hosts.count - 1}.")
    if not hosts.address and hosts.rank == 0:
        return replace(hosts, address=own_address())
    if not hosts.address:
        raise BadInput("execution.hosts.address is empty: give the name or IP address of the host with rank 0.")
    return hosts


def _of_slurm(settings: HostSettings, environment: Mapping[str, str]) -> Hosts:
    if missing := [name for name in SLURM if not environment.get(name)]:
        raise BadInput(
            f"execution.hosts.given_by is 'slurm', but {', '.join(missing)} is not set. Start it by `srun` with one "
            "task per node, or give count, rank and address in the settings."
        )
    count, rank, nodes = (environment[name] for name in SLURM)
    return Hosts(int(count), int(rank), settings.address or first_node(nodes), settings.port)


def first_node(nodes: str) -> str:
    """Return the first name of a SLURM node list such as `gpu[003-010,015],login1`."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?([^,\[]*)", nodes)
    if not found:
        raise BadInput(f"SLURM_JOB_NODELIST: {nodes!r} is no list of nodes. Give execution.hosts.address.")
    return "".join(part or "" for part in found.groups())


def interface_towards(hosts: Hosts) -> str | None:
    """Return the network interface by which this machine reaches rank 0, None if that cannot be found out.

    gloo otherwise takes the one of the machine's own name, which on many systems is 127.0.1.1.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((hosts.address, hosts.port))  # of a datagram socket: nothing is sent
            wanted = probe.getsockname()[0]
            return next((name for _, name in socket.if_nameindex() if _address(probe, name) == wanted), None)
    except OSError:
        return None


def own_address(towards: str | None = None) -> str:
    """Return this machine's IP address in the network in which `towards` is, or else that of its name or default route.

    A machine's own name is often 127.0.1.1 to itself, and where names do not resolve it is nothing to the others. With
    no network but loopback, it is the name.
    """
    for other in filter(None, (towards, socket.gethostname(), ELSEWHERE)):
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, DISCARD))
            found = str(probe.getsockname()[0])
            if not found.startswith("127."):
                return found
    return socket.gethostname()


def _address(probe: socket.socket, interface: str) -> str | None:
    try:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
    except OSError:  # it has none
        return None
    return socket.inet_ntoa(answer[20:24])
