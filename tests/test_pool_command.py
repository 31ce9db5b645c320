"""`hyfree-ray pool train`: what is wrong with one folder is its sender's, and the others go on."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hyfree_ray.border import manifest, release
from hyfree_ray.border.manifest import key_of
from hyfree_ray.border.release import ReleaseMetadata, write_release
from hyfree_ray.border.signing import fingerprint, signing_key
from hyfree_ray.border.withheld import Notice
from hyfree_ray.cli import main
from hyfree_ray.config import Experiment
from hyfree_ray.errors import HyfreeError
from hyfree_ray.parcel_files import read_handed_in, read_parcel, write_parcel
from hyfree_ray.pool import PoolParty
from hyfree_ray.site import RELEASE_VERSIONS
from hyfree_ray.store import Parcel, digest_of
from hyfree_ray.trust import sign
from tests.cards import card

TASK = "t" * 32


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Whose releases general models would have been trained on: trainings are others' tests."""
    members: list[list[str]] = []

    async def general(_: PoolParty, releases: dict[str, str]) -> Parcel:
        members.append(sorted(releases))
        return Parcel(sender="pool", stage="train_general", key="a" * 64, files={}, result={})

    async def nothing(_: PoolParty, releases: dict[str, str]) -> Any:
        return {}

    monkeypatch.setattr(PoolParty, "general", general)
    monkeypatch.setattr(PoolParty, "agreement", nothing)
    return members


def federation(experiment: Experiment, task: str = TASK) -> str:
    return key_of(task, experiment.recipe(RELEASE_VERSIONS))


def hand_in(
    root: Path,
    site: str,
    made_for: str,
    *,
    signer: str = "",
    labels: tuple[str, ...] = ("organ",),
    folder: str = "",
) -> Path:
    """A signed release, as a folder in `root/in`."""
    rng = np.random.default_rng(int(digest_of([site, folder])[:6], 16))
    metadata = ReleaseMetadata(
        site=site,
        channel_names=("MR",),
        label_names={name: value for value, name in enumerate(("background", *labels))},
        spacing=(2.0, 1.5),
        slice_axis=0,
        scale=(1.0,),
        offset=(0.0,),
        card=card(),
    )
    made = root / "made" / (folder or site)
    write_release(
        made,
        metadata,
        rng.integers(0, 256, (6, 1, 20, 28), dtype=np.uint8),
        rng.integers(0, 2, (6, 20, 28), dtype=np.uint8),
        experiment=made_for,
        round_number=1,
        nonce=f"of {site} {folder}",
    )
    files = {name: (made / name).read_bytes() for name in ("release.arrow", "manifest.json")}
    result = {"outcome": "released", "rejection_rate": 0.0}
    key = digest_of([site, folder])
    parcel = Parcel(sender=site, stage="release", key=key, files=files, result=result)
    return put(root, sign(parcel, "manifest.json", key_at(root, signer or site)), folder)


def put(root: Path, parcel: Parcel, folder: str = "") -> Path:
    """Parcels travel with the key that their sender says is its own."""
    public = key_at(root, parcel.sender).public_key().public_bytes_raw()
    to = root / "in" / (folder or parcel.sender)
    write_parcel(to, dataclasses.replace(parcel, files={**parcel.files, "public.key": public}))
    return to


def key_at(root: Path, name: str) -> Any:
    return signing_key(root / "keys" / name)


def train(root: Path, *folders: Path, options: tuple[Any, ...] = ()) -> Result:
    named = [*map(str, folders), "--store", str(root / "store"), "--out", str(root / "general")]
    smoke = ["--budget", "smoke", "--generator", "flow", "--device", "cpu"]
    return CliRunner().invoke(main, ["pool", "train", *named, *smoke, *map(str, options)])


def quarantined(root: Path) -> dict[str, str]:
    """By site, why."""
    folders = root.glob("store/pool/quarantine/*")
    return {f.name.rpartition("-")[0]: (f / "reason.txt").read_text() for f in folders}


# ---- what is wrong with one is not the others' ----


def torn_json(root: Path, site: str, made_for: str) -> str:
    (hand_in(root, site, made_for) / "parcel.json").write_text("{")
    return f"in/{site}: not a whole parcel"


def no_file(root: Path, site: str, made_for: str) -> str:
    (hand_in(root, site, made_for) / "release.arrow").unlink()
    return f"{site}: release refused (missing)"


