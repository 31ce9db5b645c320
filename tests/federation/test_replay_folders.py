"""Releases on their way down as folders: what a site takes, and all that it refuses in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.parties import POOL
from hyfree_ray.federation.interface import ReplaySet
from hyfree_ray.federation.replay_folders import LIST_FILE, read_shared, write_shared
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.site import SiteParty
from hyfree_ray.runners.local import LocalRunner
from tests.cards import card
from tests.refusals import refuses
from tests.submissions import parcel

pytestmark = pytest.mark.usefixtures("checked_here")

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


def refused(folder: Path, site: SiteParty, code: str, *names: str) -> None:
    """See that what was handed out is refused; nothing of it is in the site's store."""
    with refuses(code, *names):
        read_shared(folder, GENERAL, site)
    assert not site.store.root.exists()


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
        ({"flip": True}, "sha256"),
        ({"card": card(rejection_rate=0.6)}, "gate"),
        ({"card": {}}, "card"),
        ({"labels": {"background": 0, "organ": 1, "cyst": 2}}, "task"),
        ({"federation": "another"}, "experiment"),
        ({"round": 2}, "round"),
    ],
)
def test_a_release_is_checked_by_the_site_whatever_the_pool_said(
    simulation: Simulation, site: SiteParty, tmp_path: Path, changes: dict[str, object], rule: str
) -> None:
    """Cases 50-52 and 37, on the way down: the pool's list of hashes fits, the release does not."""
    refused(handed_out(simulation, tmp_path, **changes), site, f"release.{rule}", "site-3: ")


@pytest.mark.parametrize("file", ["release.arrow", "manifest.json", "parcel.json"])
def test_a_file_that_was_changed_on_the_way_is_noticed(
    simulation: Simulation, site: SiteParty, tmp_path: Path, file: str
) -> None:
    folder = handed_out(simulation, tmp_path)
    content = (folder / "site-2" / file).read_bytes()
    for changed in (content[:-2], content.replace(b"p", b"q", 1), b""):
        (folder / "site-2" / file).write_bytes(changed)
        with pytest.raises(HyfreeError, match="site-2"):
            read_shared(folder, GENERAL, site)
    (folder / "site-2" / file).unlink()
    refused(folder, site, "parcel.damaged", "site-2: ")


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
    refused(folder, site, "release.site", "site-2: ", f"'{whose}'")


@pytest.mark.parametrize(
    ("listed", "code", "name"),
    [
        ("", "parcel.damaged", ""),
        ('{"general": "b"}', "parcel.damaged", "1 keys missing"),
        ({"../site-2": "c" * 64}, "parcel.damaged", "'../site-2'"),
        ({"": "c" * 64}, "parcel.damaged", "releases"),
        ({"a\nb": "c" * 64}, "parcel.damaged", "releases"),
        ({"SITE-1": "c" * 64}, "parcel.damaged", "'SITE-1'"),
        ({"site-2": ["c"]}, "release.sha256", "site-2: "),
        ({"site-4": "c" * 64}, "parcel.damaged", "site-4: "),
    ],
)
def test_a_list_that_is_not_the_pools_is_one_line(
    simulation: Simulation, site: SiteParty, tmp_path: Path, listed: object, code: str, name: str
) -> None:
    """Case 56, in the list of what was handed out."""
    folder = handed_out(simulation, tmp_path)
    if isinstance(listed, dict):
        listed = json.dumps({"general": GENERAL.key, "releases": listed})
    (folder / LIST_FILE).write_text(str(listed))
    refused(folder, site, code, name)
    (folder / LIST_FILE).unlink()
    refused(folder, site, "parcel.damaged", LIST_FILE)


def test_releases_of_another_general_model_are_not_replayed(
    simulation: Simulation, site: SiteParty, tmp_path: Path
) -> None:
    folder = handed_out(simulation, tmp_path)
    other = dataclasses.replace(GENERAL, key="b" * 64)
    with refuses("parcel.other-model", "b" * 8, GENERAL.key[:8]):
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
    with refuses("output.not-empty", str(folder)):
        write_shared(folder, ReplaySet(sites=(), parcels=()), GENERAL)
    assert (folder / "site-3" / "release.arrow").is_file()
