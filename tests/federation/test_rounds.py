"""The pool's ledger by itself: who is in, who was in, who waits and who has left."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from hyfree_ray.core.documents import Documents, DryDocuments
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.federation import rounds as module
from hyfree_ray.federation.interface import Receipt, Round
from hyfree_ray.federation.participation import Rules
from hyfree_ray.federation.rounds import Entry, Rounds


def rounds(root: Path, *, dry: bool = False) -> Rounds:
    documents = DryDocuments(root) if dry else Documents(root)
    return Rounds(documents, "e" * 64, "t" * 64)


def released(site: str) -> Entry:
    return Entry(site=site, outcome="released", release=f"key of {site}", images=6)


def test_a_round_is_of_the_releases_that_are_in_whatever_order_they_came_in(tmp_path: Path) -> None:
    ledger = rounds(tmp_path)
    for site in ("b", "c", "a"):
        ledger.enter(released(site))
    ledger.enter(Entry(site="d", outcome="withheld", reason="too small"))
    closed = ledger.close(["d", "c", "b", "a"])
    assert closed == Round(number=1, releases={site: f"key of {site}" for site in "abc"})
    assert list(closed.releases) == ["a", "b", "c"]


def test_a_closed_round_is_only_read_by_whoever_comes_later(tmp_path: Path) -> None:
    first = rounds(tmp_path)
    for site in "ab":
        first.enter(released(site))
    late = {"c": Receipt(outcome="late", reason="its release had not arrived at the deadline")}
    closed = first.close(["a", "b"], Rules(min_sites=2), late)
    again = rounds(tmp_path)
    again.enter(released("c"))
    assert again.close(["a", "b", "c"]) == closed == again.latest()
    assert again.latest().left_out == late


def test_a_next_round_takes_in_who_came_late_and_refuses_to_be_the_same(tmp_path: Path) -> None:
    ledger = rounds(tmp_path)
    for site in "ab":
        ledger.enter(released(site))
    ledger.close(["a", "b"])
    with pytest.raises(HyfreeError) as caught:
        ledger.close(["a", "b"], Rules(next_round=True))
    assert caught.value.code == "round.nothing-new"
    ledger.enter(released("c"))
    second = ledger.close(["a", "b", "c"], Rules(next_round=True))
    assert (second.number, list(second.releases)) == (2, ["a", "b", "c"])


def test_fewer_than_two_releases_make_a_round_of_none(tmp_path: Path) -> None:
    ledger = rounds(tmp_path)
    ledger.enter(released("a"))
    assert ledger.close(["a"]) == Round(number=1, alone={"a": "key of a"})
    assert ledger.close_with_late(["a"]) == {}


def test_fewer_releases_than_the_rules_want_close_nothing(tmp_path: Path) -> None:
    ledger = rounds(tmp_path)
    for site in "ab":
        ledger.enter(released(site))
    with pytest.raises(HyfreeError) as caught:
        ledger.close(["a", "b"], Rules(min_sites=3))
    assert caught.value.code == "round.too-few-releases"
    assert ledger.latest() == Round(number=0)


def test_who_withdraws_is_in_no_later_round_of_any_experiment_on_the_task(tmp_path: Path) -> None:
    ledger = rounds(tmp_path)
    for site in "abc":
        ledger.enter(released(site))
    ledger.close(["a", "b", "c"])
    assert ledger.withdraw(["b"]) == ["b"]
    assert list(ledger.close(["a", "c"]).releases) == ["a", "c"]
    other = Rounds(Documents(tmp_path), "f" * 64, "t" * 64)
    assert other.withdrawn() == {"b"}
    assert Rounds(Documents(tmp_path), "e" * 64, "another task").withdrawn() == set()


def test_a_release_that_is_in_is_not_replaced_by_what_comes_after_it(tmp_path: Path) -> None:
    ledger = rounds(tmp_path)
    ledger.enter(released("a"))
    ledger.enter(Entry(site="a", outcome="refused", reason="another one"))
    found = rounds(tmp_path).entry("a")
    assert found is not None
    assert found.receipt == Receipt(outcome="released", images=6)


def test_a_dry_run_closes_withdraws_and_enters_without_writing(tmp_path: Path) -> None:
    ledger = rounds(tmp_path / "store", dry=True)
    for site in "ab":
        ledger.enter(released(site))
    ledger.withdraw(["c"])
    assert list(ledger.close(["a", "b"]).releases) == ["a", "b"]
    assert ledger.latest().number == 1
    assert ledger.withdrawn() == {"c"}
    assert not (tmp_path / "store").exists()


def test_two_drivers_that_wait_at_the_same_time_count_each_second_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [5000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    both = [rounds(tmp_path) for _ in range(2)]
    for one in both:
        assert one.add_waiting(0.0, False) == 0
    for _ in range(4):
        now[0] += 5
        waited = [one.add_waiting(5.0, False) for one in both]
    assert waited == [20, 20]
    now[0] += 3600  # nobody runs
    again = rounds(tmp_path)
    assert again.add_waiting(0.0, False) == 20
    now[0] += 5
    assert again.add_waiting(5.0, False) == 25
    (clock,) = tmp_path.glob("rounds/*/1.clock.json")
    clock.write_text(json.dumps({"seconds": 25.0, "at": 9e9, "boot": "before it was started anew"}))
    assert again.add_waiting(5.0, False) == 30


def test_hospitals_that_are_called_by_numbers_are_not_taken_for_rounds_in_a_dry_run(
    tmp_path: Path,
) -> None:
    ledger = rounds(tmp_path, dry=True)
    for site in ("7", "12"):
        ledger.enter(released(site))
    assert ledger.latest() == Round(number=0)
    assert list(ledger.close(["7", "12"]).releases) == ["12", "7"]