def no_manifest(root: Path, site: str, made_for: str) -> str:
    (hand_in(root, site, made_for) / "manifest.json").unlink()
    return f"in/{site}: not a whole parcel (there is no manifest.json)"


def cut_short(root: Path, site: str, made_for: str) -> str:
    file = hand_in(root, site, made_for) / "release.arrow"
    file.write_bytes(file.read_bytes()[:-1])
    return f"{site}: release refused (bytes)"


def unsigned(root: Path, site: str, made_for: str) -> str:
    """It asks for another task, and its file would be parsed first."""
    (hand_in(root, site, "another") / "manifest.sig").write_bytes(b"\0" * 64)
    return f"{site}: release refused (signature)"


def of_another_task(root: Path, site: str, made_for: str) -> str:
    hand_in(root, site, made_for.replace(TASK, "o" * 32), labels=("kidney",))
    return f"{site}: release refused (experiment)"


def of_other_settings(root: Path, site: str, made_for: str) -> str:
    hand_in(root, site, key_of(TASK, "o" * 32))
    return f"{site}: release refused (experiment)"


def of_a_task_that_it_lies_about(root: Path, site: str, made_for: str) -> str:
    hand_in(root, site, made_for, labels=("kidney",))
    return f"{site}: release refused (task)"


def with_more_files(root: Path, site: str, made_for: str, *names: str) -> Path:
    folder = hand_in(root, site, made_for)
    described = json.loads((folder / "parcel.json").read_text())
    described["files"] += names
    (folder / "parcel.json").write_text(json.dumps(described))
    return folder


def with_names_that_clash(root: Path, site: str, made_for: str) -> str:
    with_more_files(root, site, made_for, "x", "x/y")
    return f"{site!a}: refused a parcel with a name outside of it"


def with_a_file_more(root: Path, site: str, made_for: str) -> str:
    (with_more_files(root, site, made_for, "evil.pth") / "evil.pth").write_bytes(b"\x80\x04")
    return f"{site}: release refused (parcel): it holds 'evil.pth'"


def of_an_odd_name(root: Path, site: str, made_for: str) -> str:
    hand_in(root, f"-{site}", made_for)
    return f"refused: {root}/in/-{site}: site name '-{site}' is not safe"


def of_a_name_that_is_taken(root: Path, site: str, made_for: str) -> str:
    hand_in(root, "y", made_for, folder="~last")
    return "y: release refused (site)"


HARM = (
    torn_json, no_file, no_manifest, cut_short, unsigned, of_another_task, of_other_settings,
    of_a_task_that_it_lies_about, with_names_that_clash, with_a_file_more, of_an_odd_name,
    of_a_name_that_is_taken,
)  # fmt: skip


