"""What is shown while a run goes on."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from hyfree_ray.federation.status import FinishedStage, RunningStage, Status
from hyfree_ray.observing.progress import STILL_S, Progress, Watchdog, clock, seconds_left
from tests.stage_records import stage_record


def stage(name: str, **known: Any) -> RunningStage:
    nothing = {"first": None, "last": None, "begun": True, "takes": "1 CPU", "silent_s": 0.0}
    return RunningStage(name=name, purpose="local", **{**nothing, **known})


def running(
    step: int, first_at: float, last_at: float, name: str = "train_generator"
) -> RunningStage:
    return stage(
        name,
        first={"step": 10, "total": 100, "time": first_at},
        last={"step": step, "total": 100, "time": last_at},
    )


def finished(name: str, stage: str = "prepare") -> FinishedStage:
    record = stage_record(stage, seconds=75.0)
    return FinishedStage(name=name, purpose="local", record=record, curve=[])


def status(running: Sequence[RunningStage], finished: Sequence[FinishedStage] = ()) -> Status:
    return Status(owner="site-1", running=running, unfinished_s=0.0, finished=finished, received=[])


def test_time_left_follows_the_stages_own_pace() -> None:
    assert seconds_left(running(55, 0.0, 90.0)) == pytest.approx(90.0)
    assert seconds_left(running(10, 0.0, 90.0)) is None
    assert seconds_left(stage("x")) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_seconds_are_said_as_people_do(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_terminal_shows_a_line_a_party_and_every_stage_it_is_in() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    progress = Progress(["site-1", "pool"], 20, console)
    both = [running(55, 0.0, 90.0), running(25, 0.0, 30.0, "local")]
    progress.update(status(both, [finished("prepare")]))
    Console(file=stream, width=100).print(progress._table())
    shown = stream.getvalue()
    assert "1 of 20 stages" in shown
    assert "training the generator" in shown
    assert "training its own nnU-Net" in shown
    assert "55%" in shown
    assert "waiting" in shown


def test_without_a_terminal_each_finished_stage_is_a_line_but_scores_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("hyfree_ray"), "info", said.append)
    progress = Progress(["site-1"], 20, Console(file=io.StringIO()))
    entries = [finished("prepare"), finished("score", "score")]
    progress.update(status([], entries))
    assert said == ["site-1: planning nnU-Net: done in 75 s (1 of 20 stages)"]


def test_a_silent_stage_is_named_when_its_silence_doubles_and_many_of_a_kind_once() -> None:
    watchdog = Watchdog()

    def told(*silent: float, begun: bool = False) -> list[str]:
        stages = [
            stage("score", silent_s=STILL_S * s, begun=begun, takes="1 CPU on a machine")
            for s in silent
        ]
        return list(watchdog.lines(status(stages)))

    assert told(0.5, 0.9) == []
    (line,) = told(1.2, 0.2, 1.05)
    assert line == "site-1: scoring: no progress for 18 min: it waits for 1 CPU on a machine"
    assert told(1.3, 1.1) == told(1.9) == []
    assert len(told(2.1, 1.0)) == 1
    assert told(0.1) == []
    (line,) = told(1.3, begun=True)
    assert "has not reported since" in line
