"""Releases on their way down as folders: what a site takes, and all that it refuses in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.parties import POOL
from hyfree_ray.core.store import Parcel
from hyfree_ray.federation.interface import ReplaySet
from hyfree_ray.federation.replay_folders import LIST_FILE, read_shared, write_shared
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.runners.local import LocalRunner
from tests.cards import card
from tests.handed_in import parcel

GENERAL = Parcel(sender=POOL, stage="train_general", key="a" * 64, files={}, result={})


@pytest.fixture
def site(simulation: Simulation, tmp_path: Path) -> SiteParty:
    return simulation.site_party("site-1", tmp_path / "store", LocalRunner("cpu"))


def down(simulation: Simulation, folder: Path, *sites: str, **changes: object) -> ReplaySet:
    """These sites' releases as the pool sends them; the last one changed."""
    parcels = []
    for name in sites:
        up = parcel(simulation, name, folder, **(changes if name == sites[-1] else {}))
        files = {name: c for name, c in up.files.items() if name != "manifest.sig"}
        parcels.append(dataclasses.replace(up, sender=POOL, files=files))
    return ReplaySet(sites=sites, parcels=tuple(parcels))


def handed_out(simulation: Simulation, root: Path, **changes: object) -> Path:
    """What the pool wrote after three releases came in."""
    shared = down(simulation, root / "made", "site-1", "site-2", "site-3", **changes)
    write_shared(root / "releases", shared, GENERAL)
    return root / "releases"


def refused(folder: Path, site: SiteParty) -> str:
    """The line that a refusal is; nothing of what was refused is in the site's store."""
    with pytest.raises(HyfreeError) as error:
        read_shared(folder, GENERAL, site)
    assert not site.store.root.exists()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_the_others_releases_arrive_as_they_left_and_the_own_one_is_not_opened(
    simulation: Simulation, site: SiteParty, tmp_path: Path
) -> None:
    folder = handed_out(simulation, tmp_path)
    shutil.rmtree(folder / "site-1")
    expected = down(simulation, tmp_path / "again", "site-2", "site-3")
    assert read_shared(folder, GENERAL, site) == expected


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"flip": True}, "site-3: release refused (sha256)"),
        ({"card": card(rejection_rate=0.6)}, "site-3: release refused (gate)"),
        ({"card": {}}, "site-3: release refused (card)"),
        ({"labels": {"background": 0, "organ": 1, "cyst": 2}}, "site-3: release refused (task)"),
        ({"federation": "another"}, "site-3: release refused (experiment)"),
        ({"round": 2}, "site-3: release refused (round)"),
    ],
)
def test_a_release_is_checked_by_the_site_whatever_the_pool_said(
    simulation: Simulation, site: SiteParty, tmp_path: Path, changes: dict[str, object], rule: str
) -> None:
    """Cases 50-52 and 37, on the way down: the pool's list of hashes fits, the release does not."""
    assert rule in refused(handed_out(simulation, tmp_path, **changes), site)


@pytest.mark.parametrize("file", ["release.arrow", "manifest.json", "parcel.json"])
def test_a_file_that_was_changed_on_the_way_is_noticed(
    simulation: Simulation, site: SiteParty, tmp_path: Path, file: str
) -> None:
    folder = handed_out(simulation, tmp_path)
    content = (folder / "site-2" / file).read_bytes()
    for changed in (content[:-2], content.replace(b"p", b"q", 1), b""):
        (folder / "site-2" / file).write_bytes(changed)
        assert "site-2" in refused(folder, site)
    (folder / "site-2" / file).unlink()
    assert "site-2: not a whole parcel" in refused(folder, site)


@pytest.mark.parametrize("whose", ["site-1", "site-3"])
def test_no_release_comes_in_under_anothers_name_least_of_all_the_sites_own(
    simulation: Simulation, site: SiteParty, tmp_path: Path, whose: str
) -> None:
    folder = handed_out(simulation, tmp_path)
    shutil.rmtree(folder / "site-2")
    shutil.copytree(folder / whose, folder / "site-2")
    listed = json.loads((folder / LIST_FILE).read_text())
    listed["releases"]["site-2"] = listed["releases"][whose]
    (folder / LIST_FILE).write_text(json.dumps(listed))
    assert f"site-2: release refused (site): made by '{whose}'" in refused(folder, site)


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("", "not a pool's folder of releases"),
        ('{"general": "b"}', "not a pool's folder of releases (1 keys missing"),
        ({"../site-2": "c" * 64}, "not a pool's folder of releases (site name"),
        ({"": "c" * 64}, "not a pool's folder of releases (releases is not a text"),
        ({"a\nb": "c" * 64}, "not a pool's folder of releases (releases has characters"),
        ({"SITE-1": "c" * 64}, "differ only in case"),
        ({"site-2": ["c"]}, "site-2: release refused (sha256)"),
        ({"site-4": "c" * 64}, "site-4: not a whole parcel"),
    ],
)
def test_a_list_that_is_not_the_pools_is_one_line(
    simulation: Simulation, site: SiteParty, tmp_path: Path, listed: object, said: str
) -> None:
    """Case 56, in the list of what was handed out."""
    folder = handed_out(simulation, tmp_path)
    if isinstance(listed, dict):
        listed = json.dumps({"general": GENERAL.key, "releases": listed})
    (folder / LIST_FILE).write_text(str(listed))
    assert said in refused(folder, site)
    (folder / LIST_FILE).unlink()
    assert f"there is no {LIST_FILE}" in refused(folder, site)


def test_releases_of_another_general_model_are_not_replayed(
    simulation: Simulation, site: SiteParty, tmp_path: Path
) -> None:
    folder = handed_out(simulation, tmp_path)
    other = dataclasses.replace(GENERAL, key="b" * 64)
    with pytest.raises(HyfreeError, match="another general model"):
        read_shared(folder, other, site)


def test_what_is_handed_out_takes_the_place_of_what_was_but_of_nothing_else(
    simulation: Simulation, site: SiteParty, tmp_path: Path
) -> None:
    folder = handed_out(simulation, tmp_path)
    left_by_a_crash = folder / ".unfinished" / "new" / "site-9"
    left_by_a_crash.mkdir(parents=True)
    write_shared(folder, down(simulation, tmp_path / "again", "site-1", "site-3"), GENERAL)
    assert sorted(path.name for path in folder.iterdir()) == [LIST_FILE, "site-1", "site-3"]
    assert read_shared(folder, GENERAL, site).sites == ("site-3",)
    (folder / LIST_FILE).unlink()
    with pytest.raises(HyfreeError, match="is there already"):
        write_shared(folder, ReplaySet(sites=(), parcels=()), GENERAL)
    assert (folder / "site-3" / "release.arrow").is_file()
