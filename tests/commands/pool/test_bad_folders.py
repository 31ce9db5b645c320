"""`hyfree-ray pool train`: what is wrong with one folder is its sender's, and the others go on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyfree_ray.border import manifest, release
from hyfree_ray.border.manifest import key_of
from hyfree_ray.border.withheld import Notice
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.federation.trust import sign
from tests.commands.pool.folders import TASK, federation, hand_in, key_at, put, quarantined, train
from tests.refusals import refused


def torn_json(root: Path, site: str, made_for: str) -> str:
    (hand_in(root, site, made_for) / "parcel.json").write_text("{")
    return f"refused: {root}/in/{site}: "


def no_file(root: Path, site: str, made_for: str) -> str:
    (hand_in(root, site, made_for) / "release.arrow").unlink()
    return f"{site}: release refused (missing)"


def no_manifest(root: Path, site: str, made_for: str) -> str:
    (hand_in(root, site, made_for) / "manifest.json").unlink()
    return f"refused: {root}/in/{site}: "


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
    return f"refused: {site!a}: "


def with_a_file_more(root: Path, site: str, made_for: str) -> str:
    (with_more_files(root, site, made_for, "evil.pth") / "evil.pth").write_bytes(b"\x80\x04")
    return f"{site}: release refused (parcel): it holds 'evil.pth'"


def of_an_odd_name(root: Path, site: str, made_for: str) -> str:
    hand_in(root, f"-{site}", made_for)
    return f"refused: {root}/in/-{site}: "


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


def test_a_folders_name_neither_ends_a_line_nor_steers_the_terminal(
    tmp_path: Path, smoke: Experiment
) -> None:
    """Case 106: a folder could be called as if the pool had said something."""
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("Y", "Z")]
    for number, name in enumerate(
        ("\x1b[2J\x1b]0;owned\x07", "A\nA: accepted: 6 images", "\u202eA")
    ):
        fake = tmp_path / "in" / name
        fake.mkdir()
        (fake / "parcel.json").write_text("{}" if number else "[" * 100_000)
        folders.append(fake)
    done = train(tmp_path, *folders)
    assert done.exit_code == 0, done.output
    lines = done.output.split("\n")
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.startswith("A: accepted")]


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
    assert done.exit_code == 3
    assert "A: release refused (signature)" in done.output
    refused(done, "round.too-few-releases")
    assert not (tmp_path / "general").exists()


def test_one_good_release_is_too_few_sites(tmp_path: Path, smoke: Experiment) -> None:
    done = train(tmp_path, hand_in(tmp_path, "A", federation(smoke)))
    refused(done, "round.too-few-releases")
    assert done.exit_code == 3
    assert not (tmp_path / "general").exists()


def test_a_release_of_other_settings_alone_says_which_options_are_to_agree(
    tmp_path: Path, smoke: Experiment
) -> None:
    for site in ("B", "C"):
        hand_in(tmp_path, site, federation(smoke))
    done = train(
        tmp_path, *(tmp_path / "in").iterdir(), options=("--set", "threshold_percentile=1.0")
    )
    refused(done, "round.other-settings", "--budget, --generator, --config and --set")


def test_a_site_that_withholds_is_named_and_the_others_go_on(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 94."""
    for site in ("B", "C"):
        hand_in(tmp_path, site, federation(smoke))
    text = Notice.of("A", federation(smoke), "too small", 0.9).to_json()
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
    from hyfree_ray.border import opening

    honest, read = release.read_release, []

    def counted(folder: Path, **known: Any) -> release.Release:
        read.append(known["site"])
        return honest(folder, **known)

    for module in (release, opening):
        monkeypatch.setattr(module, "read_release", counted)
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B")]
    for _ in range(2):
        assert "B: accepted: 6 images" in train(tmp_path, *folders).output
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
    assert first.exit_code == (0 if len(others) > 1 else 3)
    file.write_bytes(whole)
    for _ in range(2):
        mended = train(tmp_path, *folders)
        assert mended.exit_code == 0, mended.output
        assert "Z: accepted: 6 images" in mended.output
        assert trained[-1] == [*others, "Z"]
    rounds = [json.loads(file.read_text()) for file in tmp_path.glob("store/pool/rounds/*/?.json")]
    assert sorted(map(len, (one["releases"] for one in rounds))) == [
        *([2] if len(others) > 1 else []),
        len(others) + 1,
    ]
