"""Find the ports that Ray's processes on this machine listen on, and for whom."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

import psutil

RAYS = re.compile(r"gcs_server|raylet|ray::.*")
"""Names of Ray's own processes and of its workers."""

_PROGRAMS = {
    "ray::dashboard": re.compile(r".*/ray/dashboard/dashboard\.py"),
    "ray::monitor": re.compile(r".*/ray/autoscaler/(_private|v2)/monitor\.py"),
    "ray::client_server": re.compile(r"ray\.util\.client\.server"),
}
"""An argument of those of Ray's processes that have the interpreter's name."""


@dataclass(frozen=True, kw_only=True, order=True)
class Port:
    """A TCP port that a process listens on."""

    process: str
    number: int
    loopback: bool
    """For this machine alone; otherwise whoever reaches one of its addresses reaches the port."""


def ports(of: Callable[[int, str], bool]) -> list[Port]:
    """Return the ports of the selected processes, sorted. Those of other users only root sees.

    Args:
        of: whether a process, given its id and its name, is one of them.
    """
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            name = _name(process)
            if of(process.pid, name):
                for opened in process.net_connections("tcp"):
                    if opened.status == psutil.CONN_LISTEN:
                        host, number = opened.laddr
                        found.add(Port(process=name, number=number, loopback=_is_loopback(host)))
    return sorted(found)


def rays_ports() -> list[Port]:
    """Return the ports of all of Ray's processes on this machine."""
    return ports(lambda _, name: RAYS.fullmatch(name) is not None)


def _is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _name(process: psutil.Process) -> str:
    arguments = process.cmdline()
    for name, program in _PROGRAMS.items():
        if any(program.fullmatch(argument) for argument in arguments):
            return name
    return process.name()
