"""The method from above: who calls whom, and what crosses between them. Nothing runs here.

A `Handle` is a party somewhere: in this process, or a Ray actor. A call gives a promise of its
result, and a promise may be an argument of another call: parcels go from party to party without
passing through here.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hyfree_ray.regimes import MIXES, ORACLE_SETTINGS
from hyfree_ray.scores import ORACLE, POOL


class Handle(Protocol):
    """A party, wherever it is."""

    def call(self, method: str, *arguments: Any) -> Awaitable[Any]:
        """Start a method of the party; the promise of its result."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that is known after a run."""

    sites: Mapping[str, Mapping[str, Any]]
    """What became of each site's release: outcome, reason, rejection_rate, images."""
    scores: tuple[Mapping[str, Any], ...]
    """test_site, regime, train_site, rows; sorted."""
    general: bool
    """Whether there is a general model."""
    chosen: Mapping[str, str]
    """By site, the regime it would keep by its validation cases; empty where it was not asked."""


async def simulate(
    parties: Mapping[str, Handle],
    *,
    settings: Collection[str] = (),
    told: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run the method on all sites. No site waits for another before the pool closes.

    Args:
        parties: the hospitals by name, the pool, and the oracle where a setting needs it.
        settings: what is trained beside the paper's protocol.
        told: hears one line a turning point.
    """
    return await _Run(parties, settings, told).through()


class _Run:
    """One run: promises of models are scored at all sites as soon as they are kept."""

    def __init__(
        self,
        parties: Mapping[str, Handle],
        settings: Collection[str],
        told: Callable[[str], None],
    ) -> None:
        self.pool = parties[POOL]
        self.oracle = parties.get(ORACLE)
        self.sites = {name: p for name, p in parties.items() if name not in {POOL, ORACLE}}
        self.settings = settings
        self.told = told
        self.controls: dict[str, Awaitable[Any]] = {}
        self.assessments: list[Awaitable[Any]] = []
        self.scoring: list[Awaitable[Any]] = []
        self.choices: dict[str, Awaitable[str]] = {}

    async def through(self) -> Outcome:
        outcomes = await gather(*(self._contribute(name) for name in self.sites))
        members = await self.pool.call("close", list(self.sites))
        if members is None:
            self.told("fewer than two releases: no general model and nothing to fine-tune")
        else:
            self.told(f"pool closed with {len(members)} releases: {', '.join(sorted(members))}")
            self._share(members)
        for name, site in self.sites.items():
            self._score("local", name, site.call("model", "local"))
            self._score("local2x", name, self.controls[name])
        self._compare(members or {})
        scores = list(await gather(*self.scoring))
        chosen = dict(zip(self.choices, await gather(*self.choices.values()), strict=True))
        scores += _scores_of_chosen(scores, chosen)
        await gather(*self.assessments)
        return Outcome(
            sites=dict(zip(self.sites, outcomes, strict=True)),
            scores=tuple(sorted(scores, key=_order)),
            general=members is not None,
            chosen=chosen,
        )

    async def _contribute(self, name: str) -> Mapping[str, Any]:
        site = self.sites[name]
        await self.pool.call("trust", name, site.call("public_key"))
        outcome: Mapping[str, Any] = await self.pool.call("take", name, site.call("hand_in"))
        self.told(_in_words(name, outcome))
        # While others finish and the pool trains, the site trains its control.
        self.controls[name] = site.call("model", "local2x")
        self.assessments.append(site.call("assess"))
        return outcome

    def _score(
        self, regime: str, train_site: str, model: Awaitable[Any], at: Iterable[str] = ()
    ) -> None:
        """Have a model scored at the named sites, or at all."""
        for name in at or self.sites:
            self.scoring.append(self.sites[name].call("score", regime, train_site, model))

    def _share(self, members: Mapping[str, str]) -> None:
        """The general model, and what sites make of it."""
        general = self.pool.call("general", members)
        self._score("general", POOL, general)
        for name, site in self.sites.items():
            self._score("finetuned", name, site.call("model", "finetuned", general))
        if "personalised" in self.settings:
            shared = self.pool.call("share", members)
            for name, site in self.sites.items():
                model = site.call("model", "personalised", general, shared)
                self._score("personalised", name, model)
                self.choices[name] = site.call("choose", general, shared)

    def _compare(self, members: Mapping[str, str]) -> None:
        """The settings that answer: compared with what?"""
        for name in sorted(members):
            if "syn" in self.settings:
                alone = {name: members[name]}
                self._score("syn", name, self.pool.call("general", alone))
            if "own-syn" in self.settings:
                self._score("own-syn", name, self.sites[name].call("model", "own-syn"))
            others = {other: key for other, key in members.items() if other != name}
            if "leave-one-out" in self.settings and len(others) > 1:
                model = self.pool.call("general", others)
                self._score("leave-one-out", name, model, at=[name])
        if self.oracle is None:
            return
        shared = self.pool.call("share", members)
        for regime in ORACLE_SETTINGS:
            if regime in self.settings and (members or not MIXES.get(regime)):
                self._score(regime, POOL, self.oracle.call("model", regime, shared))


def _scores_of_chosen(
    scores: Iterable[Mapping[str, Any]], chosen: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """What each site's choice scored, under a name of its own."""
    return [
        {**score, "regime": "chosen"}
        for score in scores
        if chosen.get(score["train_site"]) == score["regime"]
    ]


def _order(score: Mapping[str, Any]) -> tuple[str, str, str]:
    return (score["regime"], score["train_site"], score["test_site"])


def _in_words(name: str, outcome: Mapping[str, Any]) -> str:
    if outcome["outcome"] == "released":
        return f"{name}: released {outcome['images']} synthetic images"
    return f"{name}: {outcome['outcome']}: {outcome['reason']}"
