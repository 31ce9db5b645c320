"""A run as `summary.json` describes it: the table, what it took, what crossed between parties."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from hyfree_ray.core.execution import installed_versions
from hyfree_ray.core.keys import digest_of
from hyfree_ray.evaluation.choice import CHOICE_VERSION
from hyfree_ray.evaluation.regimes import (
    RELEASE,
    candidates,
    of_own_images,
    purposes_of,
    record_of,
)
from hyfree_ray.evaluation.scores import ScoreRow
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.protocol import Outcome
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.status import FinishedStage
from hyfree_ray.observing.dropouts import missing_sites, straggler
from hyfree_ray.observing.missing_comparisons import find_missing_comparisons
from hyfree_ray.observing.observer import Observed
from hyfree_ray.results.comparisons import summarise
from hyfree_ray.results.learned import describe_unlearned, unlearned
from hyfree_ray.results.risk import attack_succeeds, format_attack
from hyfree_ray.results.summary import (
    Partition,
    RunSummary,
    SiteOutcome,
    Spent,
    StageRun,
    Summary,
    Transfer,
)

_ON_CARDS = frozenset(
    {
        "choose_snapshot",
        "pixel_correlation",
        "audit",
        "audit_general",
        "audit_labels",
        "quality_card",
    }
)


def describe_run(
    simulation: Simulation, rows: Sequence[ScoreRow], outcome: Outcome, observed: Observed
) -> RunSummary:
    """Describe a finished run.

    Args:
        simulation: the run.
        rows: its scores.
        outcome: what came of it.
        observed: all that its parties have reported.
    """
    experiment, stages = simulation.experiment, [*observed.stages.values()]
    records = [stage.record for stage in stages]
    transfers = [Transfer(**vars(parcel)) for parcel in observed.received.values()]
    transfers.sort(key=lambda one: (one.sender, one.receiver, one.stage, one.key))
    derived = derived_by_party(stages)
    return RunSummary(
        **vars(_table(simulation, rows, outcome, observed, derived)),
        cohort=simulation.cohort,
        data={name: _data_key(site) for name, site in simulation.sites.items()},
        partition=Partition(how=simulation.partition, sites=len(simulation.sites)),
        contributors=simulation.contributors or tuple(simulation.sites),
        experiment_key=simulation.key,
        experiment=experiment.model_dump(mode="json", exclude={"embedder_weights"}),
        choice=CHOICE_VERSION,
        reasons=simulation.reasons,
        derived=derived,
        compute=compute_by_party(stages),
        ledger=tuple(transfers),
        unanswered=observed.unanswered,
        versions=installed_versions()
        | {one.package: one.version for one in experiment.extensions().values() if one.package},
        stages=tuple(_stage_run(stage) for _, stage in sorted(observed.stages.items())),
        missing=missing_sites(
            simulation.sites,
            experiment.budget,
            outcome.sites,
            {score.regime for score in outcome.scores},
            records,
            observed.unfinished_s,
        ),
        straggler=straggler(records),
    )


def _table(
    simulation: Simulation,
    rows: Sequence[ScoreRow],
    outcome: Outcome,
    observed: Observed,
    derived: dict[str, dict[str, Any]],
) -> Summary:
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for scored in outcome.scores:
        model = (scored.regime, scored.train_site, scored.test_site)
        counts[model].update(row["outcome"] for row in scored.rows)
    agreed = simulation.experiment.min_label_agreement
    sites = [
        SiteOutcome(
            site=name,
            outcome=receipt.outcome,
            reason=receipt.reason or "",
            images=receipt.images,
            rejection_rate=receipt.rejection_rate,
            flag=receipt.flag or "",
            chosen=outcome.chosen.get(name, ""),
            label_agreement=receipt.label_agreement,
            effect=receipt.effect,
            replayed=receipt.label_agreement is None or receipt.label_agreement >= agreed,
            attack=format_attack(derived.get(name, {}).get("audit")),
            attack_succeeds=attack_succeeds(derived.get(name, {}).get("audit")),
            device_hours=_hours_of_sharing(simulation, name, observed.stages.values()),
        )
        for name, receipt in outcome.sites.items()
    ]
    return summarise(
        simulation.run,
        rows,
        counts=counts,
        outcomes=sites,
        warning=simulation.experiment.budget.warning,
        too_short=describe_unlearned(unlearned(rows), simulation.experiment.budget.unet.epochs),
        notes=(
            *find_missing_comparisons(
                simulation.sites,
                simulation.experiment.settings,
                simulation.contributors,
                outcome,
                observed.stages.values(),
            ),
            *(f"{what} is of {one}" for what, one in simulation.experiment.extensions().items()),
            *_gate_notes(simulation),
        ),
    )


def _hours_of_sharing(
    simulation: Simulation, site: str, stages: Iterable[FinishedStage]
) -> float | None:
    """Return the hours that a site's devices were busy for what it would not do without others."""
    settings = simulation.experiment.settings
    shared = [name for name in candidates(settings) if record_of(name).releases != "none"]
    purposes = (
        frozenset()
        .union(*(purposes_of(name, simulation.experiment.labeller) for name in shared))
        .difference(of_own_images())
    )
    seconds = [
        stage.record.device_seconds
        for stage in stages
        if stage.record.owner == site and stage.purpose in purposes
        if stage.record.stage != "score"
    ]
    return sum(seconds) / 3600 if seconds else None


