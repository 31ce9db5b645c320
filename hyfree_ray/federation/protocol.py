"""The method from above: the order of calls between parties, and what crosses between them.

Nothing runs here. A parcel goes from party to party without passing through here: a reference to it
is an argument of the next call. Errors do not travel: a party's failure fails this program, and the
calls that depended on it are never made.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import gather
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, TypeVar

from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.parties import ORACLE, POOL
from hyfree_ray.evaluation.regime import REPLAY
from hyfree_ray.evaluation.regimes import (
    CHOSEN,
    CONTROL,
    GENERAL,
    candidates,
    in_order,
    protocol,
    record_of,
    replays,
    trained_by,
)
from hyfree_ray.federation.failures import cause_of, public_reason
from hyfree_ray.federation.interface import (
    Handle,
    LabelsReceipt,
    OracleProgram,
    PoolProgram,
    Receipt,
    Scored,
    SiteProgram,
)
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.trust import LABELS

T = TypeVar("T")

TICK_S = 5.0
"""Interval at which the waiting time of a round is recorded."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of a run."""

    sites: Mapping[str, Receipt]
    """The pool's receipt for each site."""
    scores: tuple[Scored, ...]
    """Sorted by regime, site of training and site of test."""
    general: bool
    """Whether there is a general model."""
    chosen: Mapping[str, str]
    """By site, the regime chosen by its validation cases; empty if none was asked to choose."""
    round: int = 1
    """The pool's round that the general model was trained on."""


