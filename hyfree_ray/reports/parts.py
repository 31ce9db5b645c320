"""The parts of a report that are tables: cards, compute, borders, settings of one run."""

from __future__ import annotations

import itertools
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hyfree_ray.border.privacy_card import NOT_MEASURED
from hyfree_ray.cohorts.partitions import COLUMN, NATURAL
from hyfree_ray.cohorts.phantom_record import DEFAULT_PHANTOM, PHANTOMS
from hyfree_ray.core.parties import ORACLE, POOL
from hyfree_ray.evaluation.regimes import REPLAY, purposes_of, record_of
from hyfree_ray.results.finished import Finished
from hyfree_ray.results.summary import TESTED, SiteOutcome, Spent, Transfer

NONE = "–"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a table."""

    cells: tuple[str, ...]
    mark: str = ""
    """A verdict, that colours the last cell."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text; the first column names the lines."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    texts: frozenset[int]
    """Columns of words, beside the first."""


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str = "",
    texts: Collection[int] = (),
    marks: Sequence[str] = (),
) -> Table:
    """Make a table of cells."""
    found = [Row(cells=tuple(cells)) for cells in rows]
    if marks:
        pairs = zip(found, marks, strict=True)
        found = [Row(cells=row.cells, mark=mark) for row, mark in pairs]
    return Table(caption=caption, columns=tuple(columns), rows=tuple(found), texts=frozenset(texts))


def of_run(run: Finished) -> dict[str, Any]:
    """Return what a report says of a run, beside its scores, pictures and timeline."""
    summary = run.summary
    config = f"experiment-{run.name}.yaml"
    versions = ", ".join(f"{name} {number}" for name, number in summary.versions.items())
    return {
        "name": run.name,
        "outcomes": outcomes(run),
        "missing": missing(run),
        "notes": (*filter(None, [summary.too_short]), *summary.notes),
        "gates": gates(run),
        "cards": cards(run),
        "correlations": correlations(run),
        "compute": compute(summary.compute),
        "worth": worth(run),
        "crossings": crossings(summary.ledger),
        "ledger": ledger(summary.ledger),
        "reproduce": "The experiment's settings are in the file beside this report; on the same "
        "data and sites, this command repeats the run:",
        "command": command(run, config),
        "config_name": config,
        "config": experiment_file(summary.experiment),
        "reasons": "\n".join(summary.reasons),
        "versions": versions,
    }


def outcomes(run: Finished) -> Table:
    """Tabulate what became of each site's release."""
    rows = []
    for outcome in (site.outcome for site in run.summary.sites):
        rate = outcome.rejection_rate
        rows.append(
            [
                outcome.site,
                str(outcome.images),
                NONE if rate is None else f"{rate:.1%}",
                outcome.outcome,
                outcome.reason or outcome.flag or NONE,
                _agreement(outcome),
                NONE if outcome.effect is None else f"{outcome.effect:+.3f}",
            ]
        )
    last = run.summary.straggler
    came = (
        ""
        if last is None
        else (
            f"The last release to arrive was that of {last.site}, {last.seconds:.0f} s "
            "after the previous one"
        )
    )
    columns = ["site", "images", "rejected as copies", "release", "reason or warning"]
    columns += ["label agreement", "adds to the general model"]
    return table(columns, rows, caption=came, texts={3, 4})


def missing(run: Finished) -> Table:
    """Tabulate what it cost that sites dropped out, came late or withheld their release."""
    rows = []
    for one in run.summary.missing:
        spent = one.wasted_seconds + one.unfinished_seconds
        images = f"{one.images} of {one.of_images}" if one.images else NONE
        models = ", ".join(one.models) or NONE
        rows.append([one.site, one.outcome, models, images, f"{spent:.0f}"])
    columns = ["site", "outcome", "models without it", "missing images", "s wasted"]
    return table(columns, rows, caption="Cost of the missing sites", texts={1, 2})


def _agreement(outcome: SiteOutcome) -> str:
    dice = outcome.label_agreement
    if dice is None:
        return NONE
    return f"{dice:.3f}" if outcome.replayed else f"{dice:.3f}, not replayed"


def cards(run: Finished) -> Table:
    """Put the sites' quality and privacy cards side by side, whatever is on them."""
    derived = run.summary.derived
    by_site = {}
    for site in run.sites:
        audit = derived.get(site, {}).get("audit", {})
        quality = derived.get(site, {}).get("quality_card", {})
        others = {
            name: derived.get(site, {}).get(f"audit_{audited}", {}).get("attacks") or {}
            for name, audited in (("general_model", "general"), ("labels", "labels"))
        }
        card = {k: v for k, v in dict(audit.get("card") or {}).items() if k != "gate"}
        by_site[site] = _flat(card) | _flat({k: v for k, v in others.items() if v}) | _flat(quality)
    names = list(dict.fromkeys(name for card in by_site.values() for name in card))
    rows = [[name, *(by_site[site].get(name, NONE) for site in run.sites)] for name in names]
    return table(["on the card", *run.sites], rows, texts=range(1, len(run.sites) + 1))


