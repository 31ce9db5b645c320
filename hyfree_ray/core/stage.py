"""What a stage is, and how one is run: here, whoever asked for it and wherever that is.

A stage is a plain function. It gets a `Context`, the folders of its inputs and its parameters,
writes into its own folder and returns a few numbers:

    @stage(version=1, device=True)
    def train_generator(context, *, prepared: Folder, backend: str, seed: int) -> dict: ...

Calling `train_generator(context, prepared=..., ...)` runs it, in a notebook or in a test.
`train_generator.call(prepared=artifact, ...)` describes that call, and `execute` runs a described
call under the store's law: one process a key, resumed after a crash, recorded last.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Protocol

from hyfree_ray.core.artifacts import Artifact, Call
from hyfree_ray.core.journal import append_metrics
from hyfree_ray.core.records import StageRecord, load_record

P = ParamSpec("P")


class Folder(Protocol):
    """An input of a stage: where a party calls the stage an `Artifact`, where it runs a path."""

    def __truediv__(self, name: str, /) -> Path: ...

    def __fspath__(self) -> str: ...


class Launch(Protocol):
    """Runs `function(**arguments)` in `workers` processes that form a torch process group."""

    def __call__(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], workers: int, out: Path
    ) -> None: ...


class Preempted(Exception):
    """A training ended at a checkpoint because its place is wanted: it goes on from there."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage knows of where it runs. Nothing here may change its result."""

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
        append_metrics(self.out, step, total, metrics)


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[P]):
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
    function: Callable[Concatenate[Context, P], dict[str, Any]]

    def __call__(self, context: Context, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        return self.function(context, *args, **kwargs)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """Describe a call: artifacts are inputs, everything else is a parameter."""
        inspect.signature(self.function).bind(None, *args, **kwargs)
        return Call(
            stage=self.name,
            version=self.version,
            params={k: v for k, v in kwargs.items() if not isinstance(v, Artifact)},
            inputs={k: v for k, v in kwargs.items() if isinstance(v, Artifact)},
        )


def stage(
    *, version: int, device: bool = False, distributed: bool = False, private: tuple[str, ...] = ()
) -> Callable[[Callable[Concatenate[Context, P], dict[str, Any]]], Stage[P]]:
    """Make a function a stage. Raise `version` whenever its results change."""

    def make(function: Callable[Concatenate[Context, P], dict[str, Any]]) -> Stage[P]:
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


def find_stage(module: str, name: str) -> Stage[Any]:
    """Import the stage of that name, where it is to run."""
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Stage)
    return found


def read_result(folder: Folder) -> dict[str, Any]:
    """The numbers that a finished stage returned: how a stage reads those of its inputs."""
    return stage_record(folder).result


def stage_record(folder: Folder) -> StageRecord:
    """Read all that was recorded of a finished stage."""
    return load_record(Path(folder), StageRecord)
