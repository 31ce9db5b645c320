"""What the observer of a run makes of its records."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hyfree_ray.evaluation.regimes import RELEASE
from hyfree_ray.evaluation.scores import read_results
from hyfree_ray.federation.interface import PoolProgram, Receipt, Scored, SiteProgram
from hyfree_ray.federation.protocol import Outcome
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.status import FinishedStage, Status
from hyfree_ray.observing import polling as asking
from hyfree_ray.observing.description import compute_by_party, derived_by_party
from hyfree_ray.observing.observer import Observed, Observer
from hyfree_ray.observing.progress import Progress
from hyfree_ray.observing.run_folder import write_run
from hyfree_ray.results.finished import is_written
from hyfree_ray.results.summary import read_summary
from tests.stage_records import stage_record


def test_time_is_told_apart_by_what_models_and_releases_are_for() -> None:
    """own-syn draws, audits and pools as a release does; a pool trains one network in many ways."""
    made = [
        ("train_general", "general"),
        ("train_general", "leave-one-out"),
        ("train_general", "syn"),
        ("train_general", "own-syn"),
        ("audit", RELEASE),
        ("audit", "own-syn"),
    ]
    stages = []
    for stage, purpose in made:
        record = stage_record(stage, owner="a", result={"of": purpose})
        stages.append(FinishedStage(name=stage, purpose=purpose, record=record, curve=()))
    assert set(compute_by_party(stages)["a"]) == {
        "train_general",
        "leave-one-out general",
        "syn general",
        "own-syn general",
        "audit",
    }
    assert derived_by_party(stages)["a"]["audit"] == {"of": RELEASE}


class Away:
    """A party whose machine is gone: it is asked, and does not answer until it is back."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[Any]] = []

    def call(self, _method: Callable[..., Any], *_arguments: Any) -> asyncio.Future[Any]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]


class Here:
    """A party that answers, and counts how often."""

    count = 0

    def __init__(self, owner: str) -> None:
        self.status = Status(owner=owner, running=[], unfinished_s=0.0, finished=[], received=[])

    def call(self, method: Callable[..., Any], *_arguments: Any) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        if method is SiteProgram.training_pictures:
            answer.set_result({})
            return answer
        self.count += 1
        answer.set_result(replace(self.status, unfinished_s=float(self.count)))
        return answer


def test_a_party_whose_machine_is_away_is_named_and_holds_up_neither_the_others_nor_the_end(
    phantom_simulation: Callable[[int], Simulation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Case 9."""
    told: list[str] = []
    for name in ("ANSWER_S", "LAST_ANSWER_S"):
        monkeypatch.setattr(asking, name, 0.01)
    monkeypatch.setattr("hyfree_ray.observing.observer.Tracking", lambda *_: None)
    monkeypatch.setattr("hyfree_ray.observing.progress.STILL_S", 0.015)
    away, here = Away(), Here("site-2")
    parties = {"site-1": away, "site-2": here}

    async def watched() -> Observer:
        with Progress(list(parties), 9, Console(quiet=True)) as progress:
            monkeypatch.setattr(progress, "report", told.append)
            observer = Observer(phantom_simulation(2), tmp_path, progress)
            for _ in range(4):
                await observer.poll(parties)
            assert len(away.asked) == 1, "who does not answer is not asked again and again"
            away.asked[0].set_result(replace(here.status, owner="site-1", unfinished_s=5.0))
            await observer.poll(parties)
            await observer.poll(parties)
            await asyncio.wait_for(observer.poll(parties, last=True), 5)
        return observer

    observer = asyncio.run(watched())
    assert observer.observed.unfinished_s == {"site-1": 5.0, "site-2": float(here.count)}
    assert here.count == 7
    assert told[0].startswith("site-1: no answer for 0 s: its machine (the one that declares site")
    assert len(told) < 6


class Pool(Here):
    """It has no pictures."""

    def call(self, method: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        if method is not PoolProgram.picture:
            return super().call(method, *arguments)
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(None)
        return answer


@pytest.mark.parametrize("silent", ["site-1", "pool", ""])
def test_who_does_not_answer_at_the_end_is_named_and_the_folder_is_not_taken_for_whole(
    phantom_simulation: Callable[[int], Simulation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    silent: str,
) -> None:
    monkeypatch.setattr(asking, "LAST_ANSWER_S", 0.01)
    monkeypatch.setattr("hyfree_ray.observing.observer.Tracking", lambda *_: None)
    told: list[str] = []
    parties: dict[str, Any] = {name: Here(name) for name in ("site-1", "site-2")}
    parties["pool"] = Pool("pool")
    if silent:
        parties[silent] = Away()
    released = Receipt(outcome="released", images=5, rejection_rate=0.1)
    sites = dict.fromkeys(("site-1", "site-2"), released)
    outcome = Outcome(sites=sites, scores=(), general=False, chosen={})

    simulation, folder = phantom_simulation(2), tmp_path / "runs" / "R"

    async def ended() -> None:
        with Progress(list(parties), 9, Console(quiet=True)) as progress:
            monkeypatch.setattr(progress, "report", told.append)
            observer = Observer(simulation, tmp_path, progress)
            await observer.poll(parties, last=True)
            wrote = write_run(folder, simulation, observer.observed, outcome, parties)
            await asyncio.wait_for(wrote, 60)

    asyncio.run(ended())
    assert read_summary(folder).unanswered == ((silent,) if silent else ())
    assert [line.split(":")[0] for line in told if "no answer at the end" in line] == (
        [silent] if silent else []
    )
    assert is_written(folder) is not bool(silent)


def test_a_score_that_is_no_number_is_named_once_and_left_out(
    phantom_simulation: Callable[[int], Simulation],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbers = {"dice": 0.5, "hd95": math.inf, "nsd": None, "volume_error": 0.25}
    row = {"patient": 0, "case": 0, "label": "organ", "outcome": "scored", **numbers}
    scored = Scored(test_site="site-1", regime="local", train_site="site-1", rows=[row])
    sites = dict.fromkeys(("site-1", "site-2"), Receipt(outcome="released", images=5))
    outcome = Outcome(sites=sites, scores=(scored,), general=False, chosen={})
    parties: Any = {name: Pool(name) for name in (*sites, "pool")}
    asyncio.run(write_run(tmp_path, phantom_simulation(2), Observed(), outcome, parties))
    warned = [line for line in caplog.messages if "hd95" in line]
    assert len(warned) == 1
    assert {one.metric for one in read_results(tmp_path / "results.csv")} == {
        "dice",
        "volume_error",
    }
