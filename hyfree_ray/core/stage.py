"""What a stage is, and how one is run: here, whoever asked for it and wherever that is.

A stage is a plain function. It gets a `Context`, the folders of its inputs and its parameters,
writes into its own folder and returns a few numbers:

    @stage(version=1, device=True)
    def train_generator(context, *, prepared: Path, backend: str, seed: int) -> dict: ...

Calling `train_generator(context, prepared=..., ...)` runs it, in a notebook or in a test.
`train_generator.call(prepared=artifact, ...)` describes that call, and `execute` runs a described
call under the store's law: one process a key, resumed after a crash, recorded last.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import platform
import resource
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from hyfree_ray.core import device_memory
from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.core.guard import Confinement, confined
from hyfree_ray.core.store import (
    RAW_DATA,
    RECORD,
    ROOT_FILE,
    Artifact,
    Call,
    digest_of,
    locked,
    read_record,
    write_json,
)

METRICS = "metrics.jsonl"
"""One JSON object a line: step, total, time and what a training measured."""

ATTEMPTS = "attempts.jsonl"
"""One JSON object a line: when a process began to work on the stage, and which."""

OUT_OF_MEMORY = "out of memory"
"""How the reason of a stage that broke begins where it had too little."""

_RECORDED = ("hyfree-ray", "torch", "nnunetv2", "numpy", "pyarrow", "SimpleITK", "ray", "monai")


class Launch(Protocol):
    """Runs `function(**arguments)` in `workers` processes that form a torch process group."""

    def __call__(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], workers: int, out: Path
    ) -> None: ...


class Preempted(Exception):
    """A training ended at a checkpoint because its place is wanted: it goes on from there."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage is told about where it runs. Nothing here may change its result."""

    out: Path
    """The stage's own folder: all it may write to."""
    owner: str
    device: str = "cpu"
    """"cpu" or "cuda"."""
    launch: Launch | None = None
    """How to start the workers of a distributed training; None: in this process."""
    should_preempt: Callable[[float], bool] | None = None
    """Asks whether somebody more urgent waits, given the share that is done; None: nobody."""

    def saved(self, step: int, total: int) -> None:
        """Where a training has just written a checkpoint: it ends here if its place is wanted.

        Raises:
            Preempted: the runner calls the stage again later.
        """
        if step < total and self.should_preempt is not None and self.should_preempt(step / total):
            raise Preempted

    def progress(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Report how far the stage is. One line in `metrics.jsonl`; observers read it there."""
        line = {"step": step, "total": total, "time": time.time(), **metrics}
        _append_line(self.out / METRICS, line)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage function and what a runner has to know of it."""

    name: str
    module: str
    version: int
    device: bool
    """It computes on an accelerator where there is one."""
    distributed: bool
    """It starts workers of its own, which hold the devices."""
    private: tuple[str, ...]
    """Parameters that name cases or patients: in the key, not in the record."""
    function: Callable[..., dict[str, Any]]

    def __call__(self, context: Context, **arguments: Any) -> dict[str, Any]:
        return self.function(context, **arguments)

    def call(self, **arguments: Any) -> Call:
        """Describe a call: artifacts are inputs, everything else is a parameter."""
        inspect.signature(self.function).bind(None, **arguments)
        return Call(
            stage=self.name,
            version=self.version,
            params={k: v for k, v in arguments.items() if not isinstance(v, Artifact)},
            inputs={k: v for k, v in arguments.items() if isinstance(v, Artifact)},
        )


def stage(
    *, version: int, device: bool = False, distributed: bool = False, private: tuple[str, ...] = ()
) -> Callable[[Callable[..., dict[str, Any]]], Stage]:
    """Make a function a stage. Raise `version` whenever its results change."""

    def make(function: Callable[..., dict[str, Any]]) -> Stage:
        return Stage(
            name=function.__name__,
            module=function.__module__,
            version=version,
            device=device,
            distributed=distributed,
            private=private,
            function=function,
        )

    return make


def find_stage(module: str, name: str) -> Stage:
    """The stage of that name, imported where it is to run."""
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Stage)
    return found


