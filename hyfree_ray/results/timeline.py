"""What ran when, from a run's `timeline.json`, and which stages the run waited for."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import write_json
from hyfree_ray.core.records import StageRecord

TIMELINE = "timeline.json"

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


def write_timeline(
    folder: Path, parties: Sequence[str], stages: Iterable[tuple[str, StageRecord]]
) -> None:
    """Write Chrome's trace format: one complete event a stage, one process row a party.

    Args:
        folder: of the run.
        parties: all, in the order of the rows.
        stages: the name of each and its record.
    """
    parties = list(parties)
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": row, "args": {"name": party}}
        for row, party in enumerate(parties)
    ]
    # A stage that was killed, or was preempted, is drawn in parts.
    parts = [
        (start, end, name, record)
        for name, record in stages
        for start, end in (*record.earlier, (record.started, record.ended))
    ]
    ends: dict[str, list[float]] = defaultdict(list)
    for start, end, name, record in sorted(parts, key=lambda part: part[0]):
        # What overlaps is drawn below each other, in the first row of its party that is free.
        rows = ends[record.owner]
        lane = next((k for k, before in enumerate(rows) if before <= start), len(rows))
        rows[lane : lane + 1] = [end]
        events.append(
            {
                "name": name,
                "cat": record.stage,
                "ph": "X",
                "ts": round(start * 1e6),
                "dur": round((end - start) * 1e6),
                "pid": parties.index(record.owner),
                "tid": lane,
                "args": {"owner": record.owner, "device": record.device},
            }
        )
    write_json(folder / TIMELINE, events)


def read_timeline(folder: Path) -> tuple[Event, ...]:
    """Read the stages of a run's folder, in the order of their start.

    Raises:
        HyfreeError: no timeline, or one that is not ours.
    """
    path = folder / TIMELINE
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
    """Return the events after the last pause: a store may hold stages that ran days before."""
    session: list[Event] = []
    end = float("-inf")
    for event in events:
        if event.start - end > SESSION_GAP_S:
            session = []
        session.append(event)
        end = max(end, event.end)
    return tuple(session)


def critical_path(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return the chain that the run's length is made of, in order.

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