_OF = {"samples": "synthetic", "real_to_real": "real, with other patients"}
_WHERE = {"full_grid": "full grid", "foreground": "foreground"}


def correlations(run: Finished) -> Table:
    """Tabulate the highest correlations with a training image, of synthetic and of real images."""
    rows = []
    for site in run.sites:
        found = run.summary.derived.get(site, {}).get("pixel_correlation") or {}
        for where, of in itertools.product([one for one in _WHERE if one in found], _OF):
            numbers = found[where][of]
            above = f"{found[where]['above_real']:.1%}" if of == "samples" else NONE
            spread = [numbers[name] for name in ("median", "percentile_95", "highest")]
            rows.append([site, _WHERE[where], _OF[of], *(f"{n:.3f}" for n in spread), above])
    return table(
        ["site", "over", "images", "median", "95th percentile", "highest", "above real"],
        rows,
        caption="Pearson's correlation of each image with the training image that it is highest "
        "with. above real: synthetic images over the real ones' 95th percentile; 5 % are expected "
        "of new patients. Each site has the scatter in its audit folder",
        texts={1, 2},
    )


def gates(run: Finished) -> Table:
    """Tabulate the gate, a line a bound: its limit, and what each site found; passed or not."""
    bounds: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for site in run.sites:
        derived = run.summary.derived.get(site, {})
        card = derived.get("audit", {}).get("card") or {}
        audits = [derived.get(f"audit_{audited}", {}) for audited in ("labels", "general")]
        rows_of_others = [row for found in audits for row in found.get("gate", ())]
        for row in (*card.get("gate", ()), *rows_of_others):
            said = row["found"]
            if not row["passed"]:
                said = f"FAILED: {said}"
            elif said != NOT_MEASURED:
                said = f"passed: {said}"
            bounds[row["name"], row["limit"]][site] = said
    rows = [
        [name, limit, *(found.get(site, NONE) for site in run.sites)]
        for (name, limit), found in bounds.items()
    ]
    failed = any("FAILED" in cell for row in rows for cell in row)
    return table(
        ["bound", "limit", *run.sites],
        rows,
        caption="What a release has to keep before it leaves: "
        + ("a bound was NOT kept" if failed else "all bounds were kept"),
        texts=range(1, len(run.sites) + 2),
    )


def _flat(card: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in card.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping) and "any" in value:
            found[f"{label}, found by any detector"] = _value(value["any"])
        elif isinstance(value, Mapping):
            found |= _flat(value, f"{label}: ")
        else:
            found[label] = _value(value)
    return found


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(one) for one in value)
    return NONE if value is None else str(value)


def compute(spent: Mapping[str, Mapping[str, Spent]]) -> Table:
    """Tabulate seconds by stage and party, and the peak of memory that a stage took."""
    stages: dict[str, dict[str, Spent]] = defaultdict(dict)
    for party, by_stage in spent.items():
        for name, numbers in by_stage.items():
            stages[name][party] = numbers
    total = {
        name: sum(numbers.seconds for numbers in by_party.values())
        for name, by_party in stages.items()
    }
    everything = sum(total.values()) or 1.0
    rows = []
    for name in sorted(stages, key=lambda stage: -total[stage]):
        memory = max(numbers.peak_memory_mib for numbers in stages[name].values())
        seconds = [
            f"{stages[name][party].seconds:.0f}" if party in stages[name] else NONE
            for party in spent
        ]
        share = f"{total[name] / everything:.0%}"
        rows.append([name, *seconds, f"{total[name]:.0f}", share, f"{memory:.0f}"])
    return table(
        ["stage", *spent, "all", "share", "peak MiB"],
        rows,
        caption="Seconds by stage and party; memory is the peak of any one process",
    )


def device_hours(run: Finished, regime: str) -> float | None:
    """Return the device hours of all parties that a regime's models took, from nothing.

    None where the records do not say: none of the run's stages was for the regime alone. Scoring
    is no part of it.
    """
    stages = [stage for stage in run.summary.stages if stage.stage != "score"]
    if regime not in {stage.purpose for stage in stages}:
        return None
    purposes = purposes_of(regime, run.summary.experiment["labeller"])
    return sum(stage.device_seconds for stage in stages if stage.purpose in purposes) / 3600


