"""`hyfree-ray pool train`: what it writes, and where it does not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.parcels import Parcel
from tests.commands.pool.folders import federation, hand_in, put, train
from tests.refusals import refused


@pytest.mark.parametrize("where", ["general/notes.txt", "general/releases/notes.txt"])
def test_a_folder_of_something_else_is_refused_before_anything_is_read(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]], where: str
) -> None:
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B")]
    if "releases" in where:
        assert train(tmp_path, *folders).exit_code == 0
        shutil.rmtree(tmp_path / "general" / "releases")
        shutil.rmtree(tmp_path / "store")
        trained.clear()
    (tmp_path / where).parent.mkdir(parents=True)
    (tmp_path / where).write_text("mine")
    done = train(tmp_path, *folders)
    refused(done, "output.not-empty", "--out")
    assert trained == []
    assert not (tmp_path / "store").exists()
    assert (tmp_path / where).read_text() == "mine"


def below_a_file(root: Path, _: pytest.MonkeyPatch) -> str:
    (root / "general").touch()
    return "Not a directory"


def on_a_disk_that_is_read_only(_: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that is only read-only stops no root."""

    def frozen(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", frozen)
    return "Read-only file system"


@pytest.mark.parametrize("harm", [below_a_file, on_a_disk_that_is_read_only])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path,
    smoke: Experiment,
    trained: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path, pytest.MonkeyPatch], str],
) -> None:
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B")]
    why = harm(tmp_path, monkeypatch)
    done = train(tmp_path, *folders, options=("--out", tmp_path / "general" / "of" / "it"))
    refused(done, "output.not-writable", "general/of/it", why)
    assert trained == []
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "general").is_dir()


def test_releases_of_an_older_model_do_not_stay_beside_one_that_is_not_replayed(
    tmp_path: Path, smoke: Experiment
) -> None:
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B")]
    handed_out = tmp_path / "general" / "releases"
    assert f"in {handed_out}" in train(tmp_path, *folders).output.replace("\n", "")
    assert (handed_out / "releases.json").is_file()
    assert train(tmp_path, *folders, options=("--set", "settings=[]")).exit_code == 0
    assert not handed_out.exists()
    assert (tmp_path / "general" / "parcel.json").is_file()


def test_a_release_that_is_written_anew_leaves_nothing_of_the_older(
    tmp_path: Path, smoke: Experiment
) -> None:
    folder = hand_in(tmp_path, "A", federation(smoke))
    parcel = Parcel(
        sender="A", stage="release", key="a" * 64, files={"withheld.json": b"{}"}, result={}
    )
    put(tmp_path, parcel)
    left = sorted(file.name for file in folder.iterdir())
    assert left == ["parcel.json", "public.key", "withheld.json"]
