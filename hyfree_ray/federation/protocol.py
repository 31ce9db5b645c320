"""The method from above: the order of calls between parties, and what crosses between them.

Nothing runs here. A parcel goes from party to party without passing through here: a reference to it
is an argument of the next call. Errors do not travel: a party's failure fails this program, and the
calls that depended on it are never made.
"""

from __future__ import annotations

import asyncio
from asyncio import gather
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, TypeVar

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
from hyfree_ray.federation.attendance import Attendance, describe
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
        self.attendance = Attendance(parties, rules, report)
        self.pool = parties[POOL]
        self.oracle = parties.get(ORACLE)
        self.sites = self.attendance.sites
        self.receipts = self.attendance.receipts
        self.regimes = in_order({*protocol(), *settings})
        self.rules = rules
        self.contributors = frozenset(contributors or self.sites)
        self.report = report
        self.labels: Mapping[str, str] = {}
        """Keys of the labels of public images that the pool took in, by site."""
        self.controls: dict[str, asyncio.Future[Parcel | None]] = {}
        self.scoring: list[Awaitable[Scored]] = []
        self.choices: dict[str, Awaitable[str]] = {}
        self.agreement: Awaitable[Mapping[str, float]] | None = None
        self.effects: dict[str, Awaitable[float]] = {}

    async def through(self) -> Outcome:
        everybody = list(self.sites)
        await self.attendance.withdraw()
        await self.attendance.until_in(self._contribute)
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
        settled = self.attendance.settled
        scores = [found for found in await settled(self.scoring) if found is not None]
        choices = await settled(self.choices.values())
        chosen = {n: c for n, c in zip(self.choices, choices, strict=True) if c is not None}
        scores += scores_of_chosen(scores, chosen)
        if self.agreement is not None:
            for name, dice in (await self.agreement).items():
                self.receipts[name] = replace(self.receipts[name], label_agreement=dice)
        effects = await settled(self.effects.values())
        for name, effect in zip(self.effects, effects, strict=True):
            self.receipts[name] = replace(self.receipts[name], effect=effect)
        return Outcome(
            sites={name: self.receipts[name] for name in everybody},
            scores=tuple(sorted(scores, key=lambda s: (s.regime, s.train_site, s.test_site))),
            general=bool(closed.releases),
            chosen=chosen,
            round=closed.number,
        )

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
        taken = await self.attendance.settled([_start(self._label_public(name)) for name in names])
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
        if self.oracle is None or not self.attendance.real:
            return
        shared, real = (
            _start(self.pool.make(PoolProgram.share, members)),
            sorted(self.attendance.real),
        )
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
