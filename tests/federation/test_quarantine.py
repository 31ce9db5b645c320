"""What the pool refuses lies apart, with the reason, and fills no disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from hyfree_ray.cli import main
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.store_root import open_root
from hyfree_ray.federation import quarantine as module
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.federation.quarantine import quarantine
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.runners.local import LocalRunner
from tests.cards import card
from tests.submissions import parcel, take


def quarantined(pool: PoolParty) -> dict[str, tuple[str, set[str]]]:
    """By folder: the reason, and the other files."""
    return {
        folder.name: (
            (folder / "reason.txt").read_text(),
            {file.name for file in folder.iterdir()} - {"reason.txt"},
        )
        for folder in (pool.store.root / "quarantine").iterdir()
    }


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"signer": "site-2"}, "signature"),
        ({"flip": True}, "sha256"),
        ({"card": card(rejection_rate=0.9)}, "gate"),
    ],
)
def test_what_is_refused_is_kept_in_quarantine_with_the_reason_and_nowhere_else(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, changes: dict, rule: str
) -> None:
    """Case 53."""
    bad = parcel(simulation, "site-1", tmp_path, **changes)
    for _ in range(2):
        told = take(pool, "site-1", bad)
        ((name, (reason, files)),) = quarantined(pool).items()
        assert name.startswith("site-1-")
        assert f"({rule})" in reason
        assert reason == told.reason + "\n"
        assert files == set(bad.files)
        assert not list((pool.store.root).glob("received/*/release-*"))
    other = take(pool, "site-2", parcel(simulation, "site-2", tmp_path))
    assert other.outcome == "released"


def test_a_refusal_takes_nothing_from_what_is_in(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 32: a release that a round has stays, also where a stricter pool refuses it later."""
    mine = parcel(simulation, "site-1", tmp_path)
    take(pool, "site-1", mine)
    take(pool, "site-1", parcel(simulation, "site-1", tmp_path, content=1, key=1))
    stricter = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    stricter.rounds.folder = "rounds/another"
    stricter.federation = "another"
    assert take(stricter, "site-1", mine).outcome == "refused"
    assert sorted(reason.split("(")[1][:6] for reason, _ in quarantined(pool).values()) == [
        "experi",
        "second",
    ]
    (kept,) = pool.store.root.glob("received/site-1/release-*")
    assert (kept / "release.arrow").read_bytes() == mine.files["release.arrow"]


def test_quarantine_is_listed_and_freed_when_that_is_asked_for(
    simulation: Simulation, tmp_path: Path
) -> None:
    open_root(tmp_path / "root")
    quarantine(tmp_path / "root" / "pool", "site-1", parcel(simulation, "site-1", tmp_path), "why")
    kept = tmp_path / "root" / "pool" / "quarantine"

    def command(*arguments: str) -> str:
        asked = ["store", *arguments, "--store", str(tmp_path / "root")]
        return CliRunner().invoke(main, asked).output

    assert f"1 refused releases in {kept}" in command("ls").replace("\n", "")
    assert "in 0 files" in command("gc")
    assert "would free 0.0 MiB in 4 files" in command("gc", "--quarantine", "--dry-run")
    assert len(list(kept.iterdir())) == 1
    assert "freed 0.0 MiB in 4 files" in command("gc", "--quarantine")
    assert not list(kept.iterdir())
    assert "refused" not in command("ls")


def test_quarantine_holds_the_newest_and_not_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever hands in rubbish cannot fill the pool's disk."""
    monkeypatch.setattr(module, "MAX_PARCELS", 3)
    monkeypatch.setattr(module, "MAX_BYTES", 2500)
    for number in range(5):
        files = {"manifest.json": bytes([number]) * 10, "x" * 300: b"", "release.arrow": b""}
        bad = Parcel(sender="s", stage="release", key="a" * 64, files=files, result={})
        quarantine(tmp_path, "s", bad, f"reason {number}")
    left = {(f / "reason.txt").read_text() for f in (tmp_path / "quarantine").iterdir()}
    assert left == {"reason 2\n", "reason 3\n", "reason 4\n"}
    for number in (5, 6):
        large = {"release.arrow": bytes([number]) * (2000 + 1000 * (number == 6))}
        bad = Parcel(sender="s", stage="release", key="a" * 64, files=large, result={})
        quarantine(tmp_path, "s", bad, f"reason {number}")
    held = {f.name: f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()}
    assert sum(held.values()) <= 2500
    assert "reason 6\n" in {f.read_text() for f in tmp_path.rglob("reason.txt")}
