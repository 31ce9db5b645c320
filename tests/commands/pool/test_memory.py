"""Folders that are handed in: what is read of them, and how often."""

from __future__ import annotations

from pathlib import Path

from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.federation.parcel_folders import read_parcel, read_submission, write_parcel
from tests.commands.pool.folders import federation, hand_in, train
from tests.refusals import refuses


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    ]
    return int(line.split()[1]) / 1024


def test_a_file_is_not_read_before_its_size_is_signed_for(
    tmp_path: Path, smoke: Experiment
) -> None:
    """Case 46: a gigabyte beside a manifest that does not say so costs nothing."""
    folder = hand_in(tmp_path, "A", federation(smoke))
    with (folder / "release.arrow").open("r+b") as file:
        file.truncate(1 << 30)
    reset_peak()
    before = peak_mib()
    assert "A: release refused (bytes)" in train(tmp_path, folder).output
    assert peak_mib() - before < 64
    (folder / "manifest.json").write_bytes(b" " * (65 << 10))
    with refuses("parcel.damaged", "manifest.json"):
        read_submission(folder)


def test_a_parcel_of_any_kind_is_copied_once(tmp_path: Path) -> None:
    files = {"model/weights": b""}
    parcel = Parcel(sender="s", stage="train_general", key="a" * 64, files=files, result={})
    write_parcel(tmp_path / "p", parcel)
    weights = tmp_path / "p" / "model" / "weights"
    with weights.open("wb") as file:
        file.truncate(256 << 20)
    reset_peak()
    before = peak_mib()
    assert read_parcel(tmp_path / "p").bytes == 256 << 20
    assert peak_mib() - before < 300
    with weights.open("wb") as file:
        file.truncate(9 << 30)
    with refuses("parcel.damaged", "8589934592"):
        read_parcel(tmp_path / "p")
