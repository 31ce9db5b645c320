"""`hyfree-ray pool train`: whose key is whose."""

from __future__ import annotations

from pathlib import Path

from hyfree_ray.border.signing import fingerprint
from hyfree_ray.config.experiment import Experiment
from tests.commands.pool.folders import federation, hand_in, key_at, train
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
