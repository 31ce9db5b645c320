from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from hyfree_ray.core.files import replacing
from hyfree_ray.core.folders import UNFINISHED, filling, refilling
from hyfree_ray.core.untrusted import UntrustedFileError, read_untrusted
from tests.refusals import refuses


def test_a_name_always_holds_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    with contextlib.suppress(RuntimeError), replacing(path) as file:
        file.write(b"sec")
        raise RuntimeError
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_exchange_that_was_broken_off_a_write_that_fails_keeps_the_folder_known(
    tmp_path: Path,
) -> None:
    """As where the disk is full at the second try: nothing but `UNFINISHED` says whose it is."""
    (tmp_path / UNFINISHED / "new").mkdir(parents=True)
    (tmp_path / "old.txt").write_text("half of the older content")
    (tmp_path / "mine.txt").write_text("somebody's note")
    with pytest.raises(OSError, match="full"), refilling(tmp_path, "marker", ["old.txt"]):
        raise OSError("full")
    assert {path.name for path in tmp_path.iterdir()} == {UNFINISHED, "mine.txt"}
    with refilling(tmp_path, "marker", ["old.txt"]) as coming:
        (coming / "marker").write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"marker", "mine.txt"}


def test_a_write_that_fails_leaves_a_new_folder_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with pytest.raises(OSError, match="full"), refilling(folder, "marker", []):
        raise OSError("full")
    assert not folder.exists()


def test_a_folder_that_is_used_while_its_content_is_made_keeps_what_was_put_there(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"

    def use_it_meanwhile() -> None:
        folder.mkdir()
        (folder / "mine.txt").write_text("a note")

    with refuses("output.not-empty", str(folder)), filling(folder):
        use_it_meanwhile()
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert list(tmp_path.iterdir()) == [folder]
    (folder / "mine.txt").unlink()
    (folder / ".lock").touch()  # of who has looked whether it can write there
    with filling(folder) as partial:
        (partial / "made").touch()
    assert [path.name for path in folder.iterdir()] == ["made"]


def test_all_bytes_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 40_000)
    assert read_untrusted(tmp_path / "file", most=1 << 24) == bytes(range(256)) * 40_000
    (tmp_path / "empty").touch()
    assert read_untrusted(tmp_path / "empty", most=0, expected=0) == b""


def test_only_as_many_bytes_as_allowed_and_expected_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(UntrustedFileError) as caught:
        read_untrusted(tmp_path / "file", most=4)
    assert caught.value.rule == "too-large"
    with pytest.raises(UntrustedFileError) as caught:
        read_untrusted(tmp_path / "file", most=10, expected=6)
    assert caught.value.rule == "bytes"
    with pytest.raises(UntrustedFileError) as caught:
        read_untrusted(tmp_path / "nothing", most=10)
    assert caught.value.rule == "missing"
