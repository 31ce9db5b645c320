"""Start, join and leave a cluster; ask what it has and whether it is still there."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
import site
import socket
import subprocess
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._private import utils as ray_utils
from ray.exceptions import RayError, RayTaskError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hyfree_ray.core.errors import ClusterError, HyfreeError
from hyfree_ray.core.isolation import PACKAGES, isolated_command
from hyfree_ray.core.parties import POOL
from hyfree_ray.core.precision import CpuSpeed, measure_cpu
from hyfree_ray.core.store_root import open_root
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.status import Step
from hyfree_ray.runners.ray_folders import choose_ray_folder, keep_token
from hyfree_ray.runners.ray_scheduler import machines
from hyfree_ray.scheduling.capacity import capacity, format_needs, why_unsatisfiable
from hyfree_ray.scheduling.history import RunHistory, merge, read_history
from hyfree_ray.scheduling.resources import Execution, Resources, never_starts, resources_of

PIN = "site:{}"
"""Custom resource that pins a party to its machine, where a cluster declares it."""

ONCE = {"RAY_task_oom_retries": "0"}
"""Ray would start what its memory monitor killed again and again; we do it once, alone. A stage is
still Ray's to start again otherwise: it ends such before any that are not."""

TOKEN_S = 20.0
"""How long a head that was asked without a token may take to answer."""

HEAD_S = 3.0
"""How often the head of the cluster is asked whether it is there."""


class IsolatedJob(JobConfig):
    """A job whose workers import nothing from the driver's working directory."""

    def _runtime_env_has_working_dir(self) -> bool:
        """Have Ray leave the working directory and the script's folder off its workers' path.

        It would put them first, before the standard library.
        """
        return True


def _packages_of_workers() -> list[str]:
    """Return where workers find this package, unless it is installed where they look anyway."""
    installed = {Path(folder).resolve() for folder in site.getsitepackages()}
    return [] if PACKAGES in installed else [str(PACKAGES)]


def connect(address: str, cpus: int | None = None, actors: int = 0) -> None:
    """Start Ray on this machine ("local"), or join a running cluster.

    What this process does at SIGTERM stays as it was.

    Args:
        address: "local", or where the cluster's head is.
        cpus: that the started one has; None: this machine's.
        actors: processes that will run on the started one beside its stages.

    Raises:
        HyfreeError: nothing answers at the address.
    """
    with _own_sigterm():
        _connect(address, cpus, actors)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep Ray from ending this process at SIGTERM without a word, with an exit code of Ray's.

    Thus a process that is still waiting for its cluster ends as it does at any other time.
    """
    before, ray_utils.set_sigterm_handler = ray_utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = before


def _connect(address: str, cpus: int | None, actors: int) -> None:
    common: dict[str, Any] = {
        "log_to_driver": False,
        "configure_logging": False,
        "job_config": IsolatedJob(_py_driver_sys_path=_packages_of_workers()),
    }
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.update(ONCE)
    if address == "local":
        # Ray would end more than it has to, the parties' processes among them.
        os.environ.setdefault("RAY_max_kill_memory_buffer_bytes", "0")
        # It would tell how to do without a token, which nobody has asked for.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        os.environ["RAY_worker_maximum_startup_concurrency"] = str(_starts_at_once(cpus, actors))
        keep_token()
        common["_temp_dir"] = choose_ray_folder()
        with _on_loopback():
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **common)
        return
    _knock(_found(address))
    try:
        with _on_loopback() if _listens_here_alone(address) else contextlib.nullcontext():
            # Parties own stages: what they are started with decides, not this process.
            ray.init(address=address, runtime_env={"env_vars": ONCE}, **common)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        first = " ".join(str(error).split())[:160]
        raise HyfreeError(
            "cluster.unreachable",
            f"--ray {address}: no Ray cluster answers there ({first}); start one with "
            "'ray start --head', set its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN=...), or use "
            "--ray local",
        ) from error


RAYS_OWN = 2
"""Actors that wait beside the parties: ours that schedules, and Ray Train's that scales."""


