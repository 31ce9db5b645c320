"""Settings that were asked for and are not there, or not as they were asked for: in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hyfree_ray.evaluation.regimes import REGIMES
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.interface import Receipt
from hyfree_ray.federation.protocol import Outcome


def find_missing_comparisons(
    sites: Mapping[str, Site],
    settings: Collection[str],
    contributors: Collection[str],
    outcome: Outcome,
    records: Iterable[Mapping[str, Any]],
) -> tuple[str, ...]:
    """Return a line for each thing that a reader of the table would miss.

    Args:
        sites: all of the run.
        settings: what was asked for beside the protocol.
        contributors: sites whose releases were to be pooled; empty: all.
        outcome: what became of them.
        records: of finished stages.
    """
    records = list(records)
    wanted = [regime for name, regime in REGIMES.items() if name in settings]
    asked = [regime.name for regime in wanted if regime.of_one_release]
    if not outcome.general:
        more = [regime.name for regime in wanted if regime.synthetic_share]
        return (f"no {', '.join([*asked, *more])}: too few releases",) if asked or more else ()
    own = [name for name in asked if REGIMES[name].trained_by == "site"]
    found = []
    for name, receipt in outcome.sites.items():
        if asked and (reason := _not_pooled(name, receipt, contributors)):
            found.append(f"{name}: no {', '.join(asked)}: {reason}")
        elif unmade := [regime for regime in own if not _scored(outcome, regime, name)]:
            found.append(f"{name}: no {', '.join(unmade)}: {_why_withheld(name, records)}")
    released = sum(receipt.images for receipt in outcome.sites.values())
    mixtures = [record for record in records if record["stage"] == "prepare_mixture"]
    lines = (_short_of(record, sites, released) for record in mixtures)
    return (*found, *sorted(line for line in lines if line))


def _not_pooled(name: str, receipt: Receipt, contributors: Collection[str]) -> str:
    if not receipt.images:
        return "it has no release"
    return "its release is not pooled" if contributors and name not in contributors else ""


def _scored(outcome: Outcome, regime: str, site: str) -> bool:
    return any(
        score.rows for score in outcome.scores if (score.regime, score.train_site) == (regime, site)
    )


def _why_withheld(site: str, records: Iterable[Mapping[str, Any]]) -> str:
    """Why twice the release did not come about: its own release did."""
    reasons = (
        record["result"].get("reason")
        for record in records
        if (record["owner"], record["stage"]) == (site, "release")
        and record["result"]["outcome"] != "released"
    )
    reason = next(filter(None, reasons), None)
    return f"its release of twice the images was withheld{f' ({reason})' if reason else ''}"


def _short_of(record: Mapping[str, Any], sites: Mapping[str, Site], released: int) -> str:
    """Whether a mixture is smaller than the real images, since the sites released too few."""
    share, taken = record["params"]["synthetic_share"], record["result"]["synthetic"]
    size = record["result"]["training_images"]
    name = next(name for name, regime in REGIMES.items() if regime.synthetic_share == share)
    if not any("slices" in case for site in sites.values() for case in site.cases):
        real = sum(site.training_images for site in sites.values())
    elif share < 1:
        real = round((size - taken) / (1 - share))  # slices of volumes; what is real is all there
    elif taken == released:
        return f"{name}: all {taken:,} released images; there may be more real ones"
    else:
        return ""
    wanted = round(share * real)
    if taken >= wanted - 1:
        return ""
    return (
        f"{name}: {size:,} training images instead of {real:,}: the sites released "
        f"{taken:,} synthetic ones, not {wanted:,}"
    )
