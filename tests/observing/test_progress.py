"""What is shown while a run goes on."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from hyfree_ray.federation.status import FinishedStage, RunningStage, Status
from hyfree_ray.observing.progress import STILL_S, Progress, Watchdog, clock, seconds_left
from hyfree_ray.observing.time_left import TimeLeft
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


def screen(progress: Progress, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(progress._table())
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_terminal_shows_one_line_a_party_at_80_columns() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    progress = Progress(["site-1", "site-2", "pool"], 20, console)
    both = [running(55, 0.0, 90.0), running(25, 0.0, 30.0, "local")]
    progress.update(status(both, [finished("prepare")]))
    progress.update(Status(**{**vars(status([stage("score", begun=False)])), "owner": "site-2"}))
    title, header, first, second, pool = screen(progress, 80)
    assert title.startswith("1 of 20 stages")
    assert header.split()[:3] == ["party", "done", "doing"]
    assert first.split()[:5] == ["site-1", "1", "training", "its", "own"]  # it takes longer
    assert "and 1 more" in first
    assert first.endswith("2 min")
    assert "25%" in first
    assert "waiting for its turn" in second
    assert "waiting for the others" in pool
    assert "…" not in "".join((first, second, pool))


def time_left(expected: dict[tuple[str, str], float | None]) -> TimeLeft:
    """Of a run whose stages all train, two at a time."""
    return TimeLeft(expected, dict.fromkeys(expected, "train"), parallel=2)


def test_the_time_left_of_the_whole_run_is_shown_and_follows_its_pace() -> None:
    left = time_left({("site-1", "a"): 30.0, ("site-1", "b"): 30.0, ("pool", "c"): 40.0})
    assert left.seconds(0.0) == pytest.approx(50.0)
    assert left.finished("site-1", stage_record(key="a"))
    assert not left.finished("site-9", stage_record(key="done before"))
    assert left.seconds(30.0) == pytest.approx(70.0 * 35.0 / 40.0)  # slower than was hoped
    left.finished("site-1", stage_record(key="b"))
    left.finished("pool", stage_record(key="c"))
    assert left.seconds(99.0) == pytest.approx(0.0)


def test_a_stage_whose_key_was_not_expected_takes_the_place_of_one_of_its_kind() -> None:
    """Where a site withholds, the pool's training and all that follows have other keys."""
    left = time_left({("pool", "a"): 40.0, ("site-1", "b"): 60.0})
    assert left.finished("pool", stage_record(key="of fewer releases", ended=time.time() + 1))
    assert left.seconds(10.0) == pytest.approx(60.0 * 15.0 / 50.0)
    assert left.finished("pool", stage_record(key="one more", ended=time.time() + 1))


def test_of_a_run_of_which_nothing_was_known_its_own_stages_tell() -> None:
    left = time_left({("a", str(number)): None for number in range(20)})
    assert left.seconds(3.0) is None
    for number in range(5):
        left.finished("a", stage_record(key=str(number)))
    assert left.seconds(10.0) == pytest.approx(30.0)


def test_without_a_terminal_each_finished_stage_is_a_line_and_all_scores_are_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("hyfree_ray"), "info", said.append)
    progress = Progress(["site-1"], 3, Console(file=io.StringIO()), scorings=2)
    scores = [finished("score", "score"), finished("score", "score")]
    progress.update(status([], [finished("prepare"), scores[0]]))
    assert said == ["site-1: planning nnU-Net: done in 75 s (1 of 3 stages)"]
    progress.update(status([], [scores[1]]))
    assert said[1:] == ["scoring 2 times: done in 2 min (3 of 3 stages)"]


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


def test_a_stage_that_waits_for_its_turn_is_no_news_while_another_runs() -> None:
    watchdog = Watchdog()
    list(watchdog.lines(Status(**{**vars(status([stage("local")])), "owner": "site-2"})))
    waits = status([stage("score", silent_s=4 * STILL_S, begun=False)])
    assert list(watchdog.lines(waits)) == []
    list(watchdog.lines(Status(**{**vars(status([])), "owner": "site-2"})))
    (line,) = watchdog.lines(waits)
    assert "it waits for 1 CPU" in line
