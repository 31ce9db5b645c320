"""What a user sees while a run goes on: a live table on a terminal, plain lines otherwise."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hyfree_ray.core.records import StageRecord
from hyfree_ray.evaluation.regimes import RELEASE, record_of
from hyfree_ray.federation.status import RunningStage, Status
from hyfree_ray.observing.time_left import TimeLeft
from hyfree_ray.results.summary import StageRun

log = logging.getLogger("hyfree_ray")

_STAGES = {
    "draw_phantom": "drawing images",
    "prepare": "planning nnU-Net",
    "train_generator": "training the generator",
    "choose_snapshot": "choosing the snapshot",
    "overtrain_generator": "making copies to test the filter",
    "quality_card": "measuring quality",
    "synthesise": "sampling and filtering",
    "pixel_correlation": "correlating samples with images",
    "training_samples": "drawing from each snapshot",
    "audit": "auditing the samples",
    "patient_risk": "measuring patients' risk",
    "audit_labels": "auditing the labels",
    "audit_general": "auditing the general model",
    "label": "labelling the release",
    "release": "packing the release",
    "check_release": "checking releases",
    "model_of_site": "taking a hospital's network",
    "ensemble": "averaging networks",
    "label_public": "labelling public images",
    "pair_public": "checking labels of public images",
    "pool_releases": "planning on the pool",
    "label_agreement": "comparing labels with the others'",
    "prepare_for_general": "preparing to fine-tune",
    "prepare_replay": "preparing to fine-tune with replay",
    "prepare_together": "planning on all real data",
    "prepare_augmented": "preparing real and own synthetic images",
    "prepare_mixture": "planning on a mixture",
    "score": "scoring",
}


def describe(name: str, purpose: str) -> str:
    """Return what a party does in a stage: of a training, what for.

    Args:
        name: the stage's, or the role that it was called for.
        purpose: the regime that it is for, or `RELEASE`.
    """
    known = _STAGES.get(name)
    return known or (name if purpose == RELEASE else record_of(purpose).progress)


def time_by_task(stages: Iterable[StageRun]) -> list[tuple[str, float]]:
    """Sum seconds by what was done, the longest first: where the time went."""
    spent: dict[str, float] = defaultdict(float)
    for stage in stages:
        spent[describe(stage.name, stage.purpose)] += stage.seconds
    return sorted(spent.items(), key=lambda item: -item[1])


def seconds_left(running: RunningStage) -> float | None:
    """Return the time that a running stage still needs at its own pace."""
    first, last = running.first, running.last
    if not first or not last or last["step"] <= first["step"]:
        return None
    pace = (last["time"] - first["time"]) / (last["step"] - first["step"])
    return float(max(0.0, (last["total"] - last["step"]) * pace))


def clock(seconds: float) -> str:
    """Write seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_plan(record: StageRecord) -> list[str]:
    """Return what nnU-Net planned for a party's images, with a warning where some are small."""
    owner, result = record.owner, record.result
    patch, spacing = result["patch_size"], result["spacing"]
    images = result.get("training_images", result.get("images"))
    lines = [
        f"{owner}: {images} images; nnU-Net's plan: patch {patch[0]}x{patch[1]}, "
        f"spacing {spacing[0]:.2f}x{spacing[1]:.2f} mm, {len(result['strides'])} stages, "
        f"batch {result['batch_size']}"
    ]
    if result.get("smaller_than_patch"):
        lines.append(
            f"{owner}: warning: {result['smaller_than_patch']} images are smaller than the patch; "
            "they are padded with the lowest intensity"
        )
    return lines


def format_derived(record: StageRecord) -> list[str]:
    """Return what followed from a party's data in a stage, line by line; mostly nothing did."""
    owner, result = record.owner, record.result
    if record.stage in {"prepare", "pool_releases"}:
        return format_plan(record)
    if record.stage == "train_generator":
        steps = [f"  {step}" for step in result["derivation"]]
        return [f"{owner}: its generator, derived from that plan:", *steps]
    if record.stage != "choose_snapshot":
        return []
    cost = ""
    if "seconds" in result:
        cost = f" ({result['seconds'] / result['training_seconds']:.1%} of the training's time)"
    snapshot = int(result["snapshot"].split(".")[0])
    return [f"{owner}: snapshot {snapshot} of its generator: {result['reason']}{cost}"]


STILL_S = 900.0
"""A stage that has reported nothing for so long is named."""


