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
from dataclasses import dataclass, field, replace

from hyfree_ray.scheduling.history import Outlook

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
    like: str
    gate: asyncio.Future[Needs]
    turn: Turn | None

    def __lt__(self, other: _Waiting) -> bool:
        return self.order < other.order


@dataclass(frozen=True)
class _Held:
    machine: str | None
    needs: Needs
    like: str
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
    _turns: dict[Turn, asyncio.Future[Needs]] = field(default_factory=dict)
    """Of those that wait or hold."""
    _shares: dict[str, float] = field(default_factory=dict)
    """By stage, the largest share of a GPU that one of those took whose share was not known."""

    def __post_init__(self) -> None:
        self._left = {ticket: outlook.seconds for ticket, outlook in self.outlooks.items()}

    def see(self, machines: Mapping[str, Mapping[str, float]]) -> None:
        """Machines have come or gone."""
        self.machines = machines
        self._let_in()

    async def acquire(
        self, ticket: str, needs: Needs, turn: Turn | None = None, *, like: str = ""
    ) -> Needs:
        """Wait until the stage may start: before all whose chains are shorter.

        Args:
            ticket: of the stage.
            needs: what it takes.
            turn: which asking this is; heard twice (its answer was lost) it is the same.
            like: the stage's name, where nobody knows what share of a GPU it takes. It takes as
                much as others of that name were seen to, and what `needs` says before there are
                any.

        Returns:
            What it may take.
        """
        if turn in self._turns:
            return await asyncio.shield(self._turns[turn])
        self._count += 1
        gate: asyncio.Future[Needs] = asyncio.get_running_loop().create_future()
        if turn is not None:
            self._turns[turn] = gate
        order = (-self._chain(ticket), self._count)
        self._wait(_Waiting(order, ticket, needs, like, gate, turn))
        self._let_in()
        return await gate

    def _wait(self, one: _Waiting) -> None:
        if one.like in self._shares:
            one = replace(one, needs={**one.needs, "GPU": self._shares[one.like]})
        insort(self._waiting[frozenset(one.needs.items())], one)

    def _learn(self, like: str, share: float) -> None:
        """A stage that nobody knew took a share of a GPU: those like it will take as much."""
        if share <= self._shares.get(like, 0.0):
            return
        self._shares[like] = share
        alike = [one for queue in self._waiting.values() for one in queue if one.like == like]
        for kind, queue in self._waiting.items():
            self._waiting[kind] = [one for one in queue if one.like != like]
        for one in alike:
            self._wait(one)

    def release(
        self, ticket: str, turn: Turn | None = None, *, done: bool = True, takes: float = 0.0
    ) -> None:
        """The stage has ended, well or not; or it gave way, and is not done.

        Args:
            ticket: of the stage.
            turn: which asking ended; heard twice, or after the next one was let in, it is no news.
            done: it has ended.
            takes: share of a GPU that it was seen to take; 0: not measured.
        """
        if turn is not None:
            self._turns.pop(turn, None)
        held = self._held.get(ticket)
        if held is not None and held.turn == turn:
            del self._held[ticket]
            if held.like and takes:
                self._learn(held.like, takes)
        if done:
            self._left.pop(ticket, None)
        self._let_in()

    def gives_way(self, ticket: str, share: float, takes: float = 0.0) -> bool:
        """Whether a training that has just saved itself is to end, and to ask for a place again.

        To make room for a stage that waits; or because it does not take the share of a GPU that
        was set aside for it: more, or less where others would find room beside it.

        Args:
            ticket: of the training.
            share: of it that is done, 0 to 1.
            takes: share of a GPU that it was seen to take; 0: not measured.
        """
        held = self._held.get(ticket)
        if held is None:
            return False
        if takes and self._asks_again(ticket, held, takes):
            return True
        if ticket not in self._left:
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

    def _asks_again(self, ticket: str, held: _Held, takes: float) -> bool:
        """Whether a stage takes more of a GPU than it has, or is new and leaves room for others."""
        has = held.needs.get("GPU", 0.0)
        if takes >= has or not held.like:
            return takes > has
        self._learn(held.like, takes)
        self._let_in()
        self._held[ticket] = replace(held, needs={**held.needs, "GPU": takes})
        try:
            return any(self._machine_for(one.needs) is not None for one in self._first())
        finally:
            self._held[ticket] = held

    def forget(self, owner: str, process: str) -> None:
        """A party's process is new: what the ones before it held or wanted ended with them."""

        def gone(ticket: str, turn: Turn | None) -> bool:
            return ticket.startswith(f"{owner}/") and (turn is None or turn.process != process)

        for kind, queue in self._waiting.items():
            self._waiting[kind] = [one for one in queue if not gone(one.ticket, one.turn)]
        for ticket, held in list(self._held.items()):
            if gone(ticket, held.turn):
                self.release(ticket, held.turn, done=False)

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
            self._held[one.ticket] = _Held(machine, one.needs, one.like, now, one.turn)
            if not one.gate.done():
                one.gate.set_result(one.needs)

    def _machine_for(self, needs: Needs, without: str = "") -> str | None:
        """The first machine that has room for this, or would have it without one ticket."""
        for machine, has in self.machines.items():
            if all(
                _fits(name, has.get(name, 0.0), self._taken(machine, name, without), amount)
                for name, amount in needs.items()
            ):
                return machine
        return None

    def _would_fit(self, needs: Needs, without: str) -> bool:
        return self._machine_for(needs, without) is not None

    def _taken(self, machine: str, resource: str, without: str) -> list[float]:
        return [
            held.needs.get(resource, 0.0)
            for ticket, held in self._held.items()
            if held.machine == machine and ticket != without
        ]

    def _places(self, needs: Needs) -> int:
        """How many stages like this one the machines hold at the same time, at least one."""
        return max(1, places(needs, list(self.machines.values())))