def _starts_at_once(cpus: int | None, actors: int) -> int:
    """Return how many processes Ray may start at a time: enough that it does not warn of them.

    It takes four times as many that run for a mistake. Parties are actors that wait; a CPU may have
    a stage, the process that takes its place, and Ray Train's two actors of a general training.
    """
    cores = os.cpu_count() or 1
    cpus = cores if cpus is None else cpus
    return max(min(cores, cpus), math.ceil((actors + 4 * cpus + RAYS_OWN) / 4))


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray's processes are of 127.0.0.1, and listen there alone, as they do on other systems.

    It would take the machine's outer address, also where it is given this one, and listen on all.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _listens_here_alone(address: str) -> bool:
    """Return whether `connect` started this cluster: Ray looks for it at the outer address."""
    host, _, port = address.rpartition(":")
    if host not in {"127.0.0.1", "localhost"}:
        return False
    try:
        socket.create_connection((services.get_node_ip_address(), int(port)), timeout=5).close()
    except OSError:
        return True
    return False


def _found(address: str) -> str:
    """Return the address that `auto` stands for.

    Raises:
        HyfreeError: no cluster was started here, and no RAY_ADDRESS is set.
    """
    if address != "auto":
        return address
    try:
        return str(services.get_ray_address_from_environment(address, None))
    except ConnectionError:
        raise HyfreeError(
            "cluster.unreachable",
            "--ray auto: no Ray cluster runs on this machine; start one with 'ray start --head',"
            " name its address, or use --ray local",
        ) from None


def _knock(address: str, patience_s: float = 5.0) -> None:
    """See whether anybody listens at an address: Ray itself would retry it for a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=patience_s).close()
    except OSError as error:
        raise HyfreeError(
            "cluster.unreachable",
            f"--ray {address}: no Ray cluster answers there ({error.strerror or error}); start one "
            "with 'ray start --head', or use --ray local",
        ) from error


_WITHOUT_TOKEN = """\
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)
"""


def asks_for_token() -> bool | None:
    """Ask the connected cluster without a token, to see whether it turns away who has none.

    Returns:
        None if that cannot be determined.
    """
    try:
        done = subprocess.run(
            isolated_command(_WITHOUT_TOKEN, ray.get_runtime_context().gcs_address),
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            check=False,
            timeout=TOKEN_S,
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == 0:
        return False
    return True if "InvalidAuthToken" in done.stderr else None


async def while_the_head_answers(work: Awaitable[Any]) -> None:
    """Wait for the work, or until the cluster's head has not answered for a while.

    Ray by itself waits for a minute and then ends the process without a word.

    Raises:
        ClusterError: the head is gone.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    working, failures = asyncio.ensure_future(work), 0
    while not (await asyncio.wait({working}, timeout=HEAD_S))[0]:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), HEAD_S)
            writer.close()
            failures = 0
        except (OSError, asyncio.TimeoutError):
            failures += 1
        if failures == 3:
            raise ClusterError(
                "cluster.head-lost",
                "the head of the Ray cluster no longer answers; nothing is lost; restart the "
                "cluster unless this command started it, and run the same command again",
            )
    await working


def cluster_device() -> str:
    """Return "cuda" if the connected cluster has GPUs, else "cpu"."""
    return "cuda" if ray.cluster_resources().get("GPU", 0) > 0 else "cpu"


def measure_machines() -> Sequence[CpuSpeed]:
    """Measure, once a process, the processor of each of the cluster's machines that has CPUs."""
    return _measure_machines(frozenset(key for key, has in machines().items() if has.get("CPU")))


@functools.cache
def _measure_machines(keys: frozenset[str]) -> Sequence[CpuSpeed]:
    looks = [
        _measure_machine.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(key, soft=False)
        )
        for key in sorted(keys)
    ]
    try:
        return tuple(ray.get([look.remote() for look in looks]))
    except RayError as error:
        problem = " ".join(str(error).split())[:200]
        return (CpuSpeed(processor="the cluster's machines", problem=problem),)


