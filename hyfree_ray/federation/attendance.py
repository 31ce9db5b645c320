"""Who takes part in a run: sites that withdraw, are late, fail, or were left out of a closed round.

Some of a federation's sites may be missing where its rules allow it; everybody else goes on.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import gather
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.core.parties import ORACLE, POOL
from hyfree_ray.federation.failures import cause_of, public_reason
from hyfree_ray.federation.interface import (
    Handle,
    OracleProgram,
    PoolProgram,
    Receipt,
    SiteProgram,
)
from hyfree_ray.federation.participation import Rules

T = TypeVar("T")

TICK_S = 5.0
"""Interval at which the waiting time of a round is recorded."""


class Attendance:
    """The sites of one run and the pool's receipts for them.

    Args:
        parties: the hospitals by name, the pool, and the oracle where there is one.
        rules: sites that may be missing.
        report: called with one line for each site that leaves.
    """

    def __init__(
        self, parties: Mapping[str, Handle], rules: Rules, report: Callable[[str], None]
    ) -> None:
        self.pool = parties[POOL]
        self.oracle = parties.get(ORACLE)
        self.sites = {name: p for name, p in parties.items() if name not in {POOL, ORACLE}}
        """Those that still take part."""
        self.real = set(self.sites)
        """Whose real data the oracle may read."""
        self.rules = rules
        self.report = report
        self.receipts: dict[str, Receipt] = {}

    async def withdraw(self) -> None:
        """Leave out sites that have withdrawn, now or before, and name the models derived from
        them."""
        for name in await self.pool.call(PoolProgram.withdraw, list(self.rules.withdraw)):
            if name not in self.sites:
                continue
            self._leave(name, Receipt(outcome="withdrawn", reason="the site has withdrawn"))
            self.real.discard(name)
            keys = await self.pool.call(PoolProgram.models_of_site, name)
            for other, site in self.sites.items():
                for model in await site.call(SiteProgram.models_derived_from, keys):
                    self.report(f"{name} contributed to {other}'s {model}")
            for key in keys:
                self.report(f"{name} contributed to the general model {key[:8]}")
            if self.oracle is not None:
                for model in await self.oracle.call(OracleProgram.models_of_site, name, keys):
                    self.report(f"{name} contributed to the comparison {model}")

    async def until_in(self, contribute: Callable[[str], Awaitable[Receipt]]) -> None:
        """Wait for the releases: of all sites, or of those that are in at the deadline.

        A site that was left out of a closed round is not waited for again.

        Args:
            contribute: makes and submits a site's release.
        """
        if not self.rules.next_round:
            for name, receipt in (await self.pool.call(PoolProgram.left_out)).items():
                if self.sites.pop(name, None) is not None:
                    self.receipts[name] = receipt
                    self.report(f"{describe(name, receipt)}; --next-round includes it")
        tasks = {asyncio.ensure_future(contribute(name)): name for name in tuple(self.sites)}
        waited = await self._add_waiting(0.0)
        while tasks:
            left = None if self.rules.deadline_s is None else self.rules.deadline_s - waited
            if left is not None and left <= 0:
                break
            begun = time.monotonic()
            done, _ = await asyncio.wait(
                tasks,
                timeout=None if left is None else min(TICK_S, left),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                self._note_submission(tasks.pop(task), task)
            if left is not None:
                waited = await self._add_waiting(time.monotonic() - begun)
        for task, name in tasks.items():
            task.cancel()
            reason = "its release had not arrived at the deadline"
            self._leave(name, Receipt(outcome="late", reason=reason))

    async def _add_waiting(self, seconds: float) -> float:
        if self.rules.deadline_s is None:
            return 0.0
        return await self.pool.call(PoolProgram.add_waiting, seconds, self.rules.next_round)

    def _note_submission(self, name: str, task: asyncio.Task[Receipt]) -> None:
        """Record a submission's outcome; leave out a site that failed, if the rules allow."""
        try:
            self.receipts[name] = task.result()
        except Exception as error:
            cause = cause_of(error)
            if not self.rules.tolerant or not isinstance(cause, (HyfreeError, StageError)):
                raise
            self._leave(name, Receipt(outcome="failed", reason=public_reason(cause)), cause)

    def _leave(self, name: str, receipt: Receipt, cause: BaseException | None = None) -> None:
        self.sites.pop(name, None)
        self.receipts[name] = receipt
        self.report(describe(name, receipt, cause))

    async def settled(self, promises: Iterable[Awaitable[T]]) -> list[T | None]:
        """Wait for all; None in place of a site's failure, if the rules allow it."""
        if not self.rules.tolerant:
            return list(await gather(*promises))
        settled: list[T | None] = []
        for found in await gather(*promises, return_exceptions=True):
            if not isinstance(found, BaseException):
                settled.append(found)
                continue
            cause = cause_of(found)
            if not (isinstance(cause, StageError) and cause.owner in self.sites):
                raise cause
            before = self.receipts[cause.owner]
            if before.outcome != "failed":
                failed = replace(before, outcome="failed", reason=public_reason(cause))
                self.receipts[cause.owner] = failed
                self.report(describe(cause.owner, failed, cause))
            settled.append(None)
        return settled


def describe(name: str, receipt: Receipt, cause: BaseException | None = None) -> str:
    """Describe a site's outcome, with the error in full, for this terminal alone."""
    if receipt.outcome == "released":
        flag = f"; inspect it: {receipt.flag}" if receipt.flag else ""
        return f"{name}: released {receipt.images} synthetic images{flag}"
    kind = "FAILED" if receipt.outcome == "failed" else receipt.outcome
    if isinstance(cause, StageError):
        return f"{name}: {kind}: {receipt.reason} (see {cause.log})"
    return f"{name}: {kind}: {receipt.reason if cause is None else cause}"
