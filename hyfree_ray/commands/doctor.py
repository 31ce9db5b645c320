"""`hyfree-ray doctor`: check this machine, and say how to fix what is wrong."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from hyfree_ray.commands.options import EXIT_CODES, STORE
from hyfree_ray.core.errors import HyfreeError

LEAST_DISK_GIB = 5.0
LEAST_MEMORY_GIB = 3.0
"""The `small` budget with two stages at a time."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    what: str
    found: str
    fix: str = ""
    """What to do; empty where nothing is wrong."""


@click.command(epilog=EXIT_CODES)
@STORE
@click.option("--ray", "address", help="Also check the Ray cluster at this ADDRESS.")
@click.option(
    "--config", type=click.Path(path_type=Path), help="Also check this configuration file."
)
def doctor(store: Path, address: str | None, config: Path | None) -> None:
    """Check versions, devices, memory, disk, store, MLflow and Ray; exit with 1 on problems.

    \b
    Examples:
      hyfree-ray doctor
      hyfree-ray doctor --ray HEAD:6379
    """
    wrong = 0
    checks = (_versions(), _machine(), _store(store.absolute()), _configuration(config))
    for check in (*checks, _extensions(), _folder(), _ports(), _cluster(address)):
        for finding in check:
            wrong += bool(finding.fix)
            click.echo(f"{'WRONG' if finding.fix else 'ok':<6}{finding.what:<16}{finding.found}")
            if finding.fix:
                click.echo(f"{'':<22}-> {finding.fix}")
    click.echo(f"{wrong} problems" if wrong else "no problems")
    sys.exit(1 if wrong else 0)


def _versions() -> Iterator[Finding]:
    from hyfree_ray.core.execution import installed_versions

    found = installed_versions()
    supported = (3, 10) <= sys.version_info[:2] <= (3, 12)
    fix = "" if supported else "use Python 3.10 to 3.12"
    yield Finding(what="python", found=found["python"], fix=fix)
    for name in ("torch", "nnunetv2", "ray"):
        yield Finding(
            what=name,
            found=found.get(name, "not installed"),
            fix="" if name in found else f"pip install {name}",
        )


def _machine() -> Iterator[Finding]:
    from hyfree_ray.config.device import find_device

    device = find_device()
    visible = Path("/dev/nvidia0").exists()
    yield Finding(
        what="device",
        found="GPU"
        if device == "cuda"
        else "CPU only" + (", although this machine has a GPU" * visible),
        fix="install a CUDA build of torch, or set CUDA_VISIBLE_DEVICES"
        if visible and device == "cpu"
        else "",
    )
    memory = psutil.virtual_memory().available / 2**30
    yield Finding(
        what="memory",
        found=f"{memory:.1f} GiB available, {os.cpu_count()} cores",
        fix="" if memory >= LEAST_MEMORY_GIB else f"free {LEAST_MEMORY_GIB:g} GiB",
    )


def _store(store: Path) -> Iterator[Finding]:
    from hyfree_ray.core.store_root import open_root

    there = next(path for path in (store, *store.parents) if path.exists())
    free = shutil.disk_usage(there).free / 2**30
    yield Finding(
        what="disk",
        found=f"{free:.0f} GiB free at {there}",
        fix="" if free >= LEAST_DISK_GIB else "free space, or see 'hyfree-ray store gc'",
    )
    try:
        open_root(store, create=store.exists() and (store / "store.json").exists())
        writable = os.access(there, os.W_OK)
        said = "can be written" if store.exists() else f"will be created in {there}"
        fix = "" if writable else f"make {there} writable, or name another store with --store"
        yield Finding(what="store", found=f"{store}: {said}", fix=fix)
    except HyfreeError as error:
        yield Finding(what="store", found=str(error), fix="name another store with --store")
    yield _mlflow(store / "mlflow.db")


def _mlflow(database: Path) -> Finding:
    if not database.exists():
        return Finding(what="mlflow", found="no database yet")
    try:
        with closing(sqlite3.connect(database, timeout=2.0, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        fix = "close the program that uses it; or delete it and see 'hyfree-ray track --help'"
        return Finding(what="mlflow", found=f"{database}: {error}", fix=fix)
    return Finding(what="mlflow", found=f"{database} answers")


def _configuration(config: Path | None) -> Iterator[Finding]:
    from hyfree_ray.config.device import find_device
    from hyfree_ray.config.experiment import check_embedder
    from hyfree_ray.config.resolution import resolve_experiment
    from hyfree_ray.scheduling.resources import read_resources

    try:
        experiment, _ = resolve_experiment(
            budget=None, generator=None, device=find_device(), file=config
        )
        read_resources(config)
        check_embedder(experiment)
    except HyfreeError as error:
        yield Finding(what="configuration", found=str(error), fix="correct that setting")
        return
    yield Finding(what="embedder", found=experiment.embedder)


def _extensions() -> Iterator[Finding]:
    """What can be named, other packages' with their origin; nothing of theirs is imported."""
    from hyfree_ray.core.registry import OWN_PACKAGE
    from hyfree_ray.evaluation.metrics import METRICS
    from hyfree_ray.generators import GENERATORS
    from hyfree_ray.segmenters import SEGMENTERS

    for table in (GENERATORS, SEGMENTERS, METRICS):
        origins = {name: table.origin(name) for name in table.names()}
        named = [
            name if origin.package == OWN_PACKAGE else f"{name} ({origin.text})"
            for name, origin in origins.items()
        ]
        yield Finding(what=f"{table.concept}s", found=", ".join(named))


def _folder() -> Iterator[Finding]:
    from hyfree_ray.runners.ray_folders import choose_ray_folder

    try:
        yield Finding(what="ray's folder", found=choose_ray_folder())
    except HyfreeError as error:
        yield Finding(what="ray's folder", found=str(error), fix="set RAY_TMPDIR to a short folder")


def _ports() -> Iterator[Finding]:
    from hyfree_ray.runners.ports import rays_ports

    found = rays_ports()
    for what, loopback in (("ports, public", False), ("ports, local", True)):
        named = [f"{port.process} {port.number}" for port in found if port.loopback is loopback]
        if named:
            yield Finding(what=what, found=", ".join(named))
    if not found:
        yield Finding(what="ports", found="no Ray runs on this machine")


def _cluster(address: str | None) -> Iterator[Finding]:
    if address is None:
        return
    from hyfree_ray.runners.ray_cluster import asks_for_token, connect, disconnect
    from hyfree_ray.runners.ray_scheduler import machines

    try:
        connect(address)
    except HyfreeError as error:
        yield Finding(what="ray", found=str(error), fix="start the cluster, or correct the address")
        return
    try:
        yield _token(asks_for_token())
        for number, has in enumerate(machines().values(), start=1):
            sites = [name for name in sorted(has) if name.startswith("site:")]
            amounts = f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs"
            yield Finding(what=f"machine {number}", found=", ".join([amounts, *sites]))
    finally:
        disconnect()


def _token(asked: bool | None) -> Finding:
    return Finding(
        what="token",
        found={
            True: "required by the cluster",
            False: "not required: anyone who reaches the cluster's ports can run programs on it",
            None: "unknown whether the cluster requires one",
        }[asked],
        fix="start every node with RAY_AUTH_MODE=token and the same token"
        if asked is False
        else "",
    )
