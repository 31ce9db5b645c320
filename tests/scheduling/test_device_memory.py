"""What stages take of a GPU, without one: torch.cuda's counters are played, all else is real."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hyfree_ray.core.device_memory import share_taken
from hyfree_ray.core.execution import execute
from hyfree_ray.core.stage import Context, stage
from hyfree_ray.runners.ray_scheduler import SlotClient
from hyfree_ray.scheduling.history import read_history
from hyfree_ray.scheduling.resources import Resources

TOTAL_MIB = 80_000


class Counters:
    """Of a GPU's memory in this process: what is reserved, and the most that ever was."""

    reserved = most = 0

    @classmethod
    def reserve(cls, mib: int) -> None:
        cls.reserved = mib << 20
        cls.most = max(cls.most, cls.reserved)

    @classmethod
    def reset(cls) -> None:
        cls.most = cls.reserved


def stand_in(patch: Any = None) -> None:
    """Put the counters in the place of torch's."""
    put = setattr if patch is None else patch.setattr
    put(torch.cuda, "reset_peak_memory_stats", Counters.reset)
    put(torch.cuda, "max_memory_reserved", lambda: Counters.most)
    total = SimpleNamespace(total_memory=TOTAL_MIB << 20)
    put(torch.cuda, "get_device_properties", lambda device: total)


@stage(version=1, device=True)
def reserve(context: Context, *, mib: int, left_mib: int, seconds: float) -> dict[str, Any]:
    """Takes so much of the device for so long, and leaves some of it to its process."""
    before = Counters.reserved >> 20
    Counters.reserve(mib)
    time.sleep(seconds)
    Counters.reserve(left_mib)
    return {"before": before, "pid": os.getpid()}


def folder_of(store: Path, site: str, name: str) -> Path:
    return store / "sites" / site / "stages" / f"reserve-{name}"


def test_the_devices_memory_is_measured_for_each_stage_and_says_how_many_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    monkeypatch.setattr(Counters, "reserved", 0)
    monkeypatch.setattr(Counters, "most", 0)
    for name, mib in (("large", 30_000), ("small", 9_000), ("middle", 20_000)):
        call = reserve.call(mib=mib, left_mib=0, seconds=0.0)
        folder = folder_of(tmp_path, "site-1", name)
        record = execute(reserve.module, call, folder, owner="site-1", device="cuda")
        assert record.device_memory_mib == mib, "the stages before it do not count"
        assert record.device_total_mib == TOTAL_MIB
    shares = read_history(tmp_path).gpu_shares()
    (share,) = shares["site-1"].values()
    assert 30_000 / TOTAL_MIB < share <= 0.5
    slots = SlotClient(resources=Resources(gpus="measured"), gpu_shares=shares["site-1"])
    assert slots.needs(reserve, "cuda") == {"CPU": 1.0, "GPU": share}


def test_who_took_nothing_of_a_device_does_not_tell_what_others_will(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where another process had done the stage meanwhile, and the device was never touched."""
    stand_in(monkeypatch)
    monkeypatch.setattr(Counters, "reserved", 0)
    monkeypatch.setattr(Counters, "most", 0)
    assert share_taken("cuda") == 0.0
    Counters.reserve(20_000)
    assert share_taken("cuda") == pytest.approx(0.3)
    assert share_taken("cpu") == 0.0
