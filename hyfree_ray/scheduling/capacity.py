"""Work out what a machine has room for, and why no machine ever will."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Needs = Mapping[str, float]
"""Amounts by resource: CPU, GPU, memory (bytes), `site:NAME`."""


def fits(needs: Needs, has: Needs, taken: Sequence[Needs]) -> bool:
    """Return whether a machine has room for a stage beside what others take of it.

    Args:
        needs: of the stage.
        has: what the machine has in all.
        taken: what each stage on it takes.
    """
    return all(
        _amount_fits(name, has.get(name, 0.0), [one.get(name, 0.0) for one in taken], amount)
        for name, amount in needs.items()
    )


def _amount_fits(resource: str, has: float, taken: Sequence[float], amount: float) -> bool:
    """A share of a GPU is of one GPU: two halves of different ones are no whole."""
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


def capacity(needs: Needs, machines: Sequence[Needs]) -> int:
    """Return how many stages with these needs the machines hold at the same time.

    Args:
        needs: of each stage.
        machines: what each has in all.
    """
    amounts = {name: amount for name, amount in needs.items() if amount > 0}
    return sum(
        min(_times(name, has.get(name, 0.0), amount) for name, amount in amounts.items())
        for has in machines
    )


def _times(resource: str, has: float, amount: float) -> int:
    """How often an amount fits; a share of a GPU is of one GPU."""
    if resource == "GPU" and amount < 1:
        return math.floor(has) * math.floor(1 / amount + 1e-9)
    return math.floor(has / amount)


def why_unsatisfiable(needs: Needs, machines: Sequence[Needs]) -> str | None:
    """Say why no machine could ever hold a stage, in words; None where one could.

    Args:
        needs: of the stage.
        machines: what each has in all.
    """
    if any(all(has.get(n, 0.0) >= a for n, a in needs.items()) for has in machines):
        return None
    pins = [name for name in needs if name.startswith("site:")]
    pinned = [has for has in machines if all(has.get(pin, 0.0) > 0 for pin in pins)]
    lacking = []
    for name, amount in needs.items():
        most = max((has.get(name, 0.0) for has in pinned or machines), default=0.0)
        if most < amount:
            has = _format_amount(name, most) if name == "memory" else f"{most:g}"
            lacking.append(f"{_format_amount(name, amount)}, but no machine has more than {has}")
    text = "; ".join(lacking) or "all on one machine"
    where = f" on the machine of {pins[0]}" if pins else ""
    return f"needs {text}{where}"


def format_needs(needs: Needs) -> str:
    """Spell out amounts and what of; not on which machine."""
    amounts = needs.items()
    return ", ".join(_format_amount(n, a) for n, a in amounts if not n.startswith("site:"))


def _format_amount(name: str, amount: float) -> str:
    return f"{amount / 2**30:g} GiB of memory" if name == "memory" else f"{amount:g} {name}"
