"""Names of hospitals that a reader would take for another's."""

from __future__ import annotations

import pytest

from hyfree_ray.cohorts.tables import check_site_names
from tests.refusals import refuses


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ABC", "АВС"),  # Cyrillic
        ("KOMA", "КОМА"),
        ("POTATO", "ΡΟΤΑΤΟ"),  # Greek
        ("nun", "ոսո"),  # Armenian
        ("Ina", "lna"),
        ("site-1", "site-l"),
        ("site-I", "site-1"),
        ("OP 10", "0P 1O"),
        ("Bern", "Bem"),
        ("A", "\uff21"),
        ("Zürich", "Zu\u0308rich"),
        ("Klinik", "KLINIK"),
        ("مستشفى ٣", "مستشفى ۳"),  # Arabic and Persian digits
    ],
)
def test_names_that_look_alike_are_refused(one: str, other: str) -> None:
    """Case 107."""
    check_site_names([one])
    check_site_names([other])
    with refuses("data.bad-site-name", ascii(other)):
        check_site_names([one, other])


@pytest.mark.parametrize(
    "name", ["Ch\u0430rite", "Аpple", "Inse\u03b9", "ᎪᏴᏟ", "ⲀⲂ", "\U00010282\U00010286", "рооl"]
)
def test_a_name_of_mixed_or_unusual_scripts_is_refused_alone(name: str) -> None:
    """Case 107: it could be read as another's that is not there yet."""
    with refuses("data.bad-site-name", ascii(name)):
        check_site_names([name])


@pytest.mark.parametrize(
    "name",
    ["Bern\ufe0f", "Ber\u034fn", "Bern\u3164", "Bern ", "Bern  Insel", "a" + "\u0316" * 4, ""],
    ids=ascii,
)
def test_a_name_of_which_not_all_can_be_seen_is_refused(name: str) -> None:
    """Case 107: a selector, a joiner, a filler, a space at the end, a pile of marks."""
    with refuses("data.bad-site-name", ascii(name)):
        check_site_names([name])


def test_names_of_a_whole_cohort_in_one_script_each_are_taken() -> None:
    check_site_names(
        [
            *(f"site-{number}" for number in range(1, 101)),
            *("Charité", "Insel", "Hôpital 1", "Больница", "Αθήνα", "北京協和", "東京 病院 A"),
            *("서울대", "שיבא", "مستشفى", "अस्पताल", "โรงพยาบาล", "Kvasir", "CVC-ClinicDB", "ETIS"),
        ]
    )
