"""A run on Ray that is under way."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.programs import under_way


@pytest.fixture
def training_on_ray(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run on Ray in a session of its own, which has written a checkpoint."""
    with under_way(
        tmp_path / "store", "simulate", "--budget", "smoke", "--device", "cpu"
    ) as process:
        yield process
