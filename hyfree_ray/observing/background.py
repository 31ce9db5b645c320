"""What MLflow is to show of a run, handed to it in the background: it may be slow, or hang."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyfree_ray.results.finished import mark_shown, training_samples
from hyfree_ray.results.summary import Summary

log = logging.getLogger("hyfree_ray")

PATIENCE_S = 120.0
"""How long a finished run waits for MLflow to catch up before it ends without it."""


class Tracking:
    """Hands what is observed to MLflow from a thread of its own, in order.

    Importing MLflow takes seconds and its database may hang: neither may hold up a run.
    """

    def __init__(self, store: Path, run: str, cohort: str, experiment: Mapping[str, Any]) -> None:
        self.healthy = True
        self._queue: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue()
        arguments = (store, run, cohort, _flat(experiment))
        # A daemon: the process may end while MLflow hangs.
        self._thread = threading.Thread(target=self._work, args=arguments, daemon=True)
        self._thread.start()

    def hand(self, method: str, *arguments: Any) -> None:
        """Queue a call of a `Tracker`'s method."""
        self._queue.put((method, arguments))

    def close(self) -> bool:
        """Wait until all is handed over, and return whether MLflow shows it."""
        self._queue.put(None)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            log.warning("MLflow does not answer; run the same command again to bring it up to date")
            return False
        return self.healthy

    def _work(self, *arguments: Any) -> None:
        from hyfree_ray.observing.mlflow import Tracker

        tracker = Tracker(*arguments)
        while (item := self._queue.get()) is not None:
            method, handed = item
            getattr(tracker, method)(*handed)
        self.healthy = tracker.healthy


def attach_report(store: Path, run: str, cohort: str, page: Path) -> None:
    """Add a finished run's report to what MLflow shows of it; where it cannot, it says so."""
    tracking = Tracking(store, run, cohort, {})
    tracking.hand("attach_report", page)
    tracking.close()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def pictures_of(folder: Path, site: str) -> dict[str, Path]:
    """Return the pictures that a run's folder has of a site's release."""
    picture = folder / "samples" / f"{site}.png"
    return {"samples": picture} if picture.exists() else {}


def finish_tracking(tracking: Tracking, folder: Path, summary: Summary) -> None:
    """Hand over the table as it was written and the run's files; note that MLflow shows them."""
    files = [folder / name for name in ("results.csv", "timeline.json")]
    table = (folder / "table.txt").read_text()
    samples = sorted((folder / "samples").iterdir())
    tracking.hand("finish", summary, table, [*files, *samples])
    for site, pictures in training_samples(folder).items():
        tracking.hand("show_samples", site, pictures)
    if tracking.close():
        mark_shown(folder)
