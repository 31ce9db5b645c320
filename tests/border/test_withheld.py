"""A site's word that it withholds its release, and who is believed it."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from hyfree_ray.federation.interface import Receipt
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.federation.simulation import Simulation
from tests.submissions import notice, take


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"signer": "site-2"}, "signature"),
        ({"site": "site-2"}, "site"),
        ({"experiment": "last year's"}, "experiment"),
        ({"round": 2}, "round"),
        ({"reason": "line\nfeed"}, "withheld"),
        ({"reason": "x" * 501}, "withheld"),
        ({"reason": None}, "withheld"),
        ({"rejection_rate": 1.5}, "withheld"),
        ({"rejection_rate": float("nan")}, "withheld"),
        ({"images": 3}, "withheld"),
    ],
    ids=str,
)
def test_that_a_site_withholds_is_believed_of_nobody_but_the_site(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, changes: dict, rule: str
) -> None:
    """Cases 53 and 94: it is signed for this experiment, and as strict as a manifest."""
    told = take(pool, "site-1", notice(simulation, "site-1", tmp_path, **changes))
    assert told.outcome == "refused"
    assert f"({rule})" in told.reason
    assert "\n" not in told.reason


def test_another_sites_word_that_it_withholds_is_not_this_ones(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 53."""
    stolen = notice(simulation, "site-1", tmp_path)
    assert "(site)" in take(pool, "site-2", stolen).reason
    renamed = dataclasses.replace(stolen, sender="site-2")
    assert "(signature)" in take(pool, "site-2", renamed).reason
    unsigned = dataclasses.replace(stolen, files={})
    assert "(parcel)" in take(pool, "site-1", unsigned).reason


def test_a_site_that_withholds_is_in_without_a_release(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 94: with the reason and the rate that it has signed."""
    told = take(pool, "site-1", notice(simulation, "site-1", tmp_path))
    assert told == Receipt(outcome="withheld", reason="too small", rejection_rate=0.9)
    assert asyncio.run(pool.picture("site-1")) is None