@ray.remote(num_cpus=0)
def _measure_machine() -> CpuSpeed:
    return measure_cpu()


def disconnect() -> None:
    """Leave the cluster; stop it if this process started it."""
    ray.shutdown()


def check_resources(
    device: str, workers: int, steps: Sequence[Step] = (), execution: Execution | None = None
) -> None:
    """Compare what the stages ask for with what the cluster has, before anything is pending.

    Raises:
        HyfreeError: the first stage that could never start, and what it lacks.
    """
    execution, nodes = execution or Execution(), list(machines().values())
    one = worker_needs(resources_of(POOL, execution.resources), device, pin_of(POOL))
    room = capacity(one, nodes)
    if room < workers:
        where = " on the machine of site:pool" if pin_of(POOL) else ""
        raise HyfreeError(
            "cluster.no-room",
            f"the general model needs {workers} workers of {format_needs(one)} each, but only "
            f"{room} fit{where}; lower general_workers or add machines",
        )
    for step in steps:
        if step.done:
            continue
        resources = resources_of(step.owner, execution.resources)
        needs = resources.needs(on_gpu=device == "cuda" and step.device)
        lacking = why_unsatisfiable({**needs, **pin_of(step.owner)}, nodes)
        if lacking is not None:
            raise never_starts(step, lacking)


def open_stores(store: Path, sites: Mapping[str, Site]) -> RunHistory:
    """Open the store on the machine of each party that is pinned, before anything starts, and see
    whether a hospital's data are on its own.

    Returns:
        What the records tell that lie there.

    Raises:
        HyfreeError: a machine on which the store cannot be kept, or where data are not.
    """
    looks = [
        _open_store.options(resources=pin).remote(name, store, sites.get(name))
        for name in (POOL, *sites)
        if (pin := pin_of(name))
    ]
    try:
        return merge(ray.get(looks))
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, HyfreeError) else error from None


@ray.remote(num_cpus=0)
def _open_store(party: str, store: Path, site: Site | None) -> RunHistory:
    where = f"on the machine of {PIN.format(party)}"
    if site is not None and site.folder is not None:
        files = [name for case in site.cases for name in (*case["images"], case["label"])]
        missing = sum(not (site.folder / name).is_file() for name in files)
        if missing:
            raise HyfreeError(
                "cluster.data-missing",
                f"{site.folder}: {missing} of the {len(files)} files of {party} are missing "
                f"{where}; copy that hospital's data to it",
            )
    try:
        open_root(store)
    except HyfreeError as error:
        raise HyfreeError(error.code, f"{where}: {error}") from None
    return read_history(store)


def worker_needs(resources: Resources, device: str, pin: Mapping[str, float]) -> dict[str, float]:
    """Return the needs of each worker of a distributed training: its party's, and whole GPUs."""
    gpu = {"GPU": 1.0} if device == "cuda" else {}
    return {**resources.needs(on_gpu=False), **gpu, **pin}


def check_rounds_are_seen(rounds: Path, rules: Rules) -> None:
    """Refuse to look up the next round where the pool's store is not to be seen from here.

    Args:
        rounds: their folder, as this process would see it.
        rules: the run's.

    Raises:
        HyfreeError: rounds are asked for, the pool is pinned to another machine, and its store is
            not to be seen from here.
    """
    pin = pin_of(POOL)
    if not pin or rounds.is_dir() or ray.get_runtime_context().get_node_id() in machines(pin):
        return
    if rules.next_round or rules.withdraw:
        raise HyfreeError(
            "cluster.rounds-elsewhere",
            f"--next-round and --withdraw: {rounds} cannot be read from here; run the command "
            "on the machine that declares site:pool",
        )


def pin_of(name: str) -> dict[str, float]:
    """Return the custom resource that pins a party to its machine, if the cluster declares it."""
    resource = PIN.format(name)
    # A thousandth: the resource says where, not how many stages fit there.
    return {resource: 0.001} if resource in ray.cluster_resources() else {}
