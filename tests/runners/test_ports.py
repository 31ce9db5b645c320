"""Ports of Ray's processes, also of those that have the interpreter's name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hyfree_ray.runners.ports import rays_ports

LISTEN = """
import socket, sys, time
with socket.socket() as opened:
    opened.bind(("127.0.0.1", 0))
    opened.listen()
    print(opened.getsockname()[1], flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("ray/dashboard/dashboard.py", "ray::dashboard"),
        ("ray/autoscaler/_private/monitor.py", "ray::monitor"),
        ("ray/_private/workers/setup_worker.py -m ray.util.client.server", "ray::client_server"),
        ("mine/dashboard.py", None),
    ],
)
def test_rays_programs_are_known_by_what_they_were_started_with(
    tmp_path: Path, program: str, shown: str | None
) -> None:
    file, *arguments = program.split()
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(LISTEN)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / file), *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        found = {port.number: (port.process, port.loopback) for port in rays_ports()}
        process.kill()
    assert found.get(number) == (None if shown is None else (shown, True))
