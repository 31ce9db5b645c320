"""Signatures: made with a key that stays, checked against one that is known."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hyfree_ray.border.signing import SIGNATURE_BYTES, is_signed_by, signing_key


def test_a_key_is_made_once_and_read_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signing.key"
    first = signing_key(path)
    assert path.stat().st_mode & 0o077 == 0
    assert signing_key(path).private_bytes_raw() == first.private_bytes_raw()
    other = signing_key(tmp_path / "other")
    assert other.private_bytes_raw() != first.private_bytes_raw()


def test_of_many_that_make_a_key_at_once_all_have_the_same(tmp_path: Path) -> None:
    count = 16
    for round_number in range(10):
        path, together = tmp_path / f"{round_number}" / "signing.key", threading.Barrier(count)

        def make(_: int, path: Path = path, together: threading.Barrier = together) -> bytes:
            together.wait()
            return signing_key(path).private_bytes_raw()

        with ThreadPoolExecutor(count) as pool:
            assert len(set(pool.map(make, range(count)))) == 1
        assert [file.name for file in path.parent.iterdir()] == ["signing.key"]
        assert path.stat().st_mode & 0o077 == 0


def test_only_the_owners_signature_over_the_very_bytes_counts(tmp_path: Path) -> None:
    key, other = signing_key(tmp_path / "a"), signing_key(tmp_path / "b")
    public, message = key.public_key().public_bytes_raw(), b"{manifest}"
    signature = key.sign(message)
    assert len(signature) == SIGNATURE_BYTES
    assert is_signed_by(public, message, signature)
    assert not is_signed_by(public, message + b" ", signature)
    assert not is_signed_by(public, message, other.sign(message))
    assert not is_signed_by(public, message, signature[:-1])
    assert not is_signed_by(b"no key", message, signature)
    assert not is_signed_by(public, message, b"")