def _fits(resource: str, has: float, taken: Sequence[float], amount: float) -> bool:
    """Whether a machine has room for an amount more of a resource.

    A share of a GPU is of one GPU: two halves of different ones are no whole.
    """
    if resource != "GPU" or amount == 0.0:
        return sum(taken) + amount <= has + 1e-9
    free = [1.0] * math.floor(has)
    for share in sorted((*taken, amount), reverse=True):  # as they are packed best
        whole = math.floor(share)
        if whole > sum(room == 1.0 for room in free):
            return False
        for _ in range(whole):
            free.remove(1.0)
        if part := share - whole:
            room = min((room for room in free if room >= part - 1e-9), default=None)
            if room is None:
                return False
            free[free.index(room)] -= part
    return True


def places(needs: Needs, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many of these machines, each with what it has in all, hold at the same time."""
    amounts = {name: amount for name, amount in needs.items() if amount > 0}
    return sum(
        min(_times(name, has.get(name, 0.0), amount) for name, amount in amounts.items())
        for has in nodes
    )


def _times(resource: str, has: float, amount: float) -> int:
    """How often an amount fits; a share of a GPU is of one GPU."""
    if resource == "GPU" and amount < 1:
        return math.floor(has) * math.floor(1 / amount + 1e-9)
    return math.floor(has / amount)


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
            has = _amount(name, most) if name == "memory" else f"{most:g}"
            lacking.append(f"{_amount(name, amount)}, the most that a machine has is {has}")
    text = "; ".join(lacking) or "all of it on one machine"
    where = f" on the machine of {pins[0]}" if pins else ""
    return f"needs {text}{where}"


def in_words(needs: Needs) -> str:
    """Amounts and what of; not where."""
    amounts = needs.items()
    return ", ".join(_amount(name, a) for name, a in amounts if not name.startswith("site:"))


def _amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:g} GiB of memory" if name == "memory" else f"{amount:g} {name}"
