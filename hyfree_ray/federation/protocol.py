"""The method from above: who calls whom, and what crosses between them. Nothing runs here.

A `Handle` is a party somewhere: in this process, or a Ray actor. A call gives a promise of its
result, and a promise may be an argument of another call: parcels go from party to party without
passing through here. Errors do not: what breaks at a party breaks this program, and what others
were to be called with then never reaches them.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import gather
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

from hyfree_ray.core.errors import HyfreeError, StageError
from hyfree_ray.core.parties import ORACLE, POOL
from hyfree_ray.evaluation.regimes import CHOSEN, REGIMES, trained_by
from hyfree_ray.federation.participation import Rules

TICK_S = 5.0
"""How often the time that a round has waited is written down."""


class Handle(Protocol):
    """A party, wherever it is."""

    def call(self, method: str, *arguments: Any) -> Awaitable[Any]:
        """Start a method of the party; the promise of its result."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that is known after a run."""

    sites: Mapping[str, Mapping[str, Any]]
    """What became of each site: outcome, reason, rejection_rate, images, flag, and label_agreement
    where the experiment asks for it."""
    scores: tuple[Mapping[str, Any], ...]
    """test_site, regime, train_site, rows; sorted."""
    general: bool
    """Whether there is a general model."""
    chosen: Mapping[str, str]
    """By site, the regime it would keep by its validation cases; empty where it was not asked."""
    round: int = 1
    """The pool's round that the general model is of."""


