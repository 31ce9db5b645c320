"""How long stages will take, which to run first, and what a machine has room for.

The rule is that of the critical path: whoever has the longest expected chain of stages after it
goes first (Graham 1969; Kelley 1961). So a late site's release is not kept waiting by the controls
of sites that were early.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyfree_ray.party import Step
from hyfree_ray.store import RECORD

GPU_SECONDS_AN_ITERATION = 0.16
"""nnU-Net 2d at its defaults: 40 s for 250 iterations on an A100 (its documentation)."""

GPU_SECONDS_AN_IMAGE = 0.025
"""StyleGAN2 at about 256x256 (published: 21.6 to 24.2 s for 1000 on a V100)."""

CPU_FACTOR = 150.0
"""A CPU core against such a GPU, at full width. Hours become weeks."""

OTHER_SECONDS = 5.0
"""A stage that trains nothing, where no record tells better."""

_ITERATIONS = ("train_segmenter", "train_general", "train_fedavg")


def work_of(stage: str, params: Mapping[str, Any]) -> float:
    """A stage's length in its own units: iterations, images shown, images sampled."""
    if stage in _ITERATIONS:
        return float(params["epochs"] * params["iterations"])
    if stage == "train_generator":
        return float(params["images_shown"])
    return float(params.get("quota", 1))


def pace_of(store: Path, device: str) -> dict[str, tuple[float, int]]:
    """Seconds a unit of work by stage, and how many records say so, from a store's records."""
    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for folder in ("sites/*", "pool", "oracle"):
        for file in store.glob(f"{folder}/stages/*/{RECORD}"):
            try:
                record = json.loads(file.read_text())
                if record["device"] == device:
                    work = work_of(record["stage"], record["params"])
                    spent[record["stage"]].append((float(record["seconds"]), work))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # what is not readable tells nothing
    return {
        stage: (sum(s for s, _ in found) / max(1e-9, sum(w for _, w in found)), len(found))
        for stage, found in spent.items()
    }


def expected_seconds(
    steps: Iterable[Step], pace: Mapping[str, tuple[float, int]], device: str
) -> dict[str, float]:
    """Expected seconds of each step by key: by records, else by rule of thumb; 0 if it is done."""
    factor = 1.0 if device == "cuda" else CPU_FACTOR
    found = {}
    for step in steps:
        work = work_of(step.stage, step.call.params)
        if step.done:
            found[step.key] = 0.0
        elif step.stage in pace:
            found[step.key] = pace[step.stage][0] * work
        elif step.stage in _ITERATIONS:
            found[step.key] = work * GPU_SECONDS_AN_ITERATION * factor
        elif step.stage == "train_generator":
            found[step.key] = work * GPU_SECONDS_AN_IMAGE * factor
        else:
            found[step.key] = OTHER_SECONDS
    return found


def remaining_seconds(
    inputs: Mapping[str, Iterable[str]], seconds: Mapping[str, float]
) -> dict[str, float]:
    """The longest chain that begins with each stage, by key, itself included.

    Args:
        inputs: by stage, the keys of what it reads; keys that are no stage do not count.
        seconds: how long each takes.
    """
    readers: dict[str, list[str]] = defaultdict(list)
    for key, sources in inputs.items():
        for source in sources:
            readers[source].append(key)
    found: dict[str, float] = {}
    for start in inputs:
        stack = [start]
        while stack:  # depth first, without recursion
            key = stack[-1]
            open_readers = [reader for reader in readers[key] if reader not in found]
            if key in found or not open_readers:
                if key not in found:
                    after = max((found[reader] for reader in readers[key]), default=0.0)
                    found[key] = seconds[key] + after
                stack.pop()
            else:
                stack += open_readers
    return found


def priorities(steps: Sequence[Step], seconds: Mapping[str, float]) -> dict[str, float]:
    """Which step goes first: the expected rest of its chain, by key."""
    inputs = {step.key: [found.key for found in step.call.inputs.values()] for step in steps}
    return remaining_seconds(inputs, seconds)


Needs = Mapping[str, float]
"""Amounts by resource: CPU, GPU, memory (bytes), `site:NAME`."""


@dataclass(frozen=True)
class _Waiting:
    order: tuple[float, int]
    ticket: str
    needs: Needs
    gate: asyncio.Future[None]


@dataclass(kw_only=True)
class Slots:
    """Lets stages in by priority as far as machines have room.

    It is advice: whoever starts the stage still takes the resources from the cluster, which has
    the last word. So what is forgotten here (after a crash) costs order, never correctness.
    """

    machines: Mapping[str, Mapping[str, float]]
    """What each has in all."""
    _held: dict[str, tuple[str, Needs]] = field(default_factory=dict)
    _waiting: list[_Waiting] = field(default_factory=list)
    _count: int = 0

    async def acquire(self, ticket: str, needs: Needs, priority: float) -> None:
        """Wait until the stage may start: before all that have less priority."""
        self._count += 1
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting((-priority, self._count), ticket, needs, gate))
        self._let_in()
        await gate

    def release(self, ticket: str) -> None:
        """The stage has ended, well or not."""
        self._held.pop(ticket, None)
        self._let_in()

    def forget(self, owner: str) -> None:
        """A party's process is new: what it held before ended with it."""
        self._waiting = [one for one in self._waiting if not one.ticket.startswith(f"{owner}/")]
        for ticket in [one for one in self._held if one.startswith(f"{owner}/")]:
            self.release(ticket)

    def _let_in(self) -> None:
        for one in sorted(self._waiting, key=lambda one: one.order):
            machine = self._machine_for(one.needs)
            # What no machine could ever hold is for the cluster to decide.
            if machine is None and unmet(one.needs, list(self.machines.values())) is None:
                continue  # somebody smaller, or of another machine, may fit
            self._waiting.remove(one)
            if machine is not None:
                self._held[one.ticket] = (machine, one.needs)
            if not one.gate.done():
                one.gate.set_result(None)

    def _machine_for(self, needs: Needs) -> str | None:
        for machine, has in self.machines.items():
            if all(has.get(n, 0.0) - self._taken(machine, n) >= a - 1e-9 for n, a in needs.items()):
                return machine
        return None

    def _taken(self, machine: str, resource: str) -> float:
        held = (needs for where, needs in self._held.values() if where == machine)
        return sum(needs.get(resource, 0.0) for needs in held)


def unmet(needs: Needs, nodes: Sequence[Mapping[str, float]]) -> str | None:
    """Why no machine could ever take this, in words; None where one can.

    Args:
        needs: of one stage.
        nodes: what each machine has in all.
    """
    if any(all(has.get(n, 0.0) >= a for n, a in needs.items()) for has in nodes):
        return None
    pins = [name for name in needs if name.startswith("site:")]
    there = [has for has in nodes if all(has.get(pin, 0.0) > 0 for pin in pins)] or list(nodes)
    lacking = []
    for name, amount in needs.items():
        most = max((has.get(name, 0.0) for has in there), default=0.0)
        if most < amount:
            lacking.append(f"{_amount(name, amount)}, the most that a machine has is {most:g}")
    text = "; ".join(lacking) or "all of it on one machine"
    where = f" on the machine of {pins[0]}" if pins else ""
    return f"needs {text}{where}"


def _amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:g} GiB of memory" if name == "memory" else f"{amount:g} {name}"
