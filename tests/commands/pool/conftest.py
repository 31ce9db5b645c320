"""Trainings are others' tests."""

from __future__ import annotations

from typing import Any

import pytest

from hyfree_ray.core.parcels import Parcel
from hyfree_ray.federation.pool import PoolParty


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch, checked_here: None) -> list[list[str]]:
    """Whose releases general models would have been trained on: trainings are others' tests."""
    members: list[list[str]] = []

    async def model(_: PoolParty, _regime: str, releases: dict[str, str]) -> Parcel:
        members.append(sorted(releases))
        return Parcel(sender="pool", stage="train_general", key="a" * 64, files={}, result={})

    async def nothing(_: PoolParty, releases: dict[str, str]) -> Any:
        return {}

    monkeypatch.setattr(PoolParty, "model", model)
    monkeypatch.setattr(PoolParty, "label_agreement", nothing)
    return members