def _gate_notes(simulation: Simulation) -> tuple[str, ...]:
    """Say that no release was held to its quality card: a reader of the numbers has to know."""
    if simulation.experiment.gate.quality.enforced:
        return ()
    return ("the quality gate was off: releases that teach nothing are among them, if any do",)


def compute_by_party(stages: Sequence[FinishedStage]) -> dict[str, dict[str, Spent]]:
    """Sum seconds and device seconds by party and stage, with the peak of memory.

    General models of settings are named by what they are for.
    """
    found: dict[str, dict[str, Spent]] = defaultdict(dict)
    for stage in stages:
        record, name = stage.record, stage.name
        if record.stage == "train_general" and record_of(stage.purpose).setting:
            name = f"{stage.purpose} general"
        before = found[record.owner].get(name, Spent())
        found[record.owner][name] = Spent(
            seconds=before.seconds + record.seconds,
            device_seconds=before.device_seconds + record.device_seconds,
            peak_memory_mib=max(before.peak_memory_mib, record.peak_memory_mib),
        )
    return {owner: dict(sorted(found[owner].items())) for owner in sorted(found)}


def derived_by_party(stages: Sequence[FinishedStage]) -> dict[str, dict[str, Any]]:
    """Collect what plans derived, which snapshot was chosen and what is on the cards."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for stage in stages:
        record, of_party = stage.record, found[stage.record.owner]
        if record.stage.startswith("prepare") or record.stage == "pool_releases":
            of_party[record.stage] = record.result
        if "exchanged_bytes" in record.result:
            of_party[stage.purpose] = {"exchanged_bytes": record.result["exchanged_bytes"]}
        if record.stage == "train_generator":
            of_party["generator"] = record.result["derivation"]
        if record.stage in _ON_CARDS and stage.purpose == RELEASE:
            of_party[record.stage] = record.result
    return {owner: found[owner] for owner in sorted(found) if found[owner]}


def _data_key(site: Site) -> str:
    """Hash a site's cases, whatever the fold: the same patients have the same indices."""
    return digest_of(sorted([c["name"], c["digest"], c["patient"]] for c in site.cases))


def _stage_run(stage: FinishedStage) -> StageRun:
    record = stage.record
    return StageRun(
        owner=record.owner,
        name=stage.name,
        stage=record.stage,
        key=record.key,
        purpose=stage.purpose,
        seconds=record.seconds,
        device_seconds=record.device_seconds,
    )
