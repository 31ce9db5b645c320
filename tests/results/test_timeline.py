from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyfree_ray.results.timeline import Event, critical_path, last_session, read_timeline
from tests.refusals import refuses


def event(name: str, party: str, start: float, end: float) -> Event:
    return Event(name=name, party=party, start=start, end=end)


GENERATOR = event("train_generator", "a", 10, 60)
RELEASE = event("release", "a", 60, 80)
SHORT = event("release", "b", 20, 40)
GENERAL = event("train_general", "pool", 80.2, 200)
TUNED = event("finetuned", "b", 200, 230)
SCORE = event("score", "a", 230, 240)
ALL = (event("prepare", "a", 0, 10), SHORT, GENERATOR, RELEASE, GENERAL, TUNED, SCORE)


def test_the_critical_path_is_what_the_run_waited_for() -> None:
    path = critical_path(ALL)
    assert path == (ALL[0], GENERATOR, RELEASE, GENERAL, TUNED, SCORE)
    assert sum(one.seconds for one in path) == pytest.approx(240, abs=1)


def test_of_two_that_ended_together_the_own_partys_is_taken() -> None:
    twin = event("release", "b", 50, 80)
    follow = event("finetuned", "a", 80, 90)
    assert critical_path((twin, RELEASE, follow))[-2:] == (RELEASE, follow)


def test_stages_of_another_session_are_left_out() -> None:
    days_ago = event("train_generator", "b", -90_000, -80_000)
    assert last_session((days_ago, *ALL)) == ALL
    assert last_session(()) == ()
    assert critical_path(()) == ()


def test_a_timeline_is_read_as_an_observer_writes_it(tmp_path: Path) -> None:
    entry = {
        "name": "local",
        "ph": "X",
        "ts": 5_000_000,
        "dur": 2_500_000,
        "args": {"owner": "a", "device": "cpu"},
    }
    title = {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": "a"}}
    path = tmp_path / "timeline.json"
    path.write_text(json.dumps([title, entry]))
    assert read_timeline(tmp_path) == (event("local", "a", 5.0, 7.5),)
    path.write_text('[{"ph": "X"}]')
    with refuses("run.damaged", str(path)):
        read_timeline(tmp_path)
