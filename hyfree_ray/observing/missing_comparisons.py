"""Settings that were asked for and are not there, or not as they were asked for: in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from hyfree_ray.evaluation.regimes import RELEASE, Regime, in_order, record_of
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.interface import Receipt
from hyfree_ray.federation.protocol import Outcome
from hyfree_ray.federation.status import FinishedStage


def find_missing_comparisons(
    sites: Mapping[str, Site],
    settings: Collection[str],
    contributors: Collection[str],
    outcome: Outcome,
    stages: Iterable[FinishedStage],
) -> tuple[str, ...]:
    """Return a line for each thing that a reader of the table would miss.

    Args:
        sites: all of the run.
        settings: what was asked for beside the protocol.
        contributors: sites whose releases were to be pooled; empty: all.
        outcome: what became of them.
        stages: that are done.
    """
    stages = list(stages)
    wanted = [record_of(name) for name in in_order(settings)]
    asked = [regime.name for regime in wanted if regime.of_one_release]
    found = []
    if not outcome.general:
        impossible = _impossible(wanted, outcome)
        asked = [name for name in asked if name not in impossible]
        found += [f"no {', '.join(impossible)}: too few releases"] if impossible else []
    own = [name for name in asked if record_of(name).trained_by == "site"]
    added = [regime.name for regime in wanted if regime.added_per_real is not None]
    for name, receipt in outcome.sites.items():
        if asked and (reason := _not_pooled(name, receipt, contributors)):
            found.append(f"{name}: no {', '.join(asked)}: {reason}")
        elif unmade := [regime for regime in own if not _scored(outcome, regime, name)]:
            found.append(f"{name}: no {', '.join(unmade)}: {_why_withheld(name, unmade, stages)}")
        if unmade := [regime for regime in added if not _scored(outcome, regime, name)]:
            why = _why_not_added(name, unmade, stages)
            found.append(f"{name}: no {', '.join(unmade)}: {why}")
    released = sum(receipt.images for receipt in outcome.sites.values())
    mixtures = [stage for stage in stages if stage.record.stage == "prepare_mixture"]
    lines = (_shortage(stage, sites, released) for stage in mixtures)
    return (*found, *sorted(line for line in lines if line))


def _impossible(wanted: Collection[Regime], outcome: Outcome) -> list[str]:
    """Return what cannot be without a pool: all that needs a release, where no site has one, or
    else what needs the releases of others."""
    released = any(receipt.images for receipt in outcome.sites.values())
    if released:
        return [regime.name for regime in wanted if regime.foreign_only]
    return [
        *(regime.name for regime in wanted if regime.of_one_release),
        *(regime.name for regime in wanted if regime.synthetic_share),
    ]


def _not_pooled(name: str, receipt: Receipt, contributors: Collection[str]) -> str:
    if not receipt.images:
        return "it has no release"
    return "its release is not pooled" if contributors and name not in contributors else ""


def _scored(outcome: Outcome, regime: str, site: str) -> bool:
    return any(
        score.rows for score in outcome.scores if (score.regime, score.train_site) == (regime, site)
    )


def _why_withheld(site: str, regimes: Collection[str], stages: Iterable[FinishedStage]) -> str:
    """Return why further samples were not released: the site's own release was."""
    reasons = (
        stage.record.result.get("reason")
        for stage in stages
        if stage.purpose in regimes
        and (stage.record.owner, stage.record.stage) == (site, "release")
    )
    reason = next(filter(None, reasons), None)
    return f"its release of twice the images was withheld{f' ({reason})' if reason else ''}"


def _why_not_added(site: str, regimes: Collection[str], stages: Iterable[FinishedStage]) -> str:
    """Return why a site's own samples were not added: its filter rejected too many."""
    reasons = (
        stage.record.result.get("reason")
        for stage in stages
        if stage.purpose in {RELEASE, *regimes}
        and (stage.record.owner, stage.record.stage) == (site, "synthesise")
    )
    reason = next(filter(None, reasons), "no reason is known")
    return f"too few samples passed its filter ({reason})"


def _shortage(stage: FinishedStage, sites: Mapping[str, Site], released: int) -> str:
    """Return whether a mixture is smaller than the real images: the sites released too few."""
    name, record = stage.purpose, stage.record
    share, taken = record.params["synthetic_share"], record.result["synthetic"]
    size = record.result["training_images"]
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
