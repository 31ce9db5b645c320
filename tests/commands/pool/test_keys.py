"""`hyfree-ray pool train`: whose key is whose."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyfree_ray.border.manifest import Addressee
from hyfree_ray.border.signing import fingerprint
from hyfree_ray.config.experiment import Experiment
from tests.commands.pool.folders import (
    federation,
    hand_in,
    key_at,
    quarantined,
    train,
    withhold,
)
from tests.refusals import refused


def test_a_key_is_believed_once_and_printed_and_another_later_is_refused(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 53: that site alone is refused, until somebody has asked the hospital."""
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B", "C")]
    first = train(tmp_path, *folders)
    public = key_at(tmp_path, "A").public_key().public_bytes_raw()
    assert f"A: accepted: 6 images, key {fingerprint(public)}" in first.output
    (tmp_path / "keys" / "A").unlink()
    hand_in(tmp_path, "A", federation(smoke))
    second = train(tmp_path, *folders)
    assert second.exit_code == 0, second.output
    assert "A: release refused (signature): " in second.output
    assert str(tmp_path / "store" / "pool" / "trusted" / "A") in second.output.replace("\n", "")
    assert trained == [["A", "B", "C"], ["B", "C"]]


def test_who_signs_wrongly_is_not_believed_the_first_time(
    tmp_path: Path, smoke: Experiment
) -> None:
    hand_in(tmp_path, "A", federation(smoke), signer="somebody else")
    train(tmp_path, tmp_path / "in" / "A")
    assert not (tmp_path / "store" / "pool" / "trusted" / "A").exists()


@pytest.mark.parametrize("text", [b"junk", b'{"site":"A"}'])
def test_junk_signed_in_a_sites_name_teaches_no_key_and_the_site_is_taken_later(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]], text: bytes
) -> None:
    """Case 104: a key is stored once its release was accepted."""
    stored = tmp_path / "store" / "pool" / "trusted"
    for site in ("B", "C"):
        hand_in(tmp_path, site, federation(smoke))
    fake = hand_in(tmp_path, "A", federation(smoke))
    (fake / "manifest.json").write_bytes(text)
    (fake / "manifest.sig").write_bytes(key_at(tmp_path, "A").sign(text))
    first = train(tmp_path, *(tmp_path / "in").iterdir())
    assert "A: release refused (manifest): " in first.output
    assert sorted(path.name for path in stored.iterdir()) == ["B", "C"]
    (tmp_path / "keys" / "A").unlink()  # the hospital's own key is another than the stranger's
    hand_in(tmp_path, "A", federation(smoke))
    second = train(tmp_path, *(tmp_path / "in").iterdir())
    assert "A: accepted: 6 images" in second.output
    assert trained == [["B", "C"], ["A", "B", "C"]]


def test_a_site_that_looks_like_one_of_an_earlier_round_is_refused(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 107: also where the two never come together; whole names of Cyrillic letters."""
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("ABC", "Y", "Z")]
    train(tmp_path, *folders)
    alike = hand_in(tmp_path, "АВС", federation(smoke))
    done = train(tmp_path, alike, *folders[1:])
    assert ": release refused (site): " in done.output
    assert trained == [["ABC", "Y", "Z"], ["Y", "Z"]]
    mixed = hand_in(tmp_path, "Ch\u0430rite", federation(smoke))
    refusals = [
        line
        for line in train(tmp_path, mixed, *folders[1:]).output.splitlines()
        if line.startswith("refused: ")
    ]
    assert len(refusals) == 1
    assert "'Ch\\u0430rite'" in refusals[0]


def test_a_release_made_for_one_pool_is_not_taken_by_another(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 105: what a hospital signs names pool and federation, and neither can be edited."""
    theirs, ours = (Addressee(pool=pool, federation="lungs") for pool in ("Basel", "Bern"))
    for site, whom in (("A", theirs), ("B", ours), ("C", ours)):
        hand_in(tmp_path, site, federation(smoke, addressee=whom), addressee=whom)
    named = ("--set", "pool=Bern", "--set", "federation=lungs")
    done = train(tmp_path, *(tmp_path / "in").iterdir(), options=named)
    assert "A: release refused (addressee): " in done.output
    assert trained == [["B", "C"]]
    manifest = tmp_path / "in" / "A" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("Basel", "Bern"))
    done = train(tmp_path, *(tmp_path / "in").iterdir(), options=named)
    assert "A: release refused (signature): " in done.output
    nobody = train(tmp_path, *(tmp_path / "in").iterdir())
    refused(nobody, "round.other-settings")


