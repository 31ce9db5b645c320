"""What sharing would mean to each site, in one line: what every other table is the evidence for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyfree_ray.border.privacy_card import format_risk, read_card
from hyfree_ray.evaluation.regimes import CHOSEN, CONTROL, primary
from hyfree_ray.results.contrasts import Contrast
from hyfree_ray.results.summary import SiteOutcome

_IN_THE_ROUND = {"released", "withheld", "refused"}
"""Outcomes of sites that get the general model, whether or not they shared something."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One site's, from one run or several that differ in fold and seed."""

    site: str
    shares: str
    """How many images, or why there are none."""
    keeps: str
    """The regime whose model it would keep by its validation cases, without a choice the adopted
    one; of several runs how often each. "-": none."""
    own: Contrast | None
    """That model against the control on the site's own test cases; None: not compared."""
    foreign: Contrast | None
    """The same on the other sites' test cases."""
    attack: str
    """The strongest membership attack on what it shares, beside what chance finds."""


def answers(
    outcomes: Iterable[SiteOutcome], contrasts: Sequence[Contrast]
) -> tuple[str, tuple[Answer, ...]]:
    """Return the regime that is spoken of, and a line a site, in the order of the outcomes.

    Args:
        outcomes: one a site and run.
        contrasts: over all of these runs.
    """
    by_site: dict[str, list[SiteOutcome]] = {}
    for outcome in outcomes:
        by_site.setdefault(outcome.site, []).append(outcome)
    compared = {one.first for one in contrasts if one.second == CONTROL}
    adopted = CHOSEN if CHOSEN in compared else primary()
    found = {
        (one.site, one.tested): one
        for one in contrasts
        if (one.first, one.second) == (adopted, CONTROL) and one.difference is not None
    }
    made = {site for site, tested in found if tested == "own" and adopted != CHOSEN}
    return adopted, tuple(
        Answer(
            site=site,
            shares=_each(_shares(outcome) for outcome in of_site),
            keeps=_each(_keeps(outcome, adopted if site in made else "-") for outcome in of_site),
            own=found.get((site, "own")),
            foreign=found.get((site, "foreign")),
            attack=_each(outcome.attack or "-" for outcome in of_site),
        )
        for site, of_site in by_site.items()
    )


def _keeps(outcome: SiteOutcome, unchosen: str) -> str:
    """Return its choice, or what it has without one: nothing, where it was not in the round."""
    return outcome.chosen or (unchosen if outcome.outcome in _IN_THE_ROUND else "-")


def _shares(outcome: SiteOutcome) -> str:
    return f"{outcome.images} images" if outcome.outcome == "released" else outcome.outcome


def _each(words: Iterable[str]) -> str:
    """Return what there is of one run, or how often each word is of several."""
    times = Counter(words).most_common()
    if len(times) == 1:
        return times[0][0]
    return ", ".join(word if number == 1 else f"{word} ({number}x)" for word, number in times)


def format_attack(audited: Mapping[str, Any] | None) -> str:
    """Return what a site's audit says of its release's risk; empty where none was made."""
    if audited is None or audited.get("card") is None:
        return ""
    return format_risk(read_card(audited["card"]))
