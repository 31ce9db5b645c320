"""What a hospital is told: one sentence, from a rule whose errors were counted.

The rule (`advise`) asks of the model that is shared and should travel best (`shared_model`), minus
the hospital's own training for as many steps (the control), both stated before any score is seen:

1. *share and take part*: it gained at home or elsewhere, by an interval that holds together with
   those of all hospitals of the run; at home it loses over `MARGIN` with a probability of 5 % at
   most; and no attack was seen to tell whose images were trained on.
2. *take part, keep your own model at home*: it gained elsewhere, and the rest of 1 is not shown.
3. *not worth it on this evidence*: both a gain over `MARGIN` at home and one elsewhere have a
   probability of 5 % at most; or it gained at home alone and an attack succeeds.
4. *not enough patients to say*: else.

`benchmarks/coverage.py` counts how often each is said where nothing is gained, and at gains of .05.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hyfree_ray.evaluation.choice import MARGIN
from hyfree_ray.evaluation.regimes import CONTROL
from hyfree_ray.results.contrasts import Contrast, Estimate, Tested
from hyfree_ray.results.planning import patients_to_show

Advice = Literal[
    "share and take part",
    "take part, keep your own model at home",
    "not worth it on this evidence",
    "not enough patients to say",
    "no verdict",
]

MAY_BE_WRONG = 0.05
"""Probability up to which a loss, or a gain, over `MARGIN` counts as excluded."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the rule of `advise` asks, of one hospital."""

    home: Contrast | None
    elsewhere: Contrast | None
    """Of the shared model minus the control; None: not compared."""
    loss_at_home: float | None
    """Probability that the shared model loses over `MARGIN` at home; None: cannot be told."""
    gain_at_home: float | None
    gain_elsewhere: float | None
    """Probabilities that it gains over `MARGIN`."""
    at_risk: bool = False
    """An attack was seen to tell whose images were trained on, or nothing may be released."""

    @property
    def gained_at_home(self) -> bool:
        """Whether a gain at home was shown."""
        return self.home is not None and self.home.verdict == "helped"

    @property
    def gained_elsewhere(self) -> bool:
        """Whether a gain on the other hospitals' patients was shown."""
        return self.elsewhere is not None and self.elsewhere.verdict == "helped"


def advise(evidence: Evidence) -> tuple[Advice, float | None]:
    """Return what a hospital is told, and the probability that it is false (None: nothing is)."""

    def excluded(probability: float | None) -> bool:
        return probability is not None and probability <= MAY_BE_WRONG

    gains = [
        one.false or 0.0
        for one, shown in (
            (evidence.home, evidence.gained_at_home),
            (evidence.elsewhere, evidence.gained_elsewhere),
        )
        if one is not None and shown
    ]
    if gains and excluded(evidence.loss_at_home) and not evidence.at_risk:
        return "share and take part", min(1.0, min(gains) + (evidence.loss_at_home or 0.0))
    if evidence.gained_elsewhere and evidence.elsewhere is not None:
        return "take part, keep your own model at home", evidence.elsewhere.false
    if excluded(evidence.gain_at_home) and excluded(evidence.gain_elsewhere):
        both = (evidence.gain_at_home or 0.0) + (evidence.gain_elsewhere or 0.0)
        return "not worth it on this evidence", min(1.0, both)
    if evidence.gained_at_home and evidence.at_risk:
        return "not worth it on this evidence", None
    return "not enough patients to say", None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one hospital is told, from one run or several that differ in fold and seed."""

    site: str
    advice: Advice
    sentence: str
    """All of it, for people."""
    model: str
    """The regime of the shared model that it is about; empty: there is none."""
    false: float | None
    """Probability that the advice is false; None where nothing is said."""
    home: Contrast | None
    elsewhere: Contrast | None
    """Its gain over the control; None: not compared."""
    loss_at_home: float | None
    """Probability that it loses over `MARGIN` at home."""
    shares: str
    """How many images, or why there are none."""
    keeps: str
    """The regime that the site would keep by its validation cases; "-": it was not asked."""
    attack: str
    """The strongest membership attack on what it shares; "-": none was made."""
    device_hours: float | None
    """That the hospital's own devices were busy for it; None: not known."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a run says of a hospital beside its scores."""

    site: str
    shares: str
    keeps: str
    attack: str
    at_risk: bool
    device_hours: float | None


