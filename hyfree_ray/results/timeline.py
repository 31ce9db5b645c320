"""What ran when, from a run's `timeline.json`, and which stages the run waited for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyfree_ray.core.errors import HyfreeError

SESSION_GAP_S = 600.0
"""Nothing ran for as long: what came before is another session, or another run's."""
_OVERLAP_S = 0.5  # records are written a moment after the next stage may start


@dataclass(frozen=True, kw_only=True)
class Event:
    """A stage that ran."""

    name: str
    """The stage, or the role that it was called for."""
    party: str
    start: float
    """Unix seconds, as `end`."""
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


def read_timeline(folder: Path) -> tuple[Event, ...]:
    """The stages of a run's folder in the order of their start.

    Raises:
        HyfreeError: no timeline, or one that is not ours.
    """
    path = folder / "timeline.json"
    try:
        events = [
            Event(
                name=str(entry["name"]),
                party=str(entry["args"]["owner"]),
                start=entry["ts"] / 1e6,
                end=(entry["ts"] + entry["dur"]) / 1e6,
            )
            for entry in json.loads(path.read_text())
            if entry["ph"] == "X"
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HyfreeError(
            "run.damaged", f"{path}: cannot be read as a timeline ({error})"
        ) from error
    return tuple(sorted(events, key=lambda event: (event.start, event.end, event.party)))


def last_session(events: Sequence[Event]) -> tuple[Event, ...]:
    """The events after the last pause: a store may hold stages that ran days before."""
    kept: list[Event] = []
    end = float("-inf")
    for event in events:
        if event.start - end > SESSION_GAP_S:
            kept = []
        kept.append(event)
        end = max(end, event.end)
    return tuple(kept)


def critical_path(events: Sequence[Event]) -> tuple[Event, ...]:
    """The chain that the run's length is made of, in order.

    From the stage that ended last backwards: each began when the one before it on the path had
    ended, because it needed its result or its place on a device. Of several that ended before,
    the last is taken, the own party's first where they ended together.
    """
    left = sorted(events, key=lambda event: event.end)
    path: list[Event] = []
    while left:
        path.append(left[-1])
        start, party = path[-1].start, path[-1].party
        before = [e for e in left[:-1] if e.end <= start + _OVERLAP_S and e.start < start]
        left = sorted(before, key=lambda e: (round(e.end, 1), e.party == party, e.end))
    return tuple(reversed(path))