def exchanged_bytes(run: Finished, regime: str) -> int | None:
    """Return the bytes that all sites and the pool exchange for a regime's models.

    Up go releases, or labels of public images; down the pool's model, and what is replayed. Models
    that a simulation only takes elsewhere to be scored are no part of it. None where weights are
    exchanged all along and no record says how many, or where real data would have to.
    """
    record = record_of(regime)
    if record.trained_by == "oracle":
        counted = run.summary.derived.get(ORACLE, {}).get(regime, {}).get("exchanged_bytes")
        return None if counted is None else int(counted)
    if record.trained_by is None:
        return None
    if record.releases == "none" or (record.releases, record.trained_by) == ("own", "site"):
        return 0
    carrier = "label_public" if record.carrier == "public" else "release"
    of_models = {s.key for s in run.summary.stages if s.purpose in {regime, *record.needs}}
    return sum(
        one.bytes
        for one in run.summary.ledger
        if (one.stage == carrier and (one.receiver == POOL or REPLAY in record.needs))
        or (one.stage == "train_general" and one.key in of_models)
    )


def worth(run: Finished) -> Table:
    """Tabulate device hours and bytes by regime, and the Dice gained over `local` for an hour."""
    local = device_hours(run, "local") or 0.0
    rows = []
    for regime in run.summary.regimes:
        hours = device_hours(run, regime)
        sent = exchanged_bytes(run, regime)
        cells = [regime, NONE if hours is None else f"{hours:.3g}"]
        cells.append(NONE if sent is None else f"{sent / 1e6:.3g}")
        for tested in TESTED:
            score, without = (run.summary.score(name, tested) for name in (regime, "local"))
            dice = None if score is None else score.primary
            base = None if without is None else without.primary
            gain = NONE
            if dice is not None and base is not None and hours is not None and hours > local:
                gain = f"{(dice - base) / (hours - local):+.3g}"
            cells += [NONE if dice is None else f"{dice:.3f}", gain]
        rows.append(cells)
    return table(
        [
            "regime",
            "device hours",
            "MB exchanged",
            "Dice, own",
            "gain an hour",
            "Dice, others",
            "gain an hour",
        ],
        rows,
        caption="Device hours that a regime takes from scratch at all sites together, and Dice "
        "gained over local per hour beyond local's; megabytes that sites and pool exchange for it",
    )


def crossings(transfers: Iterable[Transfer]) -> Table:
    """Tabulate what crossed by its kind and way: sites are one kind of party."""

    def kind(party: str) -> str:
        return party if party in {POOL, ORACLE} else "sites"

    sums: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for one in transfers:
        sums[one.stage, kind(one.sender), kind(one.receiver)].append(one.bytes)
    rows = [
        [stage, f"{sender} to {receiver}", str(len(found)), f"{sum(found):,}"]
        for (stage, sender, receiver), found in sorted(sums.items())
    ]
    total = sum(sum(found) for found in sums.values())
    return table(
        ["what", "way", "parcels", "bytes"],
        rows,
        caption=f"{total:,} bytes in total. Sites' models are exchanged only in a simulation, "
        "to be scored elsewhere; scores are numbers and are not listed",
        texts={1},
    )


def ledger(transfers: Iterable[Transfer]) -> Table:
    """Tabulate what went from whom to whom, and how many bytes."""
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for one in transfers:
        sums[one.stage, one.sender, one.receiver].append(one.bytes)
    rows = [
        [stage, sender, receiver, str(len(found)), f"{sum(found):,}"]
        for (stage, sender, receiver), found in sorted(sums.items())
    ]
    return table(["what", "from", "to", "parcels", "bytes"], rows, texts={1, 2})


def experiment_file(experiment: Mapping[str, Any]) -> str:
    """Write YAML that `simulate --config` takes."""
    values = {name: value for name, value in experiment.items() if value is not None}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def command(run: Finished, config: str) -> str:
    """Return the command that makes this run, as far as its records say."""
    cohort, pooled, how = run.summary.cohort, run.contributors, run.summary.partition.how
    words = ["hyfree-ray", "simulate"]
    number = ["--sites", str(len(run.sites))]
    drawn = [phantom for phantom in PHANTOMS.built_in() if phantom.cohort == cohort]
    if drawn:
        named = drawn[0].name
        words += number if named == DEFAULT_PHANTOM else ["--phantom", named, *number]
    else:
        words += ["--data", f"DIR/{cohort}"]
        if how not in {"", NATURAL}:
            words += ["--partition", how]
            words += [] if how.startswith(COLUMN) else number
    if len(pooled) < len(run.sites):
        words += ["--contributors", ",".join(pooled)]
    return shlex.join([*words, "--config", config])
