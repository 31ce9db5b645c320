"""The rules of participation: whom a run may leave out, and injected faults. In no key."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from hyfree_ray.core.errors import HyfreeError

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class FaultInjection:
    """The faults injected into a site of a simulation."""

    drops: tuple[str, ...] = ()
    """Stages (or roles) at which it drops out."""
    slowness: float = 1.0
    """Factor by which its stages keep it busy for longer than they take."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules on which sites must be in, and until when."""

    min_sites: int | None = None
    """Releases without which the pool does not close; None: every site has to submit."""
    deadline_s: float | None = None
    """Time from the round's first start, not counting while nothing runs; None: no end."""
    next_round: bool = False
    """Open the next round, with the releases that came late."""
    withdraw: tuple[str, ...] = ()
    """Sites to be removed from the pool for good."""
    fault_injections: Mapping[str, FaultInjection] = field(default_factory=dict)

    @property
    def tolerant(self) -> bool:
        """Whether a site may fail without the run failing."""
        return self.min_sites is not None


def parse_rules(
    *,
    sites: Sequence[str],
    min_sites: int | None,
    deadline: str | None,
    next_round: bool,
    withdraw: Sequence[str],
    drop: Sequence[str],
    slow: Sequence[str],
) -> Rules:
    """Parse the command line's options into rules.

    Raises:
        HyfreeError: an unknown site, an invalid duration or factor, or options that need
            `--min-sites`.
    """
    fault_injections: dict[str, FaultInjection] = {}
    for text in drop:
        site, _, stage = text.partition("@")
        if not stage:
            raise HyfreeError(
                "option.malformed", f"--drop {text}: not SITE@STAGE, e.g. site-2@train_generator"
            )
        before = fault_injections.get(site, FaultInjection())
        fault_injections[site] = FaultInjection(
            drops=(*before.drops, stage), slowness=before.slowness
        )
    for text in slow:
        site, _, factor = text.partition("=")
        if not re.fullmatch(r"\d+(\.\d+)?x", factor):
            raise HyfreeError(
                "option.malformed", f"--slow {text}: not SITE=FACTORx, e.g. site-2=3x"
            )
        if float(factor[:-1]) < 1:
            raise HyfreeError(
                "option.out-of-range",
                f"--slow {text}: the factor must be 1 or more, e.g. site-2=3x",
            )
        drops = fault_injections.get(site, FaultInjection()).drops
        fault_injections[site] = FaultInjection(drops=drops, slowness=float(factor[:-1]))
    for option, names in (("--withdraw", withdraw), ("--drop or --slow", fault_injections)):
        unknown = [name for name in names if name not in sites]
        if unknown:
            raise HyfreeError(
                "option.unknown-site",
                f"{option} {unknown[0]}: no such site; there are: {', '.join(sites)}",
            )
    if min_sites is None and (deadline or drop):
        raise HyfreeError(
            "option.conflict",
            "--deadline and --drop: need --min-sites, the number of releases to continue with",
        )
    if min_sites is not None and min_sites > len(sites):
        raise HyfreeError(
            "option.out-of-range",
            f"--min-sites {min_sites}: too many; there are {len(sites)} sites",
        )
    return Rules(
        min_sites=min_sites,
        deadline_s=None if deadline is None else _seconds(deadline),
        next_round=next_round,
        withdraw=tuple(withdraw),
        fault_injections=fault_injections,
    )


def check_drops(rules: Rules, stages: Mapping[str, Collection[str]]) -> None:
    """Refuse a stage at which no site could drop out.

    Args:
        rules: the run's rules.
        stages: by site, the stages and roles that it has.

    Raises:
        HyfreeError: the site has none of that name; the message names the nearest, and all it has.
    """
    for site, fault_injection in rules.fault_injections.items():
        for stage in fault_injection.drops:
            if stage not in stages[site]:
                nearest = get_close_matches(stage, stages[site], n=1, cutoff=0.0)
                raise HyfreeError(
                    "option.unknown-stage",
                    f"--drop {site}@{stage}: the site has no such stage; did you mean "
                    f"{nearest[0]!r}? It has: {', '.join(stages[site])}",
                )


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None:
        raise HyfreeError(
            "option.malformed", f"--deadline {text}: not a number with s, m, h or d, e.g. 90m"
        )
    if not float(found[1]):
        raise HyfreeError(
            "option.out-of-range", f"--deadline {text}: too short for a round; use e.g. 90m"
        )
    return float(found[1]) * _SECONDS[found[2]]