async def simulate(
    parties: Mapping[str, Handle],
    *,
    settings: Collection[str] = (),
    rules: Rules | None = None,
    contributors: Collection[str] = (),
    report: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run the method on all sites. No site waits for another before the pool closes.

    Args:
        parties: the hospitals by name, the pool, and the oracle where a setting needs it.
        settings: trainings beside the paper's protocol.
        rules: sites that may be missing; None: none may.
        contributors: sites whose releases are pooled; empty: all. The others fine-tune too.
        report: called with one line at each milestone.

    Raises:
        HyfreeError: fewer releases are in than the rules require.
    """
    return await _Run(parties, settings, rules or Rules(), contributors, report).through()


class _Run:
    """One run: models are scored at all sites as soon as they exist."""

    def __init__(
        self,
        parties: Mapping[str, Handle],
        settings: Collection[str],
        rules: Rules,
        contributors: Collection[str],
        report: Callable[[str], None],
    ) -> None:
        self.pool = parties[POOL]
        self.oracle = parties.get(ORACLE)
        self.sites = {name: p for name, p in parties.items() if name not in {POOL, ORACLE}}
        self.real = set(self.sites)
        """Whose real data the oracle may read."""
        self.regimes = in_order({*protocol(), *settings})
        self.rules = rules
        self.contributors = frozenset(contributors or self.sites)
        self.report = report
        self.receipts: dict[str, Receipt] = {}
        self.labels: Mapping[str, str] = {}
        """Keys of the labels of public images that the pool took in, by site."""
        self.controls: dict[str, asyncio.Future[Parcel | None]] = {}
        self.scoring: list[Awaitable[Scored]] = []
        self.choices: dict[str, Awaitable[str]] = {}
        self.agreement: Awaitable[Mapping[str, float]] | None = None
        self.effects: dict[str, Awaitable[float]] = {}

    async def through(self) -> Outcome:
        everybody = list(self.sites)
        await self._withdraw()
        await self._until_in()
        pooled = [name for name in self.sites if name in self.contributors]
        left_out = {n: r for n, r in self.receipts.items() if r.outcome in {"failed", "late"}}
        closed = await self.pool.call(PoolProgram.close, pooled, self.rules, left_out)
        if closed.releases:
            names = ", ".join(sorted(closed.releases))
            self.report(f"pool closed with {len(closed.releases)} releases: {names}")
        else:
            self.report("fewer than two releases: no general model is trained or fine-tuned")
        self.labels = await self._labels()
        general = self._general_models(closed.releases)
        released = {**closed.releases, **closed.alone}
        self._at_sites(closed.releases, general, released)
        self._at_the_pool(closed.releases, general, released)
        self._at_the_oracle(released)
        scores = [found for found in await self._settled(self.scoring) if found is not None]
        choices = await self._settled(self.choices.values())
        chosen = {n: c for n, c in zip(self.choices, choices, strict=True) if c is not None}
        scores += scores_of_chosen(scores, chosen)
        if self.agreement is not None:
            for name, dice in (await self.agreement).items():
                self.receipts[name] = replace(self.receipts[name], label_agreement=dice)
        effects = await self._settled(self.effects.values())
        for name, effect in zip(self.effects, effects, strict=True):
            self.receipts[name] = replace(self.receipts[name], effect=effect)
        return Outcome(
            sites={name: self.receipts[name] for name in everybody},
            scores=tuple(sorted(scores, key=lambda s: (s.regime, s.train_site, s.test_site))),
            general=bool(closed.releases),
            chosen=chosen,
            round=closed.number,
        )

    # --- who takes part ----------------------------------------------------------------------

    async def _withdraw(self) -> None:
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

    async def _until_in(self) -> None:
        """Wait for the releases: of all sites, or of those that are in at the deadline.

        A site that was left out of a closed round is not waited for again.
        """
        if not self.rules.next_round:
            for name, receipt in (await self.pool.call(PoolProgram.left_out)).items():
                if self.sites.pop(name, None) is not None:
                    self.receipts[name] = receipt
                    self.report(f"{describe(name, receipt)}; --next-round includes it")
        tasks = {asyncio.ensure_future(self._contribute(name)): name for name in tuple(self.sites)}
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

    async def _settled(self, promises: Iterable[Awaitable[T]]) -> list[T | None]:
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

    # --- what is trained ---------------------------------------------------------------------

    async def _contribute(self, name: str) -> Receipt:
        site = self.sites[name]
        submitted = await site.make(SiteProgram.submit)
        await self.pool.call(PoolProgram.trust, name, await site.make(SiteProgram.public_key))
        receipt = await self.pool.call(PoolProgram.take, name, submitted)
        self.report(describe(name, receipt))
        # While others finish and the pool trains, the site trains its control.
        self.controls[name] = _start(site.make(SiteProgram.model, CONTROL))
        return receipt

    def _score(
        self,
        regime: str,
        train_site: str,
        model: asyncio.Future[Any],
        at: Iterable[str] = (),
    ) -> None:
        """Score a model at the named sites, or at all, once it exists."""

        async def scored(site: Handle) -> Scored:
            return await site.call(SiteProgram.score, regime, train_site, await model)

        self.scoring += [_start(scored(self.sites[name])) for name in at or self.sites]

    async def _labels(self) -> dict[str, str]:
        """Collect the sites' labels of public images, where a regime is trained on these."""
        if not any(record_of(name).carrier == "public" for name in self.regimes):
            return {}
        names = [name for name in self.sites if name in self.contributors]
        taken = await self._settled([_start(self._label_public(name)) for name in names])
        keys = {n: one.key for n, one in zip(names, taken, strict=True) if one and one.key}
        return keys if len(keys) > 1 else {}

    async def _label_public(self, name: str) -> LabelsReceipt:
        labelled = await self.sites[name].make(SiteProgram.label_public)
        taken = await self.pool.call(PoolProgram.take_labels, name, labelled)
        said = f"labels of public images refused: {taken.reason}"
        self.report(f"{name}: {f'labelled {taken.images} public images' if taken.key else said}")
        return taken

    def _members(self, regime: str, members: Mapping[str, str]) -> Mapping[str, str]:
        """Return what a regime's models are trained on, by site: releases, or labels."""
        return self.labels if record_of(regime).carrier == "public" else members

    def _general_models(self, members: Mapping[str, str]) -> dict[str, asyncio.Future[Any]]:
        """Train the pool's models of all releases, by regime: what is asked for, and what those
        begin with."""
        needed = {need for name in self.regimes for need in record_of(name).needs} - {REPLAY}
        wanted = trained_by("pool", {*self.regimes, *needed})
        return {
            name: _start(self.pool.make(PoolProgram.model, name, found))
            for name in wanted
            if record_of(name).releases == "all" and (found := self._members(name, members))
        }

    def _at_sites(
        self,
        members: Mapping[str, str],
        pooled: Mapping[str, asyncio.Future[Any]],
        released: Mapping[str, str],
    ) -> None:
        """Train the sites' own models, with or without a general model and the others' releases.

        Args:
            members: keys of the releases that are pooled, by site.
            pooled: the pool's models of these, by regime.
            released: keys of all releases, one that there is no other to pool with included.
        """
        wanted = trained_by("site", self.regimes)
        given = dict(pooled)
        if members and replays(wanted):
            self.agreement = _start(self.pool.call(PoolProgram.label_agreement, members))
            given[REPLAY] = _start(self.pool.make(PoolProgram.share_for_replay, members))
            # A site chooses between models that are scored.
            if set(candidates(self.regimes)) <= set(self.regimes):
                for name, site in self.sites.items():
                    choice = _with(site.call, SiteProgram.choose, given[GENERAL], given[REPLAY])
                    self.choices[name] = _start(choice)
        if self.labels and any(REPLAY in record_of(name).needs for name in wanted):
            given[LABELS] = _start(self.pool.make(PoolProgram.share_labels, self.labels))
        for regime in wanted:
            record = record_of(regime)
            if record.needs and not self._members(regime, members):
                continue
            replayed = LABELS if record.carrier == "public" else REPLAY
            for name, site in self.sites.items():
                if record.releases == "own" and name not in released:
                    continue
                begun = self.controls.get(name) if regime == CONTROL else None
                needs = [given[replayed if need == REPLAY else need] for need in record.needs]
                self._score(
                    regime,
                    name,
                    begun or _start(_with(site.make, SiteProgram.model, regime, *needs)),
                )

    def _at_the_pool(
        self,
        members: Mapping[str, str],
        pooled: Mapping[str, asyncio.Future[Any]],
        released: Mapping[str, str],
    ) -> None:
        """Train the pool's models: on all releases, on each alone, on all but each."""
        for regime in trained_by("pool", self.regimes):
            record = record_of(regime)
            if regime in pooled:
                self._score(regime, POOL, pooled[regime])
                continue
            parts: dict[str, Mapping[str, str]] = {}
            if record.releases == "own":
                parts = {name: {name: released[name]} for name in sorted(released)}
            elif record.foreign_only:
                parts = {
                    name: {other: key for other, key in members.items() if other != name}
                    for name in sorted(members)
                }
            for name, part in parts.items():
                if not part:
                    continue
                alone = [name] if record.foreign_only else []
                training = _start(self.pool.make(PoolProgram.model, regime, part))
                self._score(regime, name, training, alone)
                if record.foreign_only and GENERAL in pooled:
                    self.effects[name] = _start(
                        self._effect(regime, name, pooled[GENERAL], training)
                    )

    async def _effect(
        self,
        regime: str,
        name: str,
        general: asyncio.Future[Any],
        without: asyncio.Future[Any],
    ) -> float:
        """Return the Dice that a site's release adds, over all sites' validation cases.

        Args:
            regime: of the models without one release.
            name: the site whose release it is.
            general: the model on all releases.
            without: the model on all but this one.
        """
        models = ((GENERAL, POOL, await general), (regime, name, await without))
        dice = [
            await gather(*(site.call(SiteProgram.validate, *model) for site in self.sites.values()))
            for model in models
        ]
        return fmean(dice[0]) - fmean(dice[1])

    def _at_the_oracle(self, members: Mapping[str, str]) -> None:
        """Train the models that need the real data of all sites in one place."""
        if self.oracle is None or not self.real:
            return
        shared, real = _start(self.pool.make(PoolProgram.share, members)), sorted(self.real)
        for regime in trained_by("oracle", self.regimes):
            if members or not record_of(regime).synthetic_share:
                for name in real if record_of(regime).by_hospital else [None]:
                    whose = [regime, shared, real, name][: 3 + (name is not None)]
                    training = _with(self.oracle.make, OracleProgram.model, *whose)
                    self._score(regime, name or POOL, _start(training))


def _start(work: Awaitable[T]) -> asyncio.Future[T]:
    return asyncio.ensure_future(work)


async def _with(call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Call a party with others' results, once these exist."""
    ready = [await one if isinstance(one, asyncio.Future) else one for one in arguments]
    return await call(*ready)


def scores_of_chosen(scores: Iterable[Scored], chosen: Mapping[str, str]) -> list[Scored]:
    """Return the scores of each site's choice, under a name of its own."""
    return [
        replace(score, regime=CHOSEN)
        for score in scores
        if chosen.get(score.train_site) == score.regime
    ]


def describe(name: str, receipt: Receipt, cause: BaseException | None = None) -> str:
    """Describe a site's outcome, with the error in full, for this terminal alone."""
    if receipt.outcome == "released":
        flag = f"; inspect it: {receipt.flag}" if receipt.flag else ""
        return f"{name}: released {receipt.images} synthetic images{flag}"
    kind = "FAILED" if receipt.outcome == "failed" else receipt.outcome
    if isinstance(cause, StageError):
        return f"{name}: {kind}: {receipt.reason} (see {cause.log})"
    return f"{name}: {kind}: {receipt.reason if cause is None else cause}"