def test_a_release_older_than_a_sites_newest_is_refused_until_somebody_says_so(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 113: whoever carries folders could go back to it, and nobody would notice."""
    others = [hand_in(tmp_path, site, federation(smoke)) for site in ("B", "C")]
    older = hand_in(tmp_path, "A", federation(smoke))
    newer = hand_in(tmp_path, "A", federation(smoke), folder="A again")
    for folder, taken in ((older, True), (newer, True), (newer, True), (older, False)):
        done = train(tmp_path, folder, *others)
        assert ("A: accepted" in done.output) == taken
        assert ("A: release refused (older): " in done.output) != taken
    assert trained == [["A", "B", "C"]] * 3 + [["B", "C"]]
    assert "(older)" in quarantined(tmp_path)["A"]
    assert "A: accepted" in train(tmp_path, older, *others, options=("--allow-older",)).output


def test_a_release_is_not_taken_again_once_its_site_withholds(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 113: the same rollback, to a time before the hospital thought better of it."""
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B", "C")]
    train(tmp_path, *folders)
    train(tmp_path, withhold(tmp_path, "A", federation(smoke)), *folders[1:])
    assert "A: release refused (older): " in train(tmp_path, *folders).output
    assert trained == [["A", "B", "C"], ["B", "C"], ["B", "C"]]


def test_a_release_for_another_experiment_makes_none_older(
    tmp_path: Path, smoke: Experiment
) -> None:
    """Case 113: another seed of a study, say: its releases come after those of the first one."""
    first = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B")]
    other = federation(smoke, task="u" * 32)
    second = [hand_in(tmp_path, site, other, folder=f"{site} again") for site in ("A", "B")]
    for folders in (first, second, first):
        assert train(tmp_path, *folders).output.count(": accepted: ") == 2


def test_a_pool_without_a_name_says_that_releases_for_it_fit_others(
    tmp_path: Path, smoke: Experiment
) -> None:
    """Case 105."""
    folders = [hand_in(tmp_path, site, federation(smoke)) for site in ("A", "B")]
    assert "has no name" in train(tmp_path, *folders).output


def test_a_link_in_a_handed_in_folder_is_not_followed(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 106: nor is the release behind it taken in."""
    for site in ("A", "B", "C"):
        hand_in(tmp_path, site, federation(smoke))
    file = tmp_path / "in" / "A" / "release.arrow"
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    done = train(tmp_path, *(tmp_path / "in").iterdir())
    assert "A: release refused (not-a-file): " in done.output
    assert trained == [["B", "C"]]


def test_two_strangers_of_one_name_are_both_refused(
    tmp_path: Path, smoke: Experiment, trained: list[list[str]]
) -> None:
    """Case 53: the first to come is not the site because it is the first."""
    for site in ("A", "B", "C"):
        hand_in(tmp_path, site, federation(smoke))
    (tmp_path / "keys" / "A").unlink()
    hand_in(tmp_path, "A", federation(smoke), folder="0")
    done = train(tmp_path, *(tmp_path / "in").iterdir())
    assert done.output.count("A: release refused (signature): ") == 2
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
    assert "A: release refused (signature): manifest.json" in done.output
    refusal = "D: release refused (signature): "
    assert any(line.startswith(refusal) and "D.key" in line for line in done.output.splitlines())
    assert trained == [["B", "C"]]
    (keys / "B.key").write_bytes(b"short")
    broken = train(tmp_path, *(tmp_path / "in").iterdir(), options=("--keys", keys))
    refused(broken, "option.bad-key", "B.key", "5 bytes", "32")
