"""A hospital knows what it has released of whom, in whatever order it is asked."""

from __future__ import annotations

from pathlib import Path

from hyfree_ray.cohorts.site_case import SiteCase
from hyfree_ray.core.documents import Documents, DryDocuments
from hyfree_ray.federation.ledger import Ledger


def cases(*patients: int, offset: int = 0) -> list[SiteCase]:
    """Two cases a patient; `offset` is another numbering of the same cases."""
    return [
        SiteCase(
            name=f"case-{patient}-{k}",
            index=2 * patient + k,
            patient=patient + offset,
            part="train",
            images=[],
            label="",
            digest=f"{patient}-{k}",
        )
        for patient in patients
        for k in range(2)
    ]


def test_releases_of_the_same_patients_are_counted_and_of_others_not(tmp_path: Path) -> None:
    ledger = Ledger(Documents(tmp_path))
    first = ledger.begin("a", cases(1, 2, 3))
    ledger.end("a", released=True)
    other = ledger.begin("b", cases(7, 8))
    ledger.end("b", released=True)
    third = ledger.begin("c", cases(3, 4))
    assert (first.before, first.attempts) == ((), 1)
    assert (other.before, other.attempts) == ((), 1)
    assert (third.before, third.attempts) == (("a",), 2)
    assert ledger.patients_of(third.before, cases(2, 3, 4, 5, offset=10)) == [12, 13]


def test_what_was_withheld_is_an_attempt_and_no_release(tmp_path: Path) -> None:
    ledger = Ledger(Documents(tmp_path))
    ledger.begin("a", cases(1))
    ledger.end("a", released=False)
    found = ledger.begin("b", cases(1))
    assert (found.before, found.attempts) == ((), 2)


def test_what_may_yet_be_released_counts_as_released(tmp_path: Path) -> None:
    """Two runs at once do not pass each other by."""
    ledger = Ledger(Documents(tmp_path))
    ledger.begin("a", cases(1))
    assert ledger.begin("b", cases(1)).before == ("a",)


def test_the_same_audit_sees_the_same_ledger_after_later_releases(tmp_path: Path) -> None:
    """Or a run that goes on would release something else than it has."""
    first = Ledger(Documents(tmp_path)).begin("a", cases(1))
    again = Ledger(Documents(tmp_path))
    again.begin("b", cases(1))
    again.end("b", released=True)
    assert again.begin("a", cases(1)) == first
    assert len(again.entries()) == 2


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(DryDocuments(tmp_path))
    ledger.begin("a", cases(1))
    assert ledger.begin("b", cases(1)).before == ("a",)
    assert list(tmp_path.iterdir()) == []
