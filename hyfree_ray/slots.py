"""Who may start next, who gives way, and what a machine has room for.

The rule is that of the critical path: whoever has the longest expected chain of stages after it
goes first (Graham 1969; Kelley 1961). So a late site's release is not kept waiting by the controls
of sites that were early. A training that has just saved itself gives way to a chain that is longer
than what is left of its own, where that chain decides when the run ends.
"""

from __future__ import annotations

import asyncio
import math
from bisect import insort
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hyfree_ray.schedule import Outlook

Needs = Mapping[str, float]
"""Amounts by resource: CPU, GPU, memory (bytes), `site:NAME`."""

SEGMENT_S = 600.0
"""A training keeps its place for at least as long: to go on, it has to load everything again."""

LONGER = 1.2
"""Times its own chain that another one has to be for a training to give way to it."""

CRITICAL = 0.4
"""Share of what is left to do, spread over all places, above which a chain may decide the end.

Shorter ones can wait. At 1 a chain is seen too late: it is not the only one, and places are few.
"""

UNFORESEEN = Outlook(seconds=0.0, chain=math.inf)
"""Of a stage that was not planned (of another round): it goes first and gives way to nobody."""


_Kind = frozenset[tuple[str, float]]
"""Needs that are the same."""


@dataclass(frozen=True)
class Turn:
    """One asking for a place. Messages may come twice, or overtake each other."""

    process: str
    """Who asks: a party's process, by a name that no later one has."""
    number: str
    """Of all its askings."""


@dataclass(frozen=True)
class _Waiting:
    order: tuple[float, int]
    ticket: str
    needs: Needs
    gate: asyncio.Future[None]
    turn: Turn | None

    def __lt__(self, other: _Waiting) -> bool:
        return self.order < other.order


@dataclass(frozen=True)
class _Held:
    machine: str | None
    needs: Needs
    since: float
    turn: Turn | None