class Watchdog:
    """Names stages without progress, and why, each time that their silence has doubled.

    Of a party's stages of one kind (there are many scorings) the longest silent speaks. A stage
    that waits for its turn is as it should be while any other runs.
    """

    def __init__(self) -> None:
        self.doublings: dict[tuple[str, str], int] = {}
        self._busy: dict[str, bool] = {}

    def lines(self, status: Status) -> Iterator[str]:
        """Return what there is to say of a party's running and waiting stages."""
        self._busy[status.owner] = any(stage.begun for stage in status.running)
        longest: dict[str, RunningStage] = {}
        for stage in sorted(status.running, key=lambda stage: float(stage.silent_s)):
            longest[describe(stage.name, stage.purpose)] = stage
        for task, stage in longest.items():
            if not stage.begun and any(self._busy.values()):
                continue
            if not self._doubled((status.owner, task), stage.silent_s):
                continue
            why = (
                "it has not reported since it started"
                if stage.begun
                else f"it waits for {stage.takes}"
            )
            silence = clock(stage.silent_s)
            yield f"{status.owner}: {task}: no progress for {silence}: {why}"

    def of_a_party(self, owner: str, silent_s: float) -> Iterator[str]:
        """Return what there is to say of a party that does not answer, or did at once: 0."""
        if self._doubled((owner, ""), silent_s):
            why = f"its machine (the one that declares site:{owner}, if any) is unreachable"
            yield f"{owner}: no answer for {clock(silent_s)}: {why}, or its process is restarting"

    def _doubled(self, about: tuple[str, str], silent_s: float) -> bool:
        """Return whether a silence is long enough to speak of it, again."""
        if silent_s < STILL_S:
            self.doublings.pop(about, None)
            return False
        doublings = int(math.log2(silent_s / STILL_S))
        if self.doublings.get(about, -1) >= doublings:
            return False
        self.doublings[about] = doublings
        return True


class Progress:
    """Shows how far each party is.

    Args:
        parties: their names, in the order of the lines.
        total: stages that the run consists of.
        console: where to; live if it is a terminal.
        time_left: of the whole run; None: nothing is known of it.
        scorings: stages of `total` that score models, which are one line together.
    """

    def __init__(
        self,
        parties: Sequence[str],
        total: int,
        console: Console,
        *,
        time_left: TimeLeft | None = None,
        scorings: int = 0,
    ) -> None:
        self.parties = list(parties)
        self.total = total
        self.done = 0
        self.console = console
        self.started = time.monotonic()
        self.states: dict[str, Sequence[RunningStage]] = {name: [] for name in self.parties}
        self.finished: dict[str, int] = dict.fromkeys(self.parties, 0)
        self._time_left = time_left
        self._scorings, self._scored, self._scoring_s = scorings, 0, 0.0
        self.live = (
            Live(self._table(), console=console, refresh_per_second=2, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def update(self, status: Status) -> None:
        """Take in a party's status."""
        owner = status.owner
        self.states[owner] = status.running
        for entry in status.finished:
            self.done += 1
            self.finished[owner] += 1
            ran = self._time_left is None or self._time_left.finished(owner, entry.record)
            words, seconds = describe(entry.name, entry.purpose), entry.record.seconds
            if entry.record.stage != "score" and ran:
                self._say(f"{owner}: {words}: done in {clock(seconds)}")
            if entry.record.stage == "score":
                self._scored += 1
                self._scoring_s += seconds if ran else 0.0
                if self._scored == self._scorings:
                    self._say(f"{words} {self._scored} times: done in {clock(self._scoring_s)}")
        if self.live:
            self.live.update(self._table())

    def report(self, message: str) -> None:
        """Show one line that stays."""
        if self.live:
            self.console.print(Text(message))
        else:
            log.info(message)

    def _say(self, what: str) -> None:
        """Log that something is done, where no table shows it."""
        if not self.live:
            left = self._left()
            log.info(f"{what} ({self.done} of {self.total} stages{left and f', {left}'})")

    def _idle(self) -> str:
        """Return why a party does nothing."""
        if self.done >= self.total:
            return "done"
        return "waiting for the others" if self.done else "starting"

    def _left(self) -> str:
        """Return how long the run still takes; empty where nobody knows."""
        if self._time_left is None or self.done >= self.total:
            return ""
        seconds = self._time_left.seconds(time.monotonic() - self.started)
        return "" if seconds is None else f"about {clock(max(1.0, seconds))} left"

    def _table(self) -> Table:
        elapsed, left = clock(time.monotonic() - self.started), self._left()
        title = f"{self.done} of {self.total} stages, {elapsed}{left and f'; {left}'}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in ("party", "done", "doing", "how far", "left"):
            table.add_column(column, no_wrap=True, justify="right" if column == "done" else "left")
        for name in self.parties:
            doing, bar, left = _line(self.states[name]) or (self._idle(), "", "")
            table.add_row(Text(name), str(self.finished[name]), doing, bar, left)
        return table


def _line(states: Sequence[RunningStage]) -> tuple[str, str, str] | None:
    """Return what a party does, how far it is and how long that takes: of several the longest."""
    if not states:
        return None
    begun = [state for state in states if state.begun] or list(states)
    longest = max(begun, key=lambda state: seconds_left(state) or 0.0)
    more = f" and {len(states) - 1} more" if len(states) > 1 else ""
    if not longest.begun:
        return f"{describe(longest.name, longest.purpose)}{more}", "waiting for its turn", ""
    seconds = seconds_left(longest)
    left = "" if seconds is None else clock(seconds)
    return f"{describe(longest.name, longest.purpose)}{more}", _bar(longest), left


def _bar(state: RunningStage) -> str:
    last = state.last
    if not last or not last["total"]:
        return "…"
    share = last["step"] / last["total"]
    filled = round(share * 16)
    return f"{'━' * filled}{'─' * (16 - filled)} {share:4.0%}"