async def simulate(
    parties: Mapping[str, Handle],
    *,
    settings: Collection[str] = (),
    rules: Rules | None = None,
    contributors: Collection[str] = (),
    told: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run the method on all sites. No site waits for another before the pool closes.

    Args:
        parties: the hospitals by name, the pool, and the oracle where a setting needs it.
        settings: what is trained beside the paper's protocol.
        rules: who may be missing; None: nobody.
        contributors: sites whose releases are pooled; empty: all. The others fine-tune too.
        told: hears one line a turning point.

    Raises:
        HyfreeError: fewer releases are in than the rules want.
    """
    return await _Run(parties, settings, rules or Rules(), contributors, told).through()


class _Made:
    """What a party makes for others, as soon as it can be made.

    Others are called with it, or not at all: as an argument its error would go from party to party.

    Args:
        party: who makes it.
        method: by which method.
        arguments: of it; others' makings among them are waited for.
    """

    def __init__(self, party: Handle, method: str, *arguments: Any) -> None:
        self._making = asyncio.ensure_future(self._make(party, method, arguments))

    async def promise(self) -> Awaitable[Any]:
        """The promise of it, kept already.

        Raises:
            Exception: what broke at its party, in full, for whoever runs the parties.
        """
        return await self._making

    async def _make(self, party: Handle, method: str, arguments: Sequence[Any]) -> Awaitable[Any]:
        given, made = await _kept(arguments), uuid4().hex
        await party.call("ready", made, method, *given)
        return party.call("hand_out", made, method, *given)


async def _kept(arguments: Iterable[Any]) -> list[Any]:
    """Arguments as a party takes them: promises in the place of what others make."""
    return [await one.promise() if isinstance(one, _Made) else one for one in arguments]


def _call(party: Handle, method: str, *arguments: Any) -> asyncio.Task[Any]:
    """Call a party with what others make, once they have made it."""

    async def called() -> Any:
        return await party.call(method, *await _kept(arguments))

    return asyncio.ensure_future(called())


class _Run:
    """One run: promises of models are scored at all sites as soon as they are kept."""

    def __init__(
        self,
        parties: Mapping[str, Handle],
        settings: Collection[str],
        rules: Rules,
        contributors: Collection[str],
        told: Callable[[str], None],
    ) -> None:
        self.pool = parties[POOL]
        self.oracle = parties.get(ORACLE)
        self.sites = {name: p for name, p in parties.items() if name not in {POOL, ORACLE}}
        self.real = set(self.sites)
        """Whose real data the oracle may read."""
        self.settings = settings
        self.rules = rules
        self.contributors = frozenset(contributors or self.sites)
        self.told = told
        self.outcomes: dict[str, Mapping[str, Any]] = {}
        self.controls: dict[str, _Made] = {}
        self.assessments: list[Awaitable[Any]] = []
        self.scoring: list[Awaitable[Any]] = []
        self.choices: dict[str, Awaitable[str]] = {}
        self.agreement: Awaitable[Mapping[str, float]] | None = None

    async def through(self) -> Outcome:
        everybody = list(self.sites)
        await self._withdraw()
        await self._until_in()
        pooled = [name for name in self.sites if name in self.contributors]
        closed = await self.pool.call("close", pooled, self.rules, self._left_out())
        members = closed["releases"]
        if not members:
            self.told("fewer than two releases: no general model and nothing to fine-tune")
        else:
            self.told(f"pool closed with {len(members)} releases: {', '.join(sorted(members))}")
            self._share(members)
        for name, site in self.sites.items():
            self._score("local", name, _Made(site, "model", "local"))
            self._score("local2x", name, self.controls[name])
        self._compare(members)
        scores = [found for found in await self._settled(self.scoring) if found is not None]
        choices = await self._settled(self.choices.values())
        chosen = {n: c for n, c in zip(self.choices, choices, strict=True) if c is not None}
        scores += scores_of_chosen(scores, chosen)
        if self.agreement is not None:
            for name, dice in (await self.agreement).items():
                self.outcomes[name] = {**self.outcomes[name], "label_agreement": dice}
        await self._settled(self.assessments)
        return Outcome(
            sites={name: self.outcomes[name] for name in everybody},
            scores=tuple(sorted(scores, key=_order)),
            general=bool(members),
            chosen=chosen,
            round=closed["round"],
        )

    # --- who takes part ----------------------------------------------------------------------

    async def _withdraw(self) -> None:
        """Leave out who has withdrawn, now or before, and name the models that knew them."""
        for name in await self.pool.call("withdraw", list(self.rules.withdraw)):
            if name not in self.sites:
                continue
            self.outcomes[name] = _without_release("withdrawn", "the site has withdrawn")
            self.told(_in_words(name, self.outcomes[name]))
            del self.sites[name]
            self.real.discard(name)
            touched = await self.pool.call("touched_by", name)
            for other, site in self.sites.items():
                for model in await site.call("touched", touched):
                    self.told(f"{name} had a part in {other}'s {model}")
            for key in touched:
                self.told(f"{name} had a part in the general model {key[:8]}")
            if self.oracle is not None:
                for model in await self.oracle.call("touched_by", name, touched):
                    self.told(f"{name} had a part in the comparison {model}")

    async def _until_in(self) -> None:
        """Wait for the releases: of all sites, or of those that are in at the deadline.

        Who was left out of a round that is closed is not waited for again.
        """
        if not self.rules.next_round:
            for name, outcome in (await self.pool.call("left_out")).items():
                if self.sites.pop(name, None) is not None:
                    self.outcomes[name] = outcome
                    self.told(f"{_in_words(name, outcome)}; --next-round takes it in")
        tasks = {asyncio.ensure_future(self._contribute(name)): name for name in tuple(self.sites)}
        waited = await self._waited(0.0)
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
                self._came_in(tasks.pop(task), task)
            if left is not None:
                waited = await self._waited(time.monotonic() - begun)
        for task, name in tasks.items():
            task.cancel()
            self._leave_out(name, "late", "its release was not in at the deadline")

    async def _waited(self, seconds: float) -> float:
        if self.rules.deadline_s is None:
            return 0.0
        return float(await self.pool.call("waited", seconds, self.rules.next_round))

    def _came_in(self, name: str, task: asyncio.Task[Mapping[str, Any]]) -> None:
        """Note what a site handed in; one that broke is left out, where the rules allow it."""
        try:
            self.outcomes[name] = task.result()
        except Exception as error:
            cause = _cause_of(error)
            if not self.rules.tolerant or not isinstance(cause, (HyfreeError, StageError)):
                raise
            self._leave_out(name, "failed", _reason_of(cause), in_full=cause)

    def _leave_out(
        self, name: str, outcome: str, reason: str, in_full: BaseException | None = None
    ) -> None:
        self.sites.pop(name, None)
        self.outcomes[name] = _without_release(outcome, reason)
        self.told(_in_words(name, self.outcomes[name], in_full))

    def _left_out(self) -> dict[str, Mapping[str, Any]]:
        late = {"failed", "late"}
        return {name: o for name, o in self.outcomes.items() if o["outcome"] in late}

    async def _settled(self, promises: Iterable[Awaitable[Any]]) -> list[Any]:
        """What was promised; None in the place of what a site broke, where the rules allow it."""
        if not self.rules.tolerant:
            return list(await gather(*promises))
        settled = []
        for found in await gather(*promises, return_exceptions=True):
            cause = _cause_of(found) if isinstance(found, BaseException) else None
            if isinstance(cause, StageError) and cause.owner in self.sites:
                if self.outcomes[cause.owner]["outcome"] != "failed":
                    reason = _reason_of(cause)
                    told = {**self.outcomes[cause.owner], "outcome": "failed", "reason": reason}
                    self.outcomes[cause.owner] = told
                    self.told(_in_words(cause.owner, told, cause))
            elif cause is not None:
                raise cause
            settled.append(None if cause is not None else found)
        return settled

    # --- what is trained ---------------------------------------------------------------------

    async def _contribute(self, name: str) -> Mapping[str, Any]:
        site = self.sites[name]
        handed_in = await _Made(site, "hand_in").promise()
        await _call(self.pool, "trust", name, _Made(site, "public_key"))
        outcome: Mapping[str, Any] = await self.pool.call("take", name, handed_in)
        self.told(_in_words(name, outcome))
        # While others finish and the pool trains, the site trains its control.
        self.controls[name] = _Made(site, "model", "local2x")
        self.assessments.append(site.call("assess"))
        return outcome

    def _score(self, regime: str, train_site: str, model: _Made, at: Iterable[str] = ()) -> None:
        """Have a model scored at the named sites, or at all."""
        for name in at or self.sites:
            self.scoring.append(_call(self.sites[name], "score", regime, train_site, model))

    def _share(self, members: Mapping[str, str]) -> None:
        """The general model, and what sites make of it."""
        general = _Made(self.pool, "general", members)
        self._score("general", POOL, general)
        for name, site in self.sites.items():
            self._score("finetuned", name, _Made(site, "model", "finetuned", general))
        if "personalised" in self.settings:
            self.agreement = self.pool.call("agreement", members)
            shared = _Made(self.pool, "share_for_replay", members)
            for name, site in self.sites.items():
                model = _Made(site, "model", "personalised", general, shared)
                self._score("personalised", name, model)
                self.choices[name] = _call(site, "choose", general, shared)

    def _compare(self, members: Mapping[str, str]) -> None:
        """The settings that answer: compared with what?"""
        for name in sorted(members):
            if "syn" in self.settings:
                alone = {name: members[name]}
                self._score("syn", name, _Made(self.pool, "general", alone))
            if "own-syn" in self.settings:
                self._score("own-syn", name, _Made(self.sites[name], "model", "own-syn"))
            others = {other: key for other, key in members.items() if other != name}
            if "leave-one-out" in self.settings and others:
                model = _Made(self.pool, "general", others)
                self._score("leave-one-out", name, model, at=[name])
        if self.oracle is None or not self.real:
            return
        shared, real = _Made(self.pool, "share", members), sorted(self.real)
        for regime in trained_by("oracle"):
            if regime in self.settings and (members or REGIMES[regime].releases == "none"):
                model = _Made(self.oracle, "model", regime, shared, real)
                self._score(regime, POOL, model)


def scores_of_chosen(
    scores: Iterable[Mapping[str, Any]], chosen: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """What each site's choice scored, under a name of its own."""
    return [
        {**score, "regime": CHOSEN}
        for score in scores
        if chosen.get(score["train_site"]) == score["regime"]
    ]


def _order(score: Mapping[str, Any]) -> tuple[str, str, str]:
    return (score["regime"], score["train_site"], score["test_site"])


def _without_release(outcome: str, reason: str) -> dict[str, Any]:
    return {"outcome": outcome, "reason": reason, "rejection_rate": None, "images": 0}


def _cause_of(error: BaseException) -> BaseException:
    """What went wrong at a party: Ray's wrapping carries it as its `cause`."""
    cause = getattr(error, "cause", None)
    return _cause_of(cause) if isinstance(cause, BaseException) else error


def _reason_of(error: BaseException) -> str:
    """What others are told, the pool and the run's summary: the stage and the kind of error.

    An error's own text may name a file, and with it a patient: it is for this terminal alone.
    """
    if isinstance(error, StageError):
        return f"{error.stage}: {error.reason}"
    return f"{type(error).__name__}; what it says stays at the site"


def _in_words(name: str, outcome: Mapping[str, Any], in_full: BaseException | None = None) -> str:
    if outcome["outcome"] == "released":
        flag = f"; look at it: {outcome['flag']}" if outcome.get("flag") else ""
        return f"{name}: released {outcome['images']} synthetic images{flag}"
    kind = "FAILED" if outcome["outcome"] == "failed" else outcome["outcome"]
    if isinstance(in_full, StageError):
        return f"{name}: {kind}: {outcome['reason']} (see {in_full.log})"
    return f"{name}: {kind}: {outcome['reason'] if in_full is None else in_full}"
