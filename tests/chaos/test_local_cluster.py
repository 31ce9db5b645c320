"""`cluster/local.sh` as it is, with token authentication."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.hospitals import SIX, write_data

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]

BUDGET = ("--budget", "smoke", "--device", "cpu")

MACHINES = {
    "centre": ("pool", []),
    "first": ("site-1", ["site-1", "site-2", "site-3"]),
    "second": ("site-4", ["site-4", "site-5", "site-6"]),
}
"""Who is pinned to each machine first, and the hospitals there."""


def start_cluster(commands: Path, port: int, *arguments: str, **more: str) -> None:
    """Run the script; its commands are taken from a folder, where that has them.

    Args:
        commands: the folder.
        port: of the cluster.
        arguments: of `simulate`.
        more: environment variables.
    """
    environment = {
        **os.environ,
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
        **more,
    }
    done = subprocess.run(
        ["sh", str(ROOT / "cluster" / "local.sh"), *BUDGET, *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def write_command(path: Path, *lines: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)


def nodes_of(parties: Iterable[Path]) -> dict[str, str]:
    """The node that all of a party's stages have run on."""
    nodes = {}
    for party in parties:
        records = [json.loads(file.read_text()) for file in party.glob("stages/*/record.json")]
        (nodes[party.name],) = {record["result"]["node"] for record in records}
    return nodes


def assert_pinned(nodes: dict[str, str]) -> None:
    assert sorted(nodes) == ["pool", *SIX]
    assert len({nodes[first] for first, _ in MACHINES.values()}) == 3
    for first, hospitals in MACHINES.values():
        assert {nodes[name] for name in (first, *hospitals)} == {nodes[first]}


def test_six_hospitals_pinned_to_two_of_three_nodes_run_there_and_nowhere_else(
    tmp_path: Path,
) -> None:
    """With toys for stages, on one disk."""
    toys, store = (sys.executable, "-m", "tests.toys"), tmp_path / "store"
    write_command(tmp_path / "bin" / "hyfree-ray", f'exec {shlex.join(toys)} "$@"')
    hook = {"__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": "tests.toys.install"}
    start_cluster(tmp_path / "bin", 6417, "--sites", "6", "--store", str(store), **hook)
    assert_pinned(nodes_of([store / "pool", *(store / "sites").iterdir()]))


# ---- a disk each ----


class Disks:
    """Machines that see one path each as their own store, and one as their own data.

    Where it is entered a process and all that it starts have a mount namespace of their own, in
    which the two paths are a folder of its machine, and the folders of all machines are not there.
    """

    def __init__(self, root: Path) -> None:
        self.disks, self.store, self.data = root / "disks", root / "store", root / "data"
        self.store.mkdir()
        self.data.mkdir()

    def add(self, machine: str, hospitals: Iterable[str]) -> None:
        own = self.disks / machine
        (own / "store").mkdir(parents=True)
        (own / "data").mkdir()
        if hospitals:
            write_data(own / "data", list(hospitals), SIX)

    def entering(self, machine: str, *command: str) -> str:
        """A line of shell that becomes the command, with the script's arguments, in there."""
        own = self.disks / machine
        inside = [
            shlex.join(["mount", "--bind", str(own / "store"), str(self.store)]),
            shlex.join(["mount", "--bind", str(own / "data"), str(self.data)]),
            shlex.join(["mount", "-t", "tmpfs", "none", str(self.disks)]),
            f'exec {shlex.join(command)} "$@"',
        ]
        become = [] if os.geteuid() == 0 else ["--map-root-user"]
        unshare = ["unshare", *become, "--mount", "--propagation", "private"]
        return f'exec {shlex.join([*unshare, "sh", "-c", " && ".join(inside), machine])} "$@"'


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    """Machines with disks of their own, and a driver that sees the data of all and no store."""
    found = Disks(tmp_path)
    for machine, (_, hospitals) in MACHINES.items():
        found.add(machine, hospitals)
    found.add("driver", SIX)
    tried = subprocess.run(
        ["sh", "-c", found.entering("driver", "true")], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"this machine lets nobody mount: {tried.stderr.strip()}")
    return found


def test_hospitals_whose_data_and_stores_are_seen_on_their_machine_alone_get_the_same_table(
    disks: Disks, tmp_path: Path
) -> None:
    """All real: what a stage reads on another machine than its hospital's is not there."""
    ray, real = str(Path(sys.executable).parent / "ray"), (sys.executable, "-m", "hyfree_ray.cli")
    starts = [
        f"*'\"site:{first}\"'*) {disks.entering(machine, ray)};;"
        for machine, (first, _) in MACHINES.items()
    ]
    write_command(tmp_path / "bin" / "ray", 'case "$*" in', *starts, "esac", f'exec {ray} "$@"')
    write_command(tmp_path / "bin" / "hyfree-ray", disks.entering("driver", *real))
    settings = ("--settings", "personalised", "--set", "precision=fp32")
    where = ("--data", str(disks.data), "--store", str(disks.store))
    start_cluster(tmp_path / "bin", 6418, *where, *settings)

    stores = {own.name: own / "store" for own in disks.disks.iterdir()}
    assert not list(disks.store.iterdir()), "somebody wrote without being on a machine"
    assert all((store / "store.json").exists() for store in stores.values())
    assert {path.name for path in stores["driver"].iterdir()}.isdisjoint({"pool", "sites"})
    for machine, (_, hospitals) in MACHINES.items():
        parties = [path.parent for path in stores[machine].glob("**/stages")]
        assert sorted(party.name for party in parties) == (hospitals or ["pool"])
        assert machine == "centre" or not (stores[machine] / "pool").exists()
    assert {path.name for path in stores["centre"].iterdir() if path.is_dir()} == {"pool"}

    together = ("--data", str(disks.disks / "driver" / "data"), "--store", str(tmp_path / "one"))
    subprocess.run([*real, "simulate", *BUDGET, "--ray", "off", *together, *settings], check=True)
    (apart,), (one,) = (
        store.glob("runs/*/results.csv") for store in (stores["driver"], tmp_path / "one")
    )
    assert apart.read_bytes() == one.read_bytes()
