"""The centre: takes releases as they come, refuses what is wrong, closes a round once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hyfree_ray import pool as pool_module
from hyfree_ray import quarantine as module
from hyfree_ray.cli import main
from hyfree_ray.gate import Gate
from hyfree_ray.pool import PoolParty
from hyfree_ray.quarantine import quarantine
from hyfree_ray.release import ReleaseMetadata, write_release
from hyfree_ray.runners.local import LocalRunner
from hyfree_ray.signing import signing_key
from hyfree_ray.simulation import Simulation
from hyfree_ray.store import Parcel, digest_of, open_root
from hyfree_ray.trust import sign
from hyfree_ray.withheld import Notice
from tests.cards import card


@pytest.fixture
def simulation(phantom_simulation: Callable[[int], Simulation]) -> Simulation:
    return phantom_simulation(3)


@pytest.fixture
def pool(simulation: Simulation, tmp_path: Path) -> PoolParty:
    party = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    for site in simulation.sites:
        party.trust(site, key_of(tmp_path, site).public_key().public_bytes_raw())
    return party


def parcel(simulation: Simulation, site: str, folder: Path, **changes: object) -> Parcel:
    """A site's release, on its way."""
    labels = {"background": 0, "organ": 1, "lesion": 2}
    rng = np.random.default_rng(int(digest_of([site, changes.get("content", 0)])[:6], 16))
    images_NCHW = rng.integers(0, 256, (6, 1, 20, 28), dtype=np.uint8)
    labels_NHW = rng.integers(0, 3, (6, 20, 28), dtype=np.uint8)
    if "moved" in changes:  # a bright organ, labelled that many pixels too far right
        labels_NHW = np.zeros_like(labels_NHW)
        for row in range(len(labels_NHW)):
            labels_NHW[row, 5 + row : 15, 6 : 12 + row] = 1
        images_NCHW = (images_NCHW // 4) + 120 * labels_NHW[:, None]
        labels_NHW = np.roll(labels_NHW, int(str(changes["moved"])), axis=2)
    metadata = ReleaseMetadata(
        site=site,
        channel_names=("MR",),
        label_names=changes.get("labels", labels),  # type: ignore[arg-type]
        spacing=(2.0, 1.5),
        slice_axis=0,
        scale=(1.0,),
        offset=(0.0,),
        card=changes.get("card", card()),  # type: ignore[arg-type]
    )
    write_release(
        folder / site,
        metadata,
        images_NCHW,
        labels_NHW,
        experiment=str(changes.get("federation", simulation.federation)),
        round_number=int(str(changes.get("round", 1))),
        nonce=str(changes.get("nonce", f"nonce of {site}")),
    )
    files = {
        name: (folder / site / name).read_bytes() for name in ("release.arrow", "manifest.json")
    }
    if changes.get("flip"):
        content = bytearray(files["release.arrow"])
        content[len(content) // 2] ^= 1
        files["release.arrow"] = bytes(content)
    if changes.get("signed", True):
        signer = str(changes.get("signer", site))
        files["manifest.sig"] = key_of(folder, signer).sign(files["manifest.json"])
    result = {"outcome": "released", "reason": None, "rejection_rate": 0.1, "images": 6}
    key = digest_of([site, changes.get("key", 0)])
    return Parcel(sender=site, stage="release", key=key, files=files, result=result)


def notice(
    simulation: Simulation, site: str, folder: Path, /, signer: str = "", **changes: Any
) -> Parcel:
    """A site's word that it withholds."""
    told = Notice.of(site, simulation.federation, 1, "too small", 0.9)
    text = json.dumps(json.loads(told.to_json()) | changes).encode()
    key = digest_of([site, text.decode()])
    result = {"outcome": "released", "reason": "unsigned", "rejection_rate": 0.0}
    handed = Parcel(
        sender=site, stage="release", key=key, files={"withheld.json": text}, result=result
    )
    return sign(handed, "withheld.json", key_of(folder, signer or site))


def key_of(folder: Path, site: str) -> Ed25519PrivateKey:
    return signing_key(folder / "keys" / site)


def take(pool: PoolParty, site: str, parcel: Parcel) -> dict:
    return asyncio.run(pool.take(site, parcel))


def test_a_good_release_is_taken_and_can_be_looked_at(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    outcome = take(pool, "site-1", parcel(simulation, "site-1", tmp_path))
    assert outcome == {
        "outcome": "released",
        "reason": None,
        "rejection_rate": 0.12,  # of its signed card, whatever is said beside it
        "images": 6,
        "flag": None,
    }
    picture = asyncio.run(pool.picture("site-1"))
    assert picture is not None
    assert picture.startswith(b"\x89PNG")


def test_a_release_whose_masks_are_shifted_is_taken_and_flagged(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 93: somebody has to look at it; that it is poisoned cannot be told from it alone."""
    honest = take(pool, "site-1", parcel(simulation, "site-1", tmp_path, moved=0))
    poisoned = take(pool, "site-2", parcel(simulation, "site-2", tmp_path, moved=5))
    assert (honest["outcome"], honest["flag"]) == ("released", None)
    assert poisoned["outcome"] == "released"
    assert poisoned["flag"] == (
        "its labels look shifted: they would fit its images best 5 pixels further left"
    )


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"signed": False}, "parcel"),
        ({"signer": "site-2"}, "signature"),
        ({"flip": True}, "sha256"),
        ({"federation": "another"}, "experiment"),
        ({"labels": {"background": 0, "kidney": 1, "lesion": 2}}, "task"),
        ({"card": {}}, "card"),
        ({"card": card(nearer_to_training=0.9)}, "gate"),
    ],
)
def test_a_bad_release_is_refused_with_its_rule_and_the_others_go_on(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, changes: dict, rule: str
) -> None:
    """Cases 53, 37 and 89: signature, hash, experiment, task, card and gate."""
    bad = take(pool, "site-1", parcel(simulation, "site-1", tmp_path, **changes))
    assert bad["outcome"] == "refused"
    assert f"({rule})" in bad["reason"]
    for site in ("site-2", "site-3"):
        take(pool, site, parcel(simulation, site, tmp_path))
    members = pool.close(["site-1", "site-2", "site-3"])["releases"]
    assert sorted(members) == ["site-2", "site-3"]


def test_another_sites_release_is_refused(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 53."""
    outcome = take(pool, "site-2", parcel(simulation, "site-1", tmp_path))
    assert outcome["outcome"] == "refused"
    assert "(site)" in outcome["reason"]
    for signer, rule in (("site-1", "signature"), ("site-2", "site")):
        stolen = parcel(simulation, "site-1", tmp_path, signer=signer)
        renamed = dataclasses.replace(stolen, sender="site-2")
        assert f"({rule})" in take(pool, "site-2", renamed)["reason"]


def test_a_site_whose_key_is_not_known_is_refused_and_nothing_is_kept(
    simulation: Simulation, tmp_path: Path
) -> None:
    """Case 53."""
    stranger = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    outcome = take(stranger, "site-1", parcel(simulation, "site-1", tmp_path))
    assert "(signature)" in outcome["reason"]
    assert not (tmp_path / "store" / "pool" / "received").exists()


def test_the_same_release_twice_is_one(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 31, over a restart of the pool too."""
    mine = parcel(simulation, "site-1", tmp_path)
    first = take(pool, "site-1", mine)
    again = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    assert first["outcome"] == take(pool, "site-1", mine)["outcome"] == "released"
    assert take(again, "site-1", mine) == first
    assert len(list((tmp_path / "store" / "pool" / "nonces" / "site-1").iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"content": 1}, "with other content under the same key"),
        ({"content": 1, "key": 1}, "(second)"),
        ({"content": 1, "key": 1, "nonce": "new"}, "(second)"),
        ({"round": 2, "key": 1}, "(round)"),
        ({"federation": "last year's", "key": 1}, "(experiment)"),
    ],
)
def test_another_release_after_the_first_is_refused_and_the_first_kept(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, changes: dict, said: str
) -> None:
    """Cases 32 and 37: other content, another round's, another experiment's; all well signed."""
    first = take(pool, "site-1", parcel(simulation, "site-1", tmp_path))
    restarted = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    for party in (pool, restarted):
        second = take(party, "site-1", parcel(simulation, "site-1", tmp_path, **changes))
        assert second["outcome"] == "refused"
        assert said in second["reason"]
        kept = party.taken("site-1")
        assert kept is not None
        assert (kept["outcome"], kept["images"]) == ("released", first["images"])


def test_a_nonce_is_remembered_over_rounds_and_restarts(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 37: other settings are another round, in which the same release may come again."""
    take(pool, "site-1", parcel(simulation, "site-1", tmp_path))
    later = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    later.round = later.round.with_name("another")
    reused = parcel(simulation, "site-1", tmp_path, content=1, key=1)
    assert "(nonce)" in take(later, "site-1", reused)["reason"]
    same = parcel(simulation, "site-1", tmp_path)
    assert take(later, "site-1", same)["outcome"] == "released"


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
    assert told["outcome"] == "refused"
    assert f"({rule})" in told["reason"]
    assert "\n" not in told["reason"]


def test_another_sites_word_that_it_withholds_is_not_this_ones(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 53."""
    stolen = notice(simulation, "site-1", tmp_path)
    assert "(site)" in take(pool, "site-2", stolen)["reason"]
    renamed = dataclasses.replace(stolen, sender="site-2")
    assert "(signature)" in take(pool, "site-2", renamed)["reason"]
    unsigned = dataclasses.replace(stolen, files={})
    assert "(parcel)" in take(pool, "site-1", unsigned)["reason"]


def test_a_site_that_withholds_is_in_without_a_release(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 94: with the reason and the rate that it has signed."""
    told = take(pool, "site-1", notice(simulation, "site-1", tmp_path))
    assert told == {
        "outcome": "withheld",
        "reason": "too small",
        "rejection_rate": 0.9,
        "images": 0,
        "flag": None,
    }
    assert asyncio.run(pool.picture("site-1")) is None


@pytest.mark.parametrize(
    "name", ["evil.pth", "", ".", "release.arrow/x", "record.json", "public.key", "withheld.json"]
)
def test_a_release_with_any_other_file_is_refused_and_the_file_never_written(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, name: str
) -> None:
    """Cases 53 and 56: what is not signed for is not kept, and its name breaks nothing."""
    good = parcel(simulation, "site-1", tmp_path)
    more = dataclasses.replace(good, files={**good.files, name: b"\x80\x04"})
    told = take(pool, "site-1", more)
    assert told["outcome"] == "refused"
    assert "(parcel)" in told["reason"]
    assert "\n" not in told["reason"]
    written = [f for f in (tmp_path / "store").rglob("*") if f.is_file()]
    assert all(f.name != "evil.pth" and f.read_bytes() != b"\x80\x04" for f in written) or (
        name == "withheld.json"  # kept in quarantine, where it has a name that is ours
    )
    assert not (pool.store.root / "received").exists()
    assert take(pool, "site-1", good)["outcome"] == "released"


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
        assert reason == told["reason"] + "\n"
        assert files == set(bad.files)
        assert not list((pool.store.root).glob("received/*/release-*"))
    other = take(pool, "site-2", parcel(simulation, "site-2", tmp_path))
    assert other["outcome"] == "released"


def test_a_refusal_takes_nothing_from_what_is_in(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    """Case 32: a release that a round has stays, also where a stricter pool refuses it later."""
    mine = parcel(simulation, "site-1", tmp_path)
    take(pool, "site-1", mine)
    take(pool, "site-1", parcel(simulation, "site-1", tmp_path, content=1, key=1))
    stricter = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    stricter.round = stricter.round.with_name("another")
    stricter.federation = "another"
    assert take(stricter, "site-1", mine)["outcome"] == "refused"
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
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    monkeypatch.setattr(module, "MOST_BYTES", 2500)
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


@pytest.mark.parametrize(
    "changed",
    [
        {"generator": "stylegan2"},
        {"threshold_percentile": 1.0},
        {"gate": Gate(max_rejection_rate=0.9)},
        {"labeller": "local2x"},
    ],
    ids=str,
)
def test_a_release_is_not_taken_into_an_experiment_of_other_settings(
    pool: PoolParty, simulation: Simulation, tmp_path: Path, changed: dict
) -> None:
    """Case 37: the old parcel is as well signed as it was, and its nonce is known."""
    first = parcel(simulation, "site-1", tmp_path)
    assert take(pool, "site-1", first)["outcome"] == "released"
    experiment = simulation.experiment.model_copy(update=changed)
    other = dataclasses.replace(simulation, experiment=experiment)
    told = take(other.pool_party(tmp_path / "store", LocalRunner("cpu")), "site-1", first)
    assert told["outcome"] == "refused"
    assert "(experiment)" in told["reason"]
    assert "--set or version of hyfree-ray differ" in told["reason"]
    assert "--seed" not in told["reason"]


def test_one_release_makes_no_general_model(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    take(pool, "site-1", parcel(simulation, "site-1", tmp_path))
    take(pool, "site-2", notice(simulation, "site-2", tmp_path))
    assert pool.close(["site-1", "site-2"])["releases"] == {}


def test_a_pool_that_lost_its_memory_finds_what_it_had_taken(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    for site in ("site-1", "site-2"):
        take(pool, site, parcel(simulation, site, tmp_path))
    again = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    assert sorted(again.close(["site-1", "site-2"])["releases"]) == ["site-1", "site-2"]
    assert asyncio.run(again.picture("site-2")) == asyncio.run(pool.picture("site-2"))


def test_a_round_does_not_close_over_a_site_that_is_not_in(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    take(pool, "site-1", parcel(simulation, "site-1", tmp_path))
    with pytest.raises(AssertionError, match="site-2"):
        pool.close(["site-1", "site-2"])


def test_who_was_in_is_written_once_and_not_by_order_of_arrival(
    pool: PoolParty, simulation: Simulation, tmp_path: Path
) -> None:
    for site in ("site-2", "site-1"):
        take(pool, site, parcel(simulation, site, tmp_path))
    first = pool.close(["site-1", "site-2"])
    take(pool, "site-3", parcel(simulation, "site-3", tmp_path))
    assert pool.close(["site-1", "site-2", "site-3"]) == first
    (written,) = (tmp_path / "store").glob("pool/rounds/*/1.json")
    assert list(json.loads(written.read_text())["releases"]) == ["site-1", "site-2"]


def test_two_drivers_that_wait_at_the_same_time_count_each_second_once(
    simulation: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [5000.0]
    monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    both = [simulation.pool_party(tmp_path / "store", LocalRunner("cpu")) for _ in range(2)]
    for one in both:
        assert one.waited(0.0, False) == 0
    for _ in range(4):
        now[0] += 5
        told = [one.waited(5.0, False) for one in both]
    assert told == [20, 20]
    now[0] += 3600  # nobody runs
    again = simulation.pool_party(tmp_path / "store", LocalRunner("cpu"))
    assert again.waited(0.0, False) == 20
    now[0] += 5
    assert again.waited(5.0, False) == 25
    (clock,) = (tmp_path / "store").glob("pool/rounds/*/1.clock.json")
    clock.write_text(json.dumps({"seconds": 25.0, "at": 9e9, "boot": "before it was started anew"}))
    assert again.waited(5.0, False) == 30
