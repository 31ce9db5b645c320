"""What it cost that sites were missing: models without them, images, compute, and time waited."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from hyfree_ray.config.budget import Budget
from hyfree_ray.core.records import StageRecord
from hyfree_ray.evaluation.regimes import in_order, record_of
from hyfree_ray.federation.hospital import Site, quota
from hyfree_ray.federation.interface import Receipt
from hyfree_ray.results.summary import MissingSite, Straggler

GONE = ("failed", "late", "withdrawn")
"""Outcomes of sites that left the run. Others withheld, or were refused, and took part without."""

_FOR_THE_RELEASE = (
    "train_generator", "choose_snapshot", "overtrain_generator", "synthesise", "audit", "label",
    "audit_labels", "quality_card", "pixel_correlation", "training_samples", "release",
)  # fmt: skip


def missing_sites(
    sites: Mapping[str, Site],
    budget: Budget,
    outcomes: Mapping[str, Receipt],
    regimes: Collection[str],
    records: Iterable[StageRecord],
    unfinished_s: Mapping[str, float],
) -> tuple[MissingSite, ...]:
    """Return what each site that submitted nothing, or broke later, took with it.

    Args:
        sites: all of the run.
        outcomes: what became of each: outcome, reason, images.
        regimes: what was trained.
        records: of finished stages.
        unfinished_s: by party, seconds that went into stages without an end.
    """
    wanted = {name: quota(site, budget) for name, site in sites.items()}
    known = map(record_of, in_order(regimes))
    lacking = tuple(one.name for one in known if one.of_the_pool and one.carrier == "releases")
    spent = list(records)
    found = []
    for name, receipt in outcomes.items():
        if receipt.outcome == "released":
            continue
        pooled = receipt.images > 0
        wasted = 0.0
        for record in spent:
            for_release = record.stage in _FOR_THE_RELEASE or receipt.outcome in GONE
            if record.owner == name and for_release and not pooled:
                wasted += record.seconds
        found.append(
            MissingSite(
                site=name,
                outcome=receipt.outcome,
                reason=receipt.reason or "",
                models=() if pooled else lacking,
                images=0 if pooled else wanted[name],
                of_images=sum(wanted.values()),
                wasted_seconds=wasted,
                unfinished_seconds=unfinished_s.get(name, 0.0),
            )
        )
    return tuple(found)


def straggler(records: Iterable[StageRecord]) -> Straggler | None:
    """Return the site whose release came last; None where fewer than two came in."""
    came = sorted(
        (record.started, record.params["site"])
        for record in records
        if record.stage == "check_release"
    )
    if len(came) < 2:
        return None
    (before, _), (last, site) = came[-2:]
    return Straggler(site=site, seconds=last - before)
