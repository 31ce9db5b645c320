"""The ports that Ray's processes on this machine listen on, read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

RAYS = re.compile(r"gcs_server|raylet|ray::.*")
"""Names of Ray's own processes and of its workers. The kernel cuts them after 15 characters."""

_PROGRAMS = {
    "ray::dashboard": re.compile(r".*/ray/dashboard/dashboard\.py"),
    "ray::monitor": re.compile(r".*/ray/autoscaler/(_private|v2)/monitor\.py"),
    "ray::client_server": re.compile(r"ray\.util\.client\.server"),
}
"""An argument of those of Ray's processes that have the interpreter's name."""

_LISTEN = "0A"
"""State of a socket that waits for connections, in /proc/net/tcp."""


@dataclass(frozen=True, kw_only=True, order=True)
class Port:
    """A TCP port that a process listens on."""

    process: str
    number: int
    loopback: bool
    """For this machine alone; otherwise whoever reaches one of its addresses reaches the port."""


def ports(of: Callable[[int, str], bool]) -> list[Port]:
    """Return ports of the selected processes, sorted. Those of other users are visible to root
    only.

    Args:
        of: whether a process, given its id and its name, is one of them.
    """
    listening = dict(_listening())
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = _name(folder)
            if of(int(folder.name), name):
                for inode in _sockets(folder):
                    if inode in listening:
                        number, loopback = listening[inode]
                        found.add(Port(process=name, number=number, loopback=loopback))
    return sorted(found)


def rays_ports() -> list[Port]:
    """Return ports of all of Ray's processes on this machine."""
    return ports(lambda _, name: RAYS.fullmatch(name) is not None)


def _listening() -> Iterator[tuple[str, tuple[int, bool]]]:
    """Yield, by inode of the socket, its port and whether it is for this machine alone."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                address, _, port = fields[1].rpartition(":")
                if fields[3] == _LISTEN:
                    yield fields[9], (int(port, 16), _is_loopback(address))


def _is_loopback(address: str) -> bool:
    """Return whether an address, printed as little-endian words, is loopback: 127.0.0.1 ends in
    7F."""
    mapped = address.startswith("0" * 16 + "FFFF0000")
    return address == "0" * 24 + "01000000" or (
        (len(address) == 8 or mapped) and address.endswith("7F")
    )


def _name(process: Path) -> str:
    arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    for name, program in _PROGRAMS.items():
        if any(program.fullmatch(argument) for argument in arguments):
            return name
    return (process / "comm").read_text().strip()


def _sockets(process: Path) -> Iterator[str]:
    """Yield inodes of the sockets that a process has open."""
    for opened in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            found = re.fullmatch(r"socket:\[(\d+)\]", str(opened.readlink()))
            if found is not None:
                yield found[1]
