"""What the observer of a run makes of its records."""

from __future__ import annotations

from hyfree_ray.observer import of_the_release, what_for


def entry(stage: str, key: str, owner: str = "pool", **record: object) -> dict:
    told = {"stage": stage, "key": key, "owner": owner, "inputs": {}, "params": {}, **record}
    return {"name": stage, "record": told}


def test_a_general_model_is_told_from_those_of_other_settings() -> None:
    pooled = [
        entry("pool_releases", "all", params={"sites": ["a", "b", "c"]}),
        entry("pool_releases", "two", params={"sites": ["a", "b"]}),
        entry("pool_releases", "one", params={"sites": ["a"]}),
        entry("pool_releases", "own", owner="a", params={"sites": ["a"]}),
    ]
    trained = {
        prepared: entry("train_general", f"on-{prepared}", inputs={"prepared": prepared})
        for prepared in ("all", "two", "one")
    }
    own = entry("train_general", "on-own", owner="a", inputs={"prepared": "own"})
    everything = [*pooled, *trained.values(), own]
    assert what_for(trained["all"], everything) == "train_general"
    assert what_for(trained["two"], everything) == "leave-one-out general"
    assert what_for(trained["one"], everything) == "syn general"
    assert what_for(own, everything) == "own-syn general"
    assert what_for(entry("synthesise", "s"), everything) == "synthesise"
    assert what_for(trained["all"], [trained["all"]]) == "train_general"


def test_the_card_that_is_shown_is_that_of_the_samples_that_left() -> None:
    """own-syn draws twice as many and audits them too, before or after."""
    made = [
        entry("synthesise", "once", "a", params={"quota": 40}),
        entry("synthesise", "twice", "a", params={"quota": 80}),
        entry("audit", "of-once", "a", inputs={"samples": "once"}),
        entry("audit", "of-twice", "a", inputs={"samples": "twice"}),
        entry("quality_card", "card", "a", inputs={"samples": "once"}),
    ]
    entries = {(one["record"]["owner"], one["record"]["key"]): one for one in made}
    told = [one["record"]["key"] for one in made[2:] if of_the_release(one["record"], entries, 40)]
    assert told == ["of-once", "card"]