def execute(
    module: str,
    call: Call,
    folder: Path,
    *,
    owner: str,
    device: str,
    launch: Launch | None = None,
    should_preempt: Callable[[float], bool] | None = None,
) -> dict[str, Any]:
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
    with _named(owner, call, folder), locked(folder):
        record = read_record(folder, call.key)
        if record is not None:
            return record
        # A run on GPUs gives none to a stage that computes on no device.
        device = device if target.device else "cpu"
        context = Context(
            out=folder, owner=owner, device=device, launch=launch, should_preempt=should_preempt
        )
        # The workers that a distributed stage launches hold the devices, its own process has none.
        holds = "cpu" if target.distributed and launch is not None else device
        earlier = segments(folder)
        started, clock, cpu = time.time(), time.monotonic(), time.process_time()
        _append_attempt(folder, started)
        _forget_peak_memory(holds)
        result = _attempt(target, call, context)
        seconds = time.monotonic() - clock + sum(end - begin for begin, end in earlier)
        record = {
            **_identity(target, call, owner),
            "earlier": earlier,
            "started": started,
            "ended": time.time(),
            "seconds": seconds,
            "device": device,
            "device_seconds": seconds * result.get("workers", 1) if target.device else 0.0,
            "cpu_seconds": time.process_time() - cpu,
            "peak_memory_mib": _peak_memory_mib(),
            **device_memory.measured(holds),
            "host": platform.node(),
            "versions": installed_versions(),
            "result": result,
        }
        write_json(folder / RECORD, record)
    return record


@contextlib.contextmanager
def _named(owner: str, call: Call, folder: Path) -> Iterator[None]:
    """A full or read-only disk, where it is not the stage that meets it but what is kept of it."""
    try:
        yield
    except OSError as error:
        raise StageError(owner, call.stage, reason_of(error), str(folder)) from error


def _attempt(target: Stage, call: Call, context: Context) -> dict[str, Any]:
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
            raise HyfreeError(f"{context.owner}: {error}") from error
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
        return f"{OUT_OF_MEMORY} at {_peak_memory_mib():.0f} MiB"
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


def _identity(target: Stage, call: Call, owner: str) -> dict[str, Any]:
    """What was called and by whom; parameters that name cases as their hash."""
    return {
        "stage": call.stage,
        "version": call.version,
        "key": call.key,
        "owner": owner,
        "params": {
            name: digest_of(value)[:16] if name in target.private else value
            for name, value in call.params.items()
        },
        "inputs": {name: artifact.key for name, artifact in call.inputs.items()},
    }


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that results may depend on. Recorded, not hashed."""
    found = {"python": platform.python_version()}
    for name in _RECORDED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The curve of a stage: one entry a step, the last where a step was run twice.

    A line that a crash cut short is left out.
    """
    steps: dict[int, dict[str, Any]] = {}
    for entry in _lines(folder / METRICS):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            steps[int(entry["step"])] = entry
    return [steps[step] for step in sorted(steps)]


def read_result(folder: Path) -> dict[str, Any]:
    """The numbers that a finished stage returned: how a stage reads those of its inputs."""
    result: dict[str, Any] = stage_record(folder)["result"]
    return result


def stage_record(folder: Path) -> dict[str, Any]:
    """All that was recorded of a finished stage."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return record


def _append_attempt(folder: Path, started: float) -> None:
    pid = os.getpid()
    attempt = {"started": started, "pid": pid, "born": born(pid), "host": platform.node()}
    _append_line(folder / ATTEMPTS, attempt)


def born(pid: int) -> int | None:
    """When a process began, in ticks since the machine did: with its number it is known by this."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return int(fields[19])


def _append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add a line, on a line of its own also where a crash cut the last one short."""
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            whole = file.read(1) == b"\n"
        else:
            whole = True
        file.write((b"" if whole else b"\n") + json.dumps(value).encode() + b"\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines; what a crash cut short is left out."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield entry


def attempts(folder: Path) -> list[float]:
    """When each attempt at a stage began, seconds since 1970."""
    return [entry["started"] for entry in _lines(folder / ATTEMPTS) if "started" in entry]


def last_attempt(folder: Path) -> dict[str, Any] | None:
    """The newest attempt: started (seconds since 1970), pid, born, host; None before the first."""
    found = [entry for entry in _lines(folder / ATTEMPTS) if "started" in entry]
    return found[-1] if found else None


def segments(folder: Path) -> list[tuple[float, float]]:
    """When attempts without an end began and gave their last sign of life, seconds since 1970."""
    starts = attempts(folder)
    signs = [entry["time"] for entry in read_metrics(folder)]
    ends = [*starts[1:], float("inf")][: len(starts)]
    return [
        (begin, max((sign for sign in signs if begin <= sign < end), default=begin))
        for begin, end in zip(starts, ends, strict=True)
    ]


def seconds_spent(folder: Path) -> float:
    """Seconds that attempts without an end have worked."""
    return sum(end - begin for begin, end in segments(folder))


@contextlib.contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Send what libraries print to the stage's own log."""
    with log.open("a") as file, contextlib.redirect_stdout(file):
        yield


def _forget_peak_memory(device: str) -> None:
    """Let the process's peaks start anew: processes are used for one stage after the other."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    device_memory.forget_peak(device)


def _peak_memory_mib() -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