def test_bad_folders_are_refused_each_by_name_and_the_others_are_trained_on(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Cases 53 and 56: they come first, and neither abort the rest nor say what their task is."""
    made_for = federation(smoke)
    said = {f"A{n}": harm(tmp_path, f"A{n}", made_for) for n, harm in enumerate(HARM)}
    for site in ("Y", "Z"):
        hand_in(tmp_path, site, made_for)
    done = train(tmp_path, *(tmp_path / "in").iterdir())
    assert done.exit_code == 0, done.output
    assert [line for line in said.values() if line not in done.output.replace("\n", "")] == []
    assert "sites.csv" not in done.output  # the centre has none
    assert trained == [["Y", "Z"]]
    kept = quarantined(tmp_path)
    named = {line[: line.index(":")] for line in said.values() if ": release refused" in line}
    assert kept.keys() == named
    assert len(named) == 8
    assert all(kept[site].startswith(f"{site}: release refused (") for site in named)
    arrows = list(tmp_path.glob("store/pool/quarantine/*/release.arrow"))
    assert arrows
    assert all(file.stat().st_size > 1000 for file in arrows)  # what was not read is not there
    assert not list(tmp_path.rglob("store/**/evil.pth"))


def test_a_release_that_nobody_signed_is_not_parsed(
    tmp_path: Path, smoke: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 53: neither its manifest nor its file, in no process."""

    def never(*_: object) -> None:
        raise AssertionError("parsed")

    (hand_in(tmp_path, "A", federation(smoke)) / "manifest.sig").write_bytes(b"\0" * 64)
    monkeypatch.setattr(manifest, "parse_manifest", never)
    monkeypatch.setattr(subprocess, "Popen", never)
    monkeypatch.setattr(release, "read_release", never)
    done = train(tmp_path, tmp_path / "in" / "A")
    assert done.exit_code == 2
    assert "A: release refused (signature)" in done.output
    assert "none of these releases is signed and good" in done.output
    assert not (tmp_path / "general").exists()


def test_a_release_of_other_settings_alone_says_which_options_are_to_agree(
    tmp_path: Path, smoke: Experiment
) -> None:
    for site in ("B", "C"):
        hand_in(tmp_path, site, federation(smoke))
    done = train(
        tmp_path, *(tmp_path / "in").iterdir(), options=("--set", "threshold_percentile=1.0")
    )
    assert done.exit_code == 2
    assert "give the same --budget, --generator, --config and --set" in done.output


def test_a_site_that_withholds_is_named_and_the_others_go_on(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 94."""
    for site in ("B", "C"):
        hand_in(tmp_path, site, federation(smoke))
    text = Notice.of("A", federation(smoke), 1, "too small", 0.9).to_json()
    files = {"withheld.json": text.encode()}
    parcel = Parcel(sender="A", stage="release", key=digest_of("A"), files=files, result={})
    put(tmp_path, sign(parcel, "withheld.json", key_at(tmp_path, "A")))
    done = train(tmp_path, *(tmp_path / "in").iterdir())
    assert "A: withheld: too small" in done.output
    assert trained == [["B", "C"]]


def test_a_file_is_read_here_once_and_by_the_same_command_again_not_at_all(
    tmp_path: Path, smoke: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have gigabytes; what it is for is told by the process that checks it."""
    from hyfree_ray.commands import release as by_hand

    honest, read = release.read_release, []

    def counted(folder: Path, **known: Any) -> release.Release:
        read.append(known["site"])
        return honest(folder, **known)

    for module in (release, by_hand):
        monkeypatch.setattr(module, "read_release", counted)
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B")]
    for _ in range(2):
        assert "B: taken: 6 images" in train(tmp_path, *folders).output
        assert read == ["A", "B"]


def torn(content: bytes) -> bytes:
    """As a copy that was interrupted."""
    return content[:-100]


def flipped(content: bytes) -> bytes:
    """As a disk that fails: of the size that was signed for."""
    return content[:-200] + bytes([content[-200] ^ 1]) + content[-199:]


@pytest.mark.parametrize(("others", "damaged"), [(("A",), flipped), (("A", "B"), torn)])
def test_a_release_that_came_in_damaged_is_taken_once_it_is_copied_again(
    tmp_path: Path,
    smoke: Experiment,
    trained: list[list[str]],
    others: tuple[str, ...],
    damaged: Callable[[bytes], bytes],
) -> None:
    """Whether the others were enough for a round or not; no round is of one alone."""
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in (*others, "Z")]
    file = folders[-1] / "release.arrow"
    whole = file.read_bytes()
    file.write_bytes(damaged(whole))
    first = train(tmp_path, *folders)
    assert "Z: release refused (" in first.output
    assert first.exit_code == (0 if len(others) > 1 else 2)
    file.write_bytes(whole)
    for _ in range(2):
        mended = train(tmp_path, *folders)
        assert mended.exit_code == 0, mended.output
        assert "Z: taken: 6 images" in mended.output
        assert trained[-1] == [*others, "Z"]
    rounds = [json.loads(file.read_text()) for file in tmp_path.glob("store/pool/rounds/*/?.json")]
    assert sorted(map(len, (one["releases"] for one in rounds))) == [
        *([2] if len(others) > 1 else []),
        len(others) + 1,
    ]


# ---- what is written ----


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
    assert done.exit_code == 2
    assert "is there already; name a new or an empty folder by --out" in done.output
    assert trained == []
    assert not (tmp_path / "store").exists()
    assert (tmp_path / where).read_text() == "mine"


def below_a_file(root: Path, _: pytest.MonkeyPatch) -> str:
    (root / "general").touch()
    return "general/of/it: cannot be written (Not a directory)"


def on_a_disk_that_is_read_only(_: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that is only read-only stops no root."""

    def frozen(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", frozen)
    return "general/of/it: cannot be written (Read-only file system)"


@pytest.mark.parametrize("harm", [below_a_file, on_a_disk_that_is_read_only])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path,
    smoke: Experiment,
    trained: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path, pytest.MonkeyPatch], str],
) -> None:
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B")]
    expected = harm(tmp_path, monkeypatch)
    done = train(tmp_path, *folders, options=("--out", tmp_path / "general" / "of" / "it"))
    assert done.exit_code == 2
    assert expected in done.output
    assert done.output.count("\n") == 1
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


# ---- whose key is whose ----


def test_a_key_is_believed_once_and_printed_and_another_later_is_refused(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 53: that site alone is refused, until somebody has asked the hospital."""
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B", "C")]
    first = train(tmp_path, *folders)
    public = key_at(tmp_path, "A").public_key().public_bytes_raw()
    assert f"A: taken: 6 images, key {fingerprint(public)}" in first.output
    (tmp_path / "keys" / "A").unlink()
    hand_in(tmp_path, "A", federation(smoke))
    second = train(tmp_path, *folders)
    assert second.exit_code == 0, second.output
    assert "A: release refused (signature): its key is not the one it had" in second.output
    assert trained == [["A", "B", "C"], ["B", "C"]]


def test_who_signs_wrongly_is_not_believed_the_first_time(
    tmp_path: Path, smoke: Experiment
) -> None:
    hand_in(tmp_path, "A", federation(smoke), signer="somebody else")
    train(tmp_path, tmp_path / "in" / "A")
    assert not (tmp_path / "store" / "pool" / "trusted" / "A").exists()


def test_two_strangers_of_one_name_are_both_refused(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 53: the first to come is not the site because it is the first."""
    for site in ("A", "B", "C"):
        hand_in(tmp_path, site, federation(smoke))
    (tmp_path / "keys" / "A").unlink()
    hand_in(tmp_path, "A", federation(smoke), folder="0")
    done = train(tmp_path, *(tmp_path / "in").iterdir())
    assert done.output.count("A: release refused (signature): two folders") == 2
    assert trained == [["B", "C"]]
    assert not (tmp_path / "store" / "pool" / "trusted" / "A").exists()


def test_keys_that_were_given_say_who_takes_part(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 53: what lies beside a release is not looked at."""
    keys = tmp_path / "given"
    keys.mkdir()
    for site in ("A", "B", "C", "D"):
        hand_in(tmp_path, site, federation(smoke))
    for site in ("A", "B", "C"):
        public = key_at(tmp_path, site).public_key().public_bytes_raw()
        (keys / f"{site}.key").write_bytes(public)
    (tmp_path / "keys" / "A").unlink()
    hand_in(tmp_path, "A", federation(smoke))  # somebody with another key, who says it is A's
    done = train(tmp_path, *(tmp_path / "in").iterdir(), options=("--keys", keys))
    assert done.exit_code == 0, done.output
    assert "A: release refused (signature): manifest.json is not signed" in done.output
    assert "D: release refused (signature): --keys has no D.key" in done.output
    assert trained == [["B", "C"]]
    (keys / "B.key").write_bytes(b"short")
    broken = train(tmp_path, *(tmp_path / "in").iterdir(), options=("--keys", keys))
    assert "5 bytes, a key has 32" in broken.output


# ---- memory ----


def forget_peak() -> None:
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
    forget_peak()
    before = peak_mib()
    assert "A: release refused (bytes)" in train(tmp_path, folder).output
    assert peak_mib() - before < 64
    (folder / "manifest.json").write_bytes(b" " * (65 << 10))
    with pytest.raises(HyfreeError, match="not a whole parcel"):
        read_handed_in(folder)


def test_a_parcel_of_any_kind_is_copied_once(tmp_path: Path) -> None:
    files = {"model/weights": b""}
    parcel = Parcel(sender="s", stage="train_general", key="a" * 64, files=files, result={})
    write_parcel(tmp_path / "p", parcel)
    weights = tmp_path / "p" / "model" / "weights"
    with weights.open("wb") as file:
        file.truncate(256 << 20)
    forget_peak()
    before = peak_mib()
    assert read_parcel(tmp_path / "p").bytes == 256 << 20
    assert peak_mib() - before < 300
    with weights.open("wb") as file:
        file.truncate(9 << 30)
    with pytest.raises(HyfreeError, match="over 8589934592"):
        read_parcel(tmp_path / "p")


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
