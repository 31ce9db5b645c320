"""Records of stages that nobody ran."""

from __future__ import annotations

from typing import Any

from hyfree_ray.core.records import StageRecord


def stage_record(stage: str = "train", **changes: Any) -> StageRecord:
    """A record, all of it but what a test says in the fewest words."""
    described: dict[str, Any] = {
        "stage": stage,
        "version": 1,
        "key": "k" * 64,
        "owner": "site-1",
        "params": {},
        "inputs": {},
        "started": 0.0,
        "ended": 1.0,
        "seconds": 1.0,
        "device": "cpu",
        "device_seconds": 0.0,
        "cpu_seconds": 1.0,
        "peak_memory_mib": 1.0,
        "host": "here",
        "versions": {},
        "result": {},
    }
    return StageRecord(**(described | changes))
