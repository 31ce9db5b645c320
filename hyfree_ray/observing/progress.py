"""What a user sees while a run goes on: a live table on a terminal, plain lines otherwise."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hyfree_ray.evaluation.regimes import REGIMES
from hyfree_ray.federation.status import RunningStage, Status

log = logging.getLogger("hyfree_ray")

_STAGES = {
    "draw_phantom": "drawing images",
    "prepare": "planning nnU-Net",
    "train_generator": "training the generator",
    "choose_snapshot": "choosing the snapshot",
    "quality_card": "measuring quality",
    "synthesise": "sampling and filtering",
    "audit": "auditing the samples",
    "release": "labelling the release",
    "check_release": "checking releases",
    "pool_releases": "planning on the pool",
    "train_general": REGIMES["general"].progress,
    "train_fedavg": REGIMES["fedavg"].progress,
    "label_agreement": "comparing labels with the others'",
    "prepare_for_general": "preparing to fine-tune",
    "prepare_replay": "preparing to fine-tune with replay",
    "prepare_together": "planning on all real data",
    "prepare_mixture": "planning on a mixture",
    "score": "scoring",
}


def describe(name: str) -> str:
    """Return what a party does in a stage, by the stage's name or what it was called for."""
    regime = REGIMES.get(name.removesuffix(" general"))
    return _STAGES.get(name, name) if regime is None else regime.progress


def seconds_left(running: RunningStage) -> float | None:
    """Time that a running stage still needs at its own pace, from its first and last report."""
    first, last = running.first, running.last
    if not first or not last or last["step"] <= first["step"]:
        return None
    pace = (last["time"] - first["time"]) / (last["step"] - first["step"])
    return float(max(0.0, (last["total"] - last["step"]) * pace))


def clock(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan_in_words(record: Mapping[str, Any]) -> list[str]:
    """What nnU-Net planned for a party's images, and a warning where some are small for it."""
    owner, result = record["owner"], record["result"]
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


STILL_S = 900.0
"""A stage that has reported nothing for so long is named."""


class Watchdog:
    """Names stages without progress, and why, each time that their silence has doubled.

    Of a party's stages of one kind (there are many scorings) the longest silent speaks.
    """

    def __init__(self) -> None:
        self.doublings: dict[tuple[str, str], int] = {}

    def lines(self, status: Status) -> Iterator[str]:
        """What there is to say of a party's running and waiting stages."""
        longest: dict[str, RunningStage] = {}
        for stage in sorted(status.running, key=lambda stage: float(stage.silent_s)):
            longest[stage.name] = stage
        for name, stage in longest.items():
            if not self._doubled((status.owner, name), stage.silent_s):
                continue
            why = (
                "it was started and has not reported since"
                if stage.begun
                else f"it waits for {stage.takes}"
            )
            words, long = describe(name), clock(stage.silent_s)
            yield f"{status.owner}: {words}: no progress for {long}: {why}"

    def of_a_party(self, owner: str, silent_s: float) -> Iterator[str]:
        """What there is to say of a party that does not answer, or did at once: 0."""
        if self._doubled((owner, ""), silent_s):
            why = f"its machine (where one declares site:{owner}, that one) is away"
            yield f"{owner}: no answer for {clock(silent_s)}: {why}, or its process starts anew"

    def _doubled(self, about: tuple[str, str], silent_s: float) -> bool:
        """Whether a silence is long enough to speak of it, again."""
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
    """

    def __init__(self, parties: Sequence[str], total: int, console: Console) -> None:
        self.parties = list(parties)
        self.total = total
        self.done = 0
        self.console = console
        self.started = time.monotonic()
        self.states: dict[str, Sequence[RunningStage]] = {name: [] for name in self.parties}
        self.finished: dict[str, int] = dict.fromkeys(self.parties, 0)
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
            if not self.live and entry.record["stage"] != "score":
                words = describe(entry.name)
                took = clock(entry.record["seconds"])
                log.info(f"{owner}: {words}: done in {took} ({self.done} of {self.total} stages)")
        if self.live:
            self.live.update(self._table())

    def tell(self, message: str) -> None:
        """Say one line that stays."""
        if self.live:
            self.console.print(Text(message))
        else:
            log.info(message)

    def _table(self) -> Table:
        elapsed = clock(time.monotonic() - self.started)
        table = Table(title=f"{self.done} of {self.total} stages, {elapsed}", title_justify="left")
        for column in ("party", "doing", "how far", "left"):
            table.add_column(column, no_wrap=True)
        for name in self.parties:
            states = self.states[name]
            table.add_row(
                Text(name),
                "\n".join(describe(s.name) for s in states) or "waiting",
                "\n".join(_bar(state) for state in states),
                "\n".join(_left(state) for state in states),
            )
        return table


def _bar(state: RunningStage) -> str:
    last = state.last
    if not last or not last["total"]:
        return "…"
    share = last["step"] / last["total"]
    filled = round(share * 16)
    return f"{'━' * filled}{'─' * (16 - filled)} {share:4.0%}"


def _left(state: RunningStage) -> str:
    seconds = seconds_left(state)
    return "" if seconds is None else clock(seconds)
