"""The simulation's observer: reads records, owns `runs/` and tracking, gives nothing to a party.

It holds no real image and no name of a case or patient: parties tell it records, curves and
numbers, and the pool the contact sheets of releases.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyfree_ray.core.execution import installed_versions
from hyfree_ray.core.files import replacing, write_json
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parties import POOL
from hyfree_ray.evaluation.choice import CHOICE_VERSION
from hyfree_ray.evaluation.regimes import RELEASE
from hyfree_ray.evaluation.scores import write_results
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.interface import Handle, PoolProgram
from hyfree_ray.federation.protocol import Outcome
from hyfree_ray.federation.simulation import Simulation, score_rows
from hyfree_ray.federation.status import FinishedStage, ReceivedParcel, Status
from hyfree_ray.observing.background import Tracking, finish_tracking, pictures_of
from hyfree_ray.observing.dropouts import missing_sites, straggler
from hyfree_ray.observing.missing_comparisons import shortfalls
from hyfree_ray.observing.polling import Asking
from hyfree_ray.observing.progress import Progress, Watchdog, plan_in_words
from hyfree_ray.results.answers import attack_in_words
from hyfree_ray.results.comparisons import summarise
from hyfree_ray.results.finished import mark_outdated, mark_written
from hyfree_ray.results.summary import (
    Partition,
    RunSummary,
    SiteOutcome,
    Spent,
    StageRun,
    Summary,
    Transfer,
    read_summary,
    write_summary,
)
from hyfree_ray.results.table import table_text

log = logging.getLogger("hyfree_ray")

POLL_S = 1.0


class Observer:
    """Watches one run and writes what it leaves.

    Args:
        simulation: the run.
        store: the store's root; the run's folder is `runs/RUN` in it.
        progress: where to show how far parties are.
    """

    def __init__(self, simulation: Simulation, store: Path, progress: Progress) -> None:
        self.simulation = simulation
        self.store = store
        self.folder = store / "runs" / simulation.run
        self.progress = progress
        self.entries: dict[tuple[str, str], FinishedStage] = {}
        """By owner and key: two parties may have made the same."""
        self.received: dict[tuple[str, str], ReceivedParcel] = {}
        """By receiver and key."""
        self.told = defaultdict[str, tuple[set[str], set[str]]](lambda: (set(), set()))
        """By party, the keys of entries and of parcels that it need not tell again."""
        described = simulation.experiment.model_dump(mode="json")
        self.tracking = Tracking(store, simulation.run, simulation.cohort, described)
        self.unfinished_s: dict[str, float] = {}
        self.said_generator = False
        self.watchdog = Watchdog()
        self.asking = Asking()
        self.unanswered: tuple[str, ...] = ()
        """Parties that were silent when the run was over."""

    async def watch(self, parties: Mapping[str, Handle]) -> None:
        """Poll the parties until cancelled."""
        while True:
            try:
                await self.poll(parties)
            except Exception as error:  # what is watched matters more than the watching
                log.warning("progress is not shown for a while (%s)", type(error).__name__)
            await asyncio.sleep(POLL_S)

    async def poll(self, parties: Mapping[str, Handle], *, last: bool = False) -> None:
        """Ask each party for what is new; who does not answer soon is left for the next time.

        Args:
            parties: all.
            last: the run is over; all that there is to tell is told now, or not at all.
        """
        answers, silent_s = await self.asking.ask(parties, self.told, last=last)
        for owner in parties:
            for line in self.watchdog.of_a_party(owner, silent_s.get(owner, 0.0)):
                self.progress.tell(line)
            if owner in answers:
                self._take_in(owner, answers[owner].result())
        if last:
            self.unanswered = tuple(owner for owner in parties if owner not in answers)
            for owner in self.unanswered:
                self.progress.tell(
                    f"{owner}: no answer at the end; the run's folder lacks what it had yet to "
                    "tell: give the same command again when its machine is back"
                )

    def _take_in(self, owner: str, status: Status) -> None:
        """Note and show what a party has told."""
        finished, parcels = self.told[owner]
        fresh = [e for e in status.finished if e.record["key"] not in finished]
        self.unfinished_s[owner] = status.unfinished_s
        for entry in fresh:
            self.entries[owner, entry.record["key"]] = entry
            finished.add(entry.record["key"])
            self._say_what_was_derived(entry)
            # Scores are in the table; a release is shown with its picture, at the end.
            if entry.name not in {"score", "release"}:
                self._track(entry, {})
        for parcel in status.received:
            self.received[owner, parcel.key] = parcel
            parcels.add(parcel.key)
        self.progress.update(replace(status, finished=fresh))
        for line in self.watchdog.lines(status):
            self.progress.tell(line)

    def _say_what_was_derived(self, entry: FinishedStage) -> None:
        """Print what followed from a site's data; a generator's steps once, they are rules."""
        record, result = entry.record, entry.record["result"]
        if record["stage"] in {"prepare", "pool_releases"}:
            for line in plan_in_words(record):
                self.progress.tell(line)
        elif record["stage"] == "train_generator" and not self.said_generator:
            self.said_generator = True
            self.progress.tell(f"{record['owner']}: its generator, derived from that plan:")
            for step in result["derivation"]:
                self.progress.tell(f"  {step}")
        elif record["stage"] == "choose_snapshot":
            cost = ""
            if "seconds" in result:
                share = result["seconds"] / result["training_seconds"]
                cost = f" ({share:.1%} of the training's time)"
            self.progress.tell(
                f"{record['owner']}: snapshot {int(result['snapshot'].split('.')[0])} of its "
                f"generator: {result['reason']}{cost}"
            )

    async def finish(self, outcome: Outcome, pool: Handle) -> Summary:
        """Write everything that a run leaves in its folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mark_outdated(self.folder)
        summary = self.summarise(outcome)
        write_results(self.folder / "results.csv", score_rows(self.simulation, outcome))
        (self.folder / "samples").mkdir(exist_ok=True)
        for site in self.simulation.sites if POOL not in self.unanswered else ():
            picture = await pool.call(PoolProgram.picture, site)
            if picture is not None:
                with replacing(self.folder / "samples" / f"{site}.png") as file:
                    file.write(picture)
        write_json(self.folder / "timeline.json", self.timeline())
        with replacing(self.folder / "table.txt") as file:
            file.write(table_text(summary).encode())
        # Last: a folder with a summary is a finished run.
        write_summary(self.folder, self.describe(summary, outcome))
        if not self.unanswered:
            mark_written(self.folder)
        self._finish_tracking(read_summary(self.folder))
        return summary

    def _track(self, entry: FinishedStage, pictures: Mapping[str, Path]) -> None:
        record = {**entry.record, "stage": entry.name}
        self.tracking.hand("stage_finished", record, entry.curve, pictures)

    def _finish_tracking(self, summary: Summary) -> None:
        for entry in self.entries.values():
            if entry.name == "release":
                self._track(entry, pictures_of(self.folder, entry.record["owner"]))
        finish_tracking(self.tracking, self.folder, summary)

    def summarise(self, outcome: Outcome) -> Summary:
        """The table as numbers."""
        counts: dict[tuple[str, str, str], dict[str, int]] = {}
        for scored in outcome.scores:
            found = counts.setdefault(
                (scored.regime, scored.train_site, scored.test_site), defaultdict(int)
            )
            for row in scored.rows:
                found[row["outcome"]] += 1
        least = self.simulation.experiment.min_label_agreement
        derived = self.derived()
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
                replayed=receipt.label_agreement is None or receipt.label_agreement >= least,
                attack=attack_in_words(derived.get(name, {}).get("audit")),
            )
            for name, receipt in outcome.sites.items()
        ]
        return summarise(
            self.simulation.run,
            score_rows(self.simulation, outcome),
            counts=counts,
            outcomes=sites,
            seed=self.simulation.experiment.seed,
            notes=shortfalls(
                self.simulation.sites,
                self.simulation.experiment.settings,
                self.simulation.contributors,
                outcome,
                (entry.record for entry in self.entries.values()),
            ),
        )

    def describe(self, summary: Summary, outcome: Outcome) -> RunSummary:
        """`summary.json`: the table, the compute, the experiment, and what crossed borders."""
        records = [entry.record for entry in self.entries.values()]
        return RunSummary(
            **vars(summary),
            cohort=self.simulation.cohort,
            data={name: _data_key(site) for name, site in self.simulation.sites.items()},
            partition=Partition(how=self.simulation.partition, sites=len(self.simulation.sites)),
            contributors=self.simulation.contributors or tuple(self.simulation.sites),
            experiment_key=self.simulation.key,
            experiment=self.simulation.experiment.model_dump(
                mode="json", exclude={"embedder_weights"}
            ),
            choice=CHOICE_VERSION,
            reasons=self.simulation.reasons,
            derived=self.derived(),
            compute=self.compute(),
            ledger=tuple(
                sorted(
                    (_transfer(parcel) for parcel in self.received.values()),
                    key=lambda one: (one.sender, one.receiver, one.stage, one.key),
                )
            ),
            unanswered=self.unanswered,
            versions=installed_versions(),
            stages=tuple(_stage_run(entry) for _, entry in sorted(self.entries.items())),
            missing=missing_sites(
                self.simulation.sites,
                self.simulation.experiment.budget,
                outcome.sites,
                {score.regime for score in outcome.scores},
                records,
                self.unfinished_s,
            ),
            straggler=straggler(records),
        )

    def compute(self) -> dict[str, dict[str, Spent]]:
        """Seconds, device seconds and peak memory by party and stage (scores are summed)."""
        found: dict[str, dict[str, Spent]] = defaultdict(dict)
        for entry in self.entries.values():
            record, stages = entry.record, found[entry.record["owner"]]
            name = _task_of(entry)
            before = stages.get(name, Spent())
            stages[name] = Spent(
                seconds=before.seconds + record["seconds"],
                device_seconds=before.device_seconds + record["device_seconds"],
                peak_memory_mib=max(before.peak_memory_mib, record["peak_memory_mib"]),
            )
        return {owner: dict(sorted(found[owner].items())) for owner in sorted(found)}

    def derived(self) -> dict[str, dict[str, Any]]:
        """What plans derived, which snapshot was chosen and how good its images are, by party."""
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for entry in self.entries.values():
            record = entry.record
            if record["stage"].startswith("prepare") or record["stage"] == "pool_releases":
                found[record["owner"]][record["stage"]] = record["result"]
            if record["stage"] == "train_generator":
                found[record["owner"]]["generator"] = record["result"]["derivation"]
            of_card = record["stage"] in {"choose_snapshot", "audit", "quality_card"}
            if of_card and entry.purpose == RELEASE:
                found[record["owner"]][record["stage"]] = record["result"]
        return {owner: found[owner] for owner in sorted(found)}

    def timeline(self) -> list[dict[str, Any]]:
        """Chrome's trace format: one complete event a stage, one process row a party."""
        owners = list(self.simulation.party_names)
        events: list[dict[str, Any]] = [
            {"name": "process_name", "ph": "M", "pid": row, "args": {"name": owner}}
            for row, owner in enumerate(owners)
        ]
        ends: dict[str, list[float]] = defaultdict(list)

        def row_of(owner: str, start: float, end: float) -> int:
            """The first row of its party that is free: what overlaps is drawn below each other."""
            rows = ends[owner]
            for row, before in enumerate(rows):
                if before <= start:
                    rows[row] = end
                    return row
            rows.append(end)
            return len(rows) - 1

        # A stage that was killed, or gave way, is drawn in parts.
        parts = [
            (start, end, entry.name, entry.record)
            for entry in self.entries.values()
            for start, end in (
                *entry.record.get("earlier", ()),
                (entry.record["started"], entry.record["ended"]),
            )
        ]
        for start, end, name, record in sorted(parts, key=lambda part: part[0]):
            events.append(
                {
                    "name": name,
                    "cat": record["stage"],
                    "ph": "X",
                    "ts": round(start * 1e6),
                    "dur": round((end - start) * 1e6),
                    "pid": owners.index(record["owner"]),
                    "tid": row_of(record["owner"], start, end),
                    "args": {"owner": record["owner"], "device": record["device"]},
                }
            )
        return events


def _data_key(site: Site) -> str:
    """Hash of a site's cases, whatever the fold: the same patients have the same indices."""
    return digest_of(sorted([c["name"], c["digest"], c["patient"]] for c in site.cases))


def _task_of(entry: FinishedStage) -> str:
    """Name what a stage was run for, where several models of a stage differ in that alone."""
    general = entry.record["stage"] == "train_general"
    return f"{entry.purpose} general" if general and entry.purpose != "general" else entry.name


def time_table(compute: Mapping[str, Mapping[str, Spent]]) -> list[tuple[str, float]]:
    """Seconds by stage over all parties, the longest first: where the time went."""
    spent: dict[str, float] = defaultdict(float)
    for stages in compute.values():
        for name, numbers in stages.items():
            spent[name] += numbers.seconds
    return sorted(spent.items(), key=lambda item: -item[1])


def _transfer(parcel: ReceivedParcel) -> Transfer:
    return Transfer(**vars(parcel))


def _stage_run(entry: FinishedStage) -> StageRun:
    record = entry.record
    return StageRun(
        owner=record["owner"],
        name=entry.name,
        stage=record["stage"],
        key=record["key"],
        purpose=entry.purpose,
        seconds=record["seconds"],
        device_seconds=record["device_seconds"],
    )
