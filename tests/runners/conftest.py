"""One cluster for all tests of the runners."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from hyfree_ray.runners.ray_cluster import connect, disconnect


@pytest.fixture(scope="package")
def cluster() -> Iterator[Any]:
    """What this process did at SIGTERM before it had one."""
    before = signal.getsignal(signal.SIGTERM)
    connect("local", cpus=2)
    yield before
    disconnect()