def verdicts(
    parts: Iterable[Part],
    estimates: Sequence[Estimate],
    contrasts: Sequence[Contrast],
    model: str,
    *,
    warning: str = "",
) -> tuple[Verdict, ...]:
    """Return what each hospital is told, in the order in which they come.

    Args:
        parts: one a hospital and run.
        estimates: of all contrasts, in their order.
        contrasts: the same, read together.
        model: the regime of the shared model.
        warning: why no number means anything; empty where they do.
    """
    by_site: dict[str, list[Part]] = {}
    for part in parts:
        by_site.setdefault(part.site, []).append(part)
    found = {
        (one.site, one.tested): (one, estimate)
        for one, estimate in zip(contrasts, estimates, strict=True)
        if (one.first, one.second) == (model, CONTROL) and one.difference is not None
    }
    return tuple(_verdict(site, of, found, model, warning) for site, of in by_site.items())


def _verdict(
    site: str,
    parts: Sequence[Part],
    found: Mapping[tuple[str | None, Tested], tuple[Contrast, Estimate]],
    model: str,
    warning: str,
) -> Verdict:
    home, at_home = found.get((site, "own"), (None, None))
    elsewhere, away = found.get((site, "foreign"), (None, None))
    evidence = Evidence(
        home=home,
        elsewhere=elsewhere,
        loss_at_home=_below(at_home, -MARGIN),
        gain_at_home=_above(at_home, MARGIN),
        gain_elsewhere=_above(away, MARGIN),
        at_risk=any(part.at_risk for part in parts),
    )
    advice, false = advise(evidence)
    if warning:
        advice, false = "no verdict", None
    hours = [part.device_hours for part in parts if part.device_hours is not None]
    verdict = Verdict(
        site=site,
        advice=advice,
        sentence="",
        model=model if home or elsewhere else "",
        false=false,
        home=home,
        elsewhere=elsewhere,
        loss_at_home=evidence.loss_at_home,
        shares=_each(part.shares for part in parts),
        keeps=_each(part.keeps for part in parts),
        attack=_each(part.attack for part in parts),
        device_hours=sum(hours) / len(hours) if hours else None,
    )
    planned = _planned(verdict, away) if advice == "not enough patients to say" else ""
    return _with_sentence(verdict, warning or planned)


def _with_sentence(verdict: Verdict, further: str) -> Verdict:
    values = vars(verdict) | {"sentence": _sentence(verdict, further)}
    return Verdict(**values)


def _sentence(verdict: Verdict, further: str) -> str:
    """Write the advice with all that it stands on."""
    one = verdict
    said = f"{one.site}: {one.advice}"
    said += "" if one.false is None else f" (probability that this is false: {percent(one.false)})"
    if not one.model:
        return f"{said}; no shared model was compared with its own"
    gains = [
        f"{where} {contrast.words}"
        for where, contrast in (("at home", one.home), ("elsewhere", one.elsewhere))
        if contrast is not None
    ]
    parts = [f"with {one.model} instead of {CONTROL}: {', '.join(gains)}"]
    if one.home is not None and one.home.describe_losses():
        parts.append(f"at home {one.home.describe_losses()}")
    if one.loss_at_home is not None:
        limit = f"{MARGIN:.2f}".removeprefix("0")
        parts.append(f"probability of losing over {limit} there: {percent(one.loss_at_home)}")
    parts.append(f"shares {one.shares}; risk: {one.attack}")
    if one.device_hours is not None:
        parts.append(f"cost: {one.device_hours:.2g} device hours")
    return "; ".join([said, *parts, *filter(None, [further])])


def _planned(verdict: Verdict, away: Estimate | None) -> str:
    """Return how many patients would do, as a range from what is said with it."""
    if away is None or away.noise is None or verdict.elsewhere is None:
        return ""
    found = patients_to_show(away.noise, verdict.elsewhere.patients, verdict.elsewhere.share)
    return "" if found is None else found.describe()


def percent(probability: float) -> str:
    """Write a probability: 3 %, under 1 %."""
    if probability < 0.01:
        return "under 1 %"
    return "over 99 %" if probability > 0.99 else f"{math.ceil(round(100 * probability, 6))} %"


def _below(estimate: Estimate | None, bound: float) -> float | None:
    return None if estimate is None else estimate.probability_below(bound)


def _above(estimate: Estimate | None, bound: float) -> float | None:
    below = _below(estimate, bound)
    return None if below is None else 1.0 - below


def _each(words: Iterable[str]) -> str:
    """Return what there is of one run, or how often each word is of several."""
    times = Counter(words).most_common()
    if len(times) == 1:
        return times[0][0]
    return ", ".join(word if number == 1 else f"{word} ({number}x)" for word, number in times)
