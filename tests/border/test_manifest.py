"""A manifest and a notice are read strictly: every value of the type and range that is expected."""

from __future__ import annotations

import pytest

from hyfree_ray.border.manifest import Addressee, Manifest, key_of, parse_manifest
from hyfree_ray.border.withheld import Notice, read_notice
from hyfree_ray.core.errors import ReleaseError

MANIFEST = Manifest(
    site="A", experiment="e", round=1, nonce="n", rows=6, sha256="0f" * 32, bytes=4242
).to_json()
NOTICE = Notice.of("A", "e", "too small", 0.5).to_json()

NO_COUNTS = (
    *("NaN", "Infinity", "1e999", "-1", "true", "6.0", "null", "[6]", '"6"', '{"a": 6}'),
    *("9" * 5000, "[" * 100_000),
)


@pytest.mark.parametrize("value", NO_COUNTS, ids=lambda value: value[:8])
def test_a_count_that_is_none_is_refused(value: str) -> None:
    """Case 53."""
    text = MANIFEST.replace('"rows": 6', f'"rows": {value}')
    assert text != MANIFEST
    with pytest.raises(ReleaseError) as caught:
        parse_manifest(text.encode())
    assert caught.value.rule == "manifest"


@pytest.mark.parametrize("value", ["NaN", "true", "1.5", "-0.1", "1e999", '"0.5"'])
def test_a_share_that_is_none_is_refused(value: str) -> None:
    """Case 53."""
    text = NOTICE.replace('"rejection_rate": 0.5', f'"rejection_rate": {value}')
    assert text != NOTICE
    with pytest.raises(ReleaseError) as caught:
        read_notice(text.encode(), site="A", experiment="e")
    assert caught.value.rule == "withheld"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"rows": 6', '"rows": 6, "rows": 7'),
        ('"site": "A"', '"site": "A\\nB: accepted"'),
        ('"site": "A"', '"site": "\\u202eA"'),
        ('"nonce": "n"', '"nonce": "\\ud800"'),
        ('"pool": "unnamed"', '"pool": ""'),
    ],
)
def test_doubled_keys_and_names_that_do_not_print_are_refused(one: str, other: str) -> None:
    """Case 53."""
    text = MANIFEST.replace(one, other)
    assert text != MANIFEST
    with pytest.raises(ReleaseError) as caught:
        parse_manifest(text.encode())
    assert caught.value.rule == "manifest"


def test_the_names_in_a_manifest_are_those_of_its_key() -> None:
    """Case 105: what a person reads and what the pool compares cannot differ."""
    basel, bern = (Addressee(pool=name, federation="lungs") for name in ("Basel", "Bern"))
    made = Manifest(
        site="A",
        experiment=key_of("t" * 32, "r" * 32, basel),
        round=1,
        pool="Bern",
        federation="lungs",
        nonce="n",
        rows=6,
        sha256="0f" * 32,
        bytes=4242,
    )
    with pytest.raises(ReleaseError) as caught:
        parse_manifest(made.to_json().encode())
    assert caught.value.rule == "manifest"
    honest = made.to_json().replace("Bern", "Basel")
    found = parse_manifest(honest.encode())
    assert found.addressee == basel
    found.check_made_for(site="A", experiment=key_of("t" * 32, "r" * 32, basel))
    with pytest.raises(ReleaseError) as other:
        found.check_made_for(site="A", experiment=key_of("t" * 32, "r" * 32, bern))
    assert other.value.rule == "addressee"
