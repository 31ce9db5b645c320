"""The order in which a site's releases came."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hyfree_ray.core.documents import Documents
from hyfree_ray.federation.admissions import Admissions, Statement
from tests.refusals import refuses


def test_a_clock_that_was_set_back_makes_no_newer_release_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admissions = Admissions(Documents(tmp_path))
    older, newer = (
        Statement(site="A", made_for="e", nonce=nonce, sha256=nonce) for nonce in ("1", "2")
    )
    admissions.admit(older)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    admissions.admit(newer)
    admissions.check_newest(newer)
    with refuses("release.older", "A"):
        admissions.check_newest(older)