@dataclass(kw_only=True)
class Slots:
    """Lets stages in by the length of their chains, as far as machines have room.

    It is advice: whoever starts the stage still takes the resources from the cluster, which has
    the last word. So what is forgotten here (after a crash) costs order, never correctness.
    """

    machines: Mapping[str, Mapping[str, float]]
    """What each has in all."""
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)
    """By ticket."""
    segment_s: float = SEGMENT_S
    _left: dict[str, float] = field(init=False)
    """Seconds that each planned stage still needs, by ticket."""
    _held: dict[str, _Held] = field(default_factory=dict)
    _waiting: dict[_Kind, list[_Waiting]] = field(default_factory=lambda: defaultdict(list))
    """In order, by what they need: of those that need the same, only the first is ever looked at,
    for a run of many sites asks for thousands of stages at once."""
    _count: int = 0
    _turns: dict[Turn, asyncio.Future[None]] = field(default_factory=dict)
    """Of those that wait or hold."""

    def __post_init__(self) -> None:
        self._left = {ticket: outlook.seconds for ticket, outlook in self.outlooks.items()}

    def see(self, machines: Mapping[str, Mapping[str, float]]) -> None:
        """Machines have come or gone."""
        self.machines = machines
        self._let_in()

    async def acquire(self, ticket: str, needs: Needs, turn: Turn | None = None) -> None:
        """Wait until the stage may start: before all whose chains are shorter.

        Args:
            ticket: of the stage.
            needs: what it takes.
            turn: which asking this is; heard twice (its answer was lost) it is the same.
        """
        if turn in self._turns:
            await asyncio.shield(self._turns[turn])
            return
        self._count += 1
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if turn is not None:
            self._turns[turn] = gate
        one = _Waiting((-self._chain(ticket), self._count), ticket, needs, gate, turn)
        insort(self._waiting[frozenset(needs.items())], one)
        self._let_in()
        await gate

    def release(self, ticket: str, *, done: bool = True) -> None:
        """The stage has ended, well or not; or it gave way, and is not done."""
        held = self._held.pop(ticket, None)
        if held is not None and held.turn is not None:
            self._turns.pop(held.turn, None)
        if done:
            self._left.pop(ticket, None)
        self._let_in()

    def gives_way(self, ticket: str, share: float) -> bool:
        """Whether a training that has just saved itself is to make room for a stage that waits.

        Args:
            ticket: of the training.
            share: of it that is done, 0 to 1.
        """
        held = self._held.get(ticket)
        if held is None or ticket not in self._left:
            return False
        self._left[ticket] = (1 - share) * self.outlooks[ticket].seconds
        if asyncio.get_running_loop().time() - held.since < self.segment_s:
            return False
        for one in self._first():
            chain = self._chain(one.ticket)
            if chain <= LONGER * self._chain(ticket):
                return False
            if self._would_fit(one.needs, ticket):
                return chain > CRITICAL * sum(self._left.values()) / self._places(one.needs)
        return False

    def forget(self, owner: str, process: str) -> None:
        """A party's process is new: what the ones before it held or wanted ended with them."""

        def gone(ticket: str, turn: Turn | None) -> bool:
            return ticket.startswith(f"{owner}/") and (turn is None or turn.process != process)

        for kind, queue in self._waiting.items():
            self._waiting[kind] = [one for one in queue if not gone(one.ticket, one.turn)]
        for ticket in [t for t, held in self._held.items() if gone(t, held.turn)]:
            self.release(ticket, done=False)

    def _chain(self, ticket: str) -> float:
        """Expected seconds from here to the end of the longest chain that begins with the stage."""
        outlook = self.outlooks.get(ticket, UNFORESEEN)
        return outlook.chain - outlook.seconds + self._left.get(ticket, 0.0)

    def _first(self) -> list[_Waiting]:
        """Of each kind the first, in order."""
        return sorted(queue[0] for queue in self._waiting.values() if queue)

    def _let_in(self) -> None:
        first = self._first()
        while first:
            one = first.pop(0)
            machine = self._machine_for(one.needs)
            # What no machine could ever hold is for the cluster to decide.
            if machine is None and unmet(one.needs, list(self.machines.values())) is None:
                continue  # somebody smaller, or of another machine, may fit
            queue = self._waiting[frozenset(one.needs.items())]
            queue.pop(0)
            if queue:
                insort(first, queue[0])
            now = asyncio.get_running_loop().time()
            self._held[one.ticket] = _Held(machine, one.needs, now, one.turn)
            if not one.gate.done():
                one.gate.set_result(None)

    def _machine_for(self, needs: Needs, without: str = "") -> str | None:
        """The first machine that has room for this, or would have it without one ticket."""
        for machine, has in self.machines.items():
            free = {
                name: has.get(name, 0.0) - self._taken(machine, name, without) for name in needs
            }
            if all(free[name] >= amount - 1e-9 for name, amount in needs.items()):
                return machine
        return None

    def _would_fit(self, needs: Needs, without: str) -> bool:
        return self._machine_for(needs, without) is not None

    def _taken(self, machine: str, resource: str, without: str) -> float:
        return sum(
            held.needs.get(resource, 0.0)
            for ticket, held in self._held.items()
            if held.machine == machine and ticket != without
        )

    def _places(self, needs: Needs) -> int:
        """How many stages like this one the machines hold at the same time, at least one."""
        return max(1, places(needs, list(self.machines.values())))


def places(needs: Needs, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many of these machines, each with what it has in all, hold at the same time."""
    amounts = {name: amount for name, amount in needs.items() if amount > 0}
    return sum(
        min(math.floor(has.get(name, 0.0) / amount) for name, amount in amounts.items())
        for has in nodes
    )


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


def in_words(needs: Needs) -> str:
    """Amounts and what of; not where."""
    amounts = needs.items()
    return ", ".join(_amount(name, a) for name, a in amounts if not name.startswith("site:"))


def _amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:g} GiB of memory" if name == "memory" else f"{amount:g} {name}"
