"""Running a described call in this process, under the store's law.

One process a key, resumed after a crash, recorded last.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hyfree_ray.core import device_memory
from hyfree_ray.core.artifacts import RAW_DATA, Call
from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.core.files import locked, write_privately
from hyfree_ray.core.guard import Confinement, confined
from hyfree_ray.core.journal import append_attempt, segments
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.processes import peak_memory_mib, reset_peak_memory
from hyfree_ray.core.records import StageRecord, find_record, write_record
from hyfree_ray.core.registry import loaded_packages
from hyfree_ray.core.sealing import seal
from hyfree_ray.core.stage import Context, Launch, Preempted, Stage, find_stage
from hyfree_ray.core.store_root import ROOT_FILE

OUT_OF_MEMORY = "out of memory"
"""How the reason of a stage that broke begins where it had too little."""

_RECORDED = ("hyfree-ray", "torch", "nnunetv2", "numpy", "pyarrow", "SimpleITK", "ray", "monai")


def execute(
    module: str,
    call: Call,
    folder: Path,
    *,
    owner: str,
    device: str,
    launch: Launch | None = None,
    should_preempt: Callable[[float], bool] | None = None,
) -> StageRecord:
    """Run a call in this process unless it is done, and record it.

    Another process that runs the same call is waited for. What a killed attempt left behind is
    there for the stage to go on from.

    Returns:
        The record.

    Raises:
        HyfreeError: what the stage refused.
        StageError: anything else that went wrong; the traceback is in the stage's folder.
        Preempted: its place was wanted; called again, it goes on from its checkpoint.
    """
    target = find_stage(module, call.stage)
    write_privately()
    with _named(owner, call, folder), locked(folder):
        record = find_record(folder, call.key, StageRecord)
        if record is None:
            # A run on GPUs gives none to a stage that computes on no device.
            device = device if target.device else "cpu"
            context = Context(
                out=folder, owner=owner, device=device, launch=launch, should_preempt=should_preempt
            )
            record = _measure(target, call, context)
            record = record.model_copy(update={"outputs": seal(folder)})
            write_record(folder, record)
    return record


def _measure(target: Stage[Any], call: Call, context: Context) -> StageRecord:
    """Run the stage's function, and record what was called, by whom, and what it took."""
    # The workers that a distributed stage launches hold the devices, its own process has none.
    holds = "cpu" if target.distributed and context.launch is not None else context.device
    earlier = segments(context.out)
    started, clock, cpu = time.time(), time.monotonic(), time.process_time()
    append_attempt(context.out, started)
    reset_peak_memory()
    device_memory.reset_peak(holds)
    result = _attempt(target, call, context)
    held: dict[str, Any] = device_memory.measured(holds)
    seconds = time.monotonic() - clock + sum(end - begin for begin, end in earlier)
    return StageRecord(
        stage=call.stage,
        version=call.version,
        key=call.key,
        owner=context.owner,
        params={
            name: digest_of(value)[:16] if name in target.private else value
            for name, value in call.params.items()
        },
        inputs={name: artifact.key for name, artifact in call.inputs.items()},
        earlier=earlier,
        started=started,
        ended=time.time(),
        seconds=seconds,
        device=context.device,
        device_seconds=seconds * result.get("workers", 1) if target.device else 0.0,
        cpu_seconds=time.process_time() - cpu,
        peak_memory_mib=peak_memory_mib(),
        **held,
        host=platform.node(),
        versions=installed_versions() | loaded_packages(),
        result=result,
    )


@contextlib.contextmanager
def _named(owner: str, call: Call, folder: Path) -> Iterator[None]:
    """A full or read-only disk, where it is not the stage that meets it but what is kept of it."""
    try:
        yield
    except OSError as error:
        raise StageError(owner, call.stage, reason_of(error), str(folder)) from error


def _attempt(target: Stage[Any], call: Call, context: Context) -> dict[str, Any]:
    """Run the stage's function; what goes wrong names the stage and its owner."""
    arguments = dict(call.params) | {name: found.path for name, found in call.inputs.items()}
    try:
        with (
            _quiet(context.out / "log.txt"),
            single_threaded(context.device),
            confined(_confinement(call, context)),
        ):
            return target(context, **arguments)
    except HyfreeError as error:
        if type(error) is HyfreeError and not str(error).startswith(f"{context.owner}:"):
            raise HyfreeError(error.code, f"{context.owner}: {error}") from error
        raise
    except Preempted:
        raise
    except Exception as error:
        trace = context.out / "error.txt"
        with contextlib.suppress(OSError):  # the disk may be what is full
            trace.write_text(traceback.format_exc())
        raise StageError(context.owner, call.stage, reason_of(error), str(trace)) from error


def reason_of(error: Exception) -> str:
    """Why a stage broke. An error's own text may name a case: it stays with the party."""
    kind = type(error).__name__
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"{OUT_OF_MEMORY} at {peak_memory_mib():.0f} MiB"
    if isinstance(error, OSError) and error.strerror:
        return f"{kind}: {error.strerror}"
    return kind


def _confinement(call: Call, context: Context) -> Confinement:
    """What the call may open: its party's folder, its inputs, and of raw data its own cases."""
    party = context.out.parent.parent
    own, zone = [party], [folder for folder in party.parents if (folder / ROOT_FILE).is_file()]
    for artifact in call.inputs.values():
        if artifact.stage != RAW_DATA:
            own.append(artifact.path)
            continue
        zone.append(artifact.path)
        for case in _flat(call.params.get("cases", ())):
            own += [artifact.path / name for name in (*case["images"], case["label"])]
    return Confinement(owner=context.owner, stage=call.stage, zone=zone, own=own, out=context.out)


def _flat(cases: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    """Cases, also where they are listed by site."""
    for case in cases:
        if isinstance(case, Mapping):
            yield case
        else:
            yield from case


def installed_versions() -> dict[str, str]:
    """Return the versions of the libraries that results may depend on. Recorded, not hashed."""
    return dict(_installed_versions())


@functools.cache
def _installed_versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for name in _RECORDED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextlib.contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Send what libraries print to the stage's own log."""
    with log.open("a") as file, contextlib.redirect_stdout(file):
        yield


@contextlib.contextmanager
def single_threaded(device: str) -> Iterator[None]:
    """One thread a stage on CPU: sums do not depend on the machine, and stages share its cores.

    torch's and those of numpy's linear algebra, whose sums differ with their number too.
    """
    import torch
    from threadpoolctl import threadpool_limits

    if device != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
