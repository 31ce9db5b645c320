"""The method from above: who calls whom, and what crosses between them. Nothing runs here.

A `Handle` is a party somewhere: in this process, or a Ray actor. A call gives a promise of its
result, and a promise may be an argument of another call: parcels go from party to party without
passing through here.
"""

from __future__ import annotations

from asyncio import gather
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hyfree_ray.scores import POOL


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


async def simulate(
    sites: Mapping[str, Handle],
    pool: Handle,
    *,
    told: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run the method on all sites. No site waits for another before the pool closes.

    Args:
        sites: the hospitals by name.
        pool: the centre.
        told: hears one line a turning point.
    """

    controls: dict[str, Awaitable[Any]] = {}
    assessments: list[Awaitable[Any]] = []

    async def contribute(name: str) -> Mapping[str, Any]:
        await pool.call("trust", name, sites[name].call("public_key"))
        outcome: Mapping[str, Any] = await pool.call("take", name, sites[name].call("hand_in"))
        told(_in_words(name, outcome))
        # While others finish and the pool trains, the site trains its control.
        controls[name] = sites[name].call("model", "local2x")
        assessments.append(sites[name].call("assess"))
        return outcome

    async def score(regime: str, train_site: str, model: Awaitable[Any]) -> list[Any]:
        calls = (site.call("score", regime, train_site, model) for site in sites.values())
        return list(await gather(*calls))

    outcomes = await gather(*(contribute(name) for name in sites))
    members = await pool.call("close", list(sites))
    scoring = []
    if members is None:
        told("fewer than two releases: there is no general model and nothing to fine-tune")
    else:
        told(f"pool closed with {len(members)} releases: {', '.join(sorted(members))}")
        general = pool.call("general", members)
        scoring.append(score("general", POOL, general))
        for name, site in sites.items():
            scoring.append(score("finetuned", name, site.call("model", "finetuned", general)))
    for name, site in sites.items():
        scoring.append(score("local", name, site.call("model", "local")))
        scoring.append(score("local2x", name, controls[name]))
    scores = [found for group in await gather(*scoring) for found in group]
    await gather(*assessments)
    return Outcome(
        sites=dict(zip(sites, outcomes, strict=True)),
        scores=tuple(sorted(scores, key=_order)),
        general=members is not None,
    )


def _order(score: Mapping[str, Any]) -> tuple[str, str, str]:
    return (score["regime"], score["train_site"], score["test_site"])


def _in_words(name: str, outcome: Mapping[str, Any]) -> str:
    if outcome["outcome"] == "released":
        return f"{name}: released {outcome['images']} synthetic images"
    return f"{name}: {outcome['outcome']}: {outcome['reason']}"
