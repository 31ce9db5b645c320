"""The simulation's observer: watches the parties and shows how far they are, gives them nothing.

It gets no real image and no name of a case or patient: parties report records, curves and numbers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hyfree_ray.core.log import is_verbose
from hyfree_ray.federation.interface import Handle
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.status import FinishedStage, ReceivedParcel, Status
from hyfree_ray.observing.background import Tracking, finish_tracking, pictures_of
from hyfree_ray.observing.polling import Poller
from hyfree_ray.observing.progress import Progress, Watchdog, format_derived
from hyfree_ray.results.summary import read_summary

log = logging.getLogger("hyfree_ray")

POLL_S = 1.0


@dataclass(kw_only=True)
class Observed:
    """What parties have reported of a run until now."""

    stages: dict[tuple[str, str], FinishedStage] = field(default_factory=dict)
    """By owner and key: two parties may have made the same."""
    received: dict[tuple[str, str], ReceivedParcel] = field(default_factory=dict)
    """By receiver and key."""
    unfinished_s: dict[str, float] = field(default_factory=dict)
    """By party, seconds that went into stages without an end."""
    unanswered: tuple[str, ...] = ()
    """Parties that were silent when the run was over."""


class Observer:
    """Watches one run.

    Args:
        simulation: the run.
        store: the store's root.
        progress: where to show how far parties are.
    """

    def __init__(self, simulation: Simulation, store: Path, progress: Progress) -> None:
        self.progress = progress
        self.observed = Observed()
        self._known = defaultdict[str, tuple[set[str], set[str]]](lambda: (set(), set()))
        """By party, the keys of stages and of parcels that it need not report again."""
        settings = simulation.experiment.model_dump(mode="json")
        self._tracking = Tracking(store, simulation.run, simulation.cohort, settings)
        self._generator_shown = False
        self._watchdog = Watchdog()
        self._poller = Poller()

    async def watch(self, parties: Mapping[str, Handle]) -> None:
        """Poll the parties until cancelled."""
        while True:
            try:
                await self.poll(parties)
            except Exception as error:  # what is watched matters more than the watching
                log.warning("progress cannot be shown for now (%s)", type(error).__name__)
            await asyncio.sleep(POLL_S)

    async def poll(self, parties: Mapping[str, Handle], *, last: bool = False) -> None:
        """Ask each party for what is new; who does not answer soon is left for the next time.

        Args:
            parties: all.
            last: the run is over; all that there is to report is reported now, or not at all.
        """
        answers, silent_s = await self._poller.ask(parties, self._known, last=last)
        for owner in parties:
            for line in self._watchdog.of_a_party(owner, silent_s.get(owner, 0.0)):
                self.progress.report(line)
            if owner in answers:
                self._take_in(owner, answers[owner].result())
        if last:
            self.observed.unanswered = tuple(owner for owner in parties if owner not in answers)
            for owner in self.observed.unanswered:
                self.progress.report(
                    f"{owner}: no answer at the end, so the run's folder lacks its last results; "
                    "run the same command again when its machine is back"
                )

    def _take_in(self, owner: str, status: Status) -> None:
        """Note and show what a party has reported."""
        stages, parcels = self._known[owner]
        fresh = [stage for stage in status.finished if stage.record.key not in stages]
        self.observed.unfinished_s[owner] = status.unfinished_s
        for stage in fresh:
            self.observed.stages[owner, stage.record.key] = stage
            stages.add(stage.record.key)
            self._show_derived(stage)
            # Scores are in the table; a release is shown with its picture, at the end.
            if stage.name not in {"score", "release"}:
                self._track(stage, {})
        for parcel in status.received:
            self.observed.received[owner, parcel.key] = parcel
            parcels.add(parcel.key)
        self.progress.update(replace(status, finished=fresh))
        for line in self._watchdog.lines(status):
            self.progress.report(line)

    def _show_derived(self, stage: FinishedStage) -> None:
        """Show what followed from a site's data where details, or a warning, are due.

        A generator's steps are shown once, they are rules. All of it is in the run's report.
        """
        if stage.record.stage == "train_generator":
            if self._generator_shown:
                return
            self._generator_shown = True
        for line in format_derived(stage.record):
            if is_verbose() or "warning: " in line:
                self.progress.report(line)

    def _track(self, stage: FinishedStage, pictures: Mapping[str, Path]) -> None:
        record = stage.record.model_copy(update={"stage": stage.name})
        self._tracking.hand("stage_finished", record, stage.curve, pictures)

    def show(self, folder: Path) -> None:
        """Show the written run in MLflow, with the pictures of its releases."""
        for stage in self.observed.stages.values():
            if stage.name == "release":
                self._track(stage, pictures_of(folder, stage.record.owner))
        finish_tracking(self._tracking, folder, read_summary(folder))
