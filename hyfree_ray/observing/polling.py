"""Asking parties how far they are, where one of them may be away for hours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Set

from hyfree_ray.federation.interface import Handle, SiteProgram
from hyfree_ray.federation.status import Status

ANSWER_S = 10.0
"""How long who does not answer keeps the others from being asked again."""

LAST_ANSWER_S = 60.0
"""How long a run that is over waits for who does not answer: a machine may be gone for good."""


class Poller:
    """Asks parties for their status, nobody twice at the same time."""

    def __init__(self) -> None:
        self._owed: dict[str, tuple[float, asyncio.Future[Status]]] = {}
        """Since when (monotonic, seconds), and the answer."""

    async def ask(
        self,
        parties: Mapping[str, Handle],
        known: Mapping[str, tuple[Set[str], Set[str]]],
        *,
        last: bool = False,
    ) -> tuple[dict[str, asyncio.Future[Status]], dict[str, float]]:
        """Ask each party for its status, and wait a while.

        Args:
            parties: all.
            known: by party, the keys of stages and of parcels that it need not report again.
            last: all that there is to report is reported now, or not at all.

        Returns:
            By party, its answer; by party that owes one, for how many seconds.
        """
        if last:
            self._owed.clear()  # what was asked earlier may be answered without the newest
        for owner, party in parties.items():
            if owner not in self._owed:
                finished, parcels = known[owner]
                asking = party.call(SiteProgram.status, frozenset(finished), frozenset(parcels))
                self._owed[owner] = (time.monotonic(), asyncio.ensure_future(asking))
        answers = {owner: answer for owner, (_, answer) in self._owed.items()}
        done, _ = await asyncio.wait(answers.values(), timeout=LAST_ANSWER_S if last else ANSWER_S)
        answered = {owner: answer for owner, answer in answers.items() if answer in done}
        for owner in answered:
            del self._owed[owner]
        now = time.monotonic()
        return answered, {owner: now - since for owner, (since, _) in self._owed.items()}
