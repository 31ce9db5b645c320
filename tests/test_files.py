from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from hyfree_ray.files import UntrustedFileError, read_untrusted, replacing


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


def test_all_bytes_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 40_000)
    assert read_untrusted(tmp_path / "file", most=1 << 24) == bytes(range(256)) * 40_000
    (tmp_path / "empty").touch()
    assert read_untrusted(tmp_path / "empty", most=0, expected=0) == b""


def test_only_as_many_bytes_as_allowed_and_expected_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(UntrustedFileError, match="over 4") as caught:
        read_untrusted(tmp_path / "file", most=4)
    assert caught.value.rule == "too-large"
    with pytest.raises(UntrustedFileError, match="not 6") as caught:
        read_untrusted(tmp_path / "file", most=10, expected=6)
    assert caught.value.rule == "bytes"
    with pytest.raises(UntrustedFileError, match="no nothing") as caught:
        read_untrusted(tmp_path / "nothing", most=10)
    assert caught.value.rule == "missing"
