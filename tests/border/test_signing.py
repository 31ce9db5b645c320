"""Signatures: made with a key that stays, checked against one that is known."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hyfree_ray.border import signing
from hyfree_ray.border.manifest import Manifest
from hyfree_ray.border.signing import SIGNATURE_BYTES, is_signed_by, signing_key
from hyfree_ray.border.withheld import Notice


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


@pytest.mark.parametrize("sign_of_x", [0, 128])
@pytest.mark.parametrize("y", sorted([*signing._SMALL_ORDER, 2**255 - 19, 2**255 - 18]))
def test_a_key_whose_one_signature_would_fit_every_message_signs_nothing(
    y: int, sign_of_x: int
) -> None:
    """Case 108: the identity, signed by R = identity and S = 0, and the other weak points."""
    key = bytearray(y.to_bytes(32, "little"))
    key[-1] |= sign_of_x
    fits_everything = bytes(key) + bytes(32)
    for message in (b"anything", b"another"):
        assert not is_signed_by(bytes(key), message, fits_everything)
        assert not is_signed_by(bytes(key), message, bytes([1]) + bytes(63))


MADE = {"site": "Ä-1", "experiment": f"{'t' * 32}-{'r' * 32}"}
MANIFEST = Manifest(**MADE, round=1, nonce="n1", rows=6, sha256="0f" * 32, bytes=4242)
NOTICE = Notice.of(**MADE, reason="too small", rate=0.876)


@pytest.mark.parametrize(
    ("statement", "signature"),
    [
        (
            MANIFEST,
            "4ebcf6919300842ff5677799b58f0703dcc7a7c9f3b407f51f30328f5c88b901"
            "34adfcd152b41596d0a6afc65b8b48fc82facabad31336af46f6b12c68628300",
        ),
        (
            NOTICE,
            "2e81fd6a8617c5a56ef07e9874d049f6e7320b8d3e53ebe0bdd5f306b54cd51f"
            "97b27ebc0cf0af889612ac21372fc20fdddfe5583162fcba64d1681328e3a00a",
        ),
    ],
    ids=["manifest", "notice"],
)
def test_what_was_signed_before_has_the_same_bytes_and_the_same_signature_now(
    statement: Manifest | Notice, signature: str
) -> None:
    """Ed25519 signs equal bytes equally; hospitals and centres are not updated on one day."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    assert key.sign(statement.to_json().encode()).hex() == signature
    assert type(statement).from_json(statement.to_json()) == statement


@pytest.mark.parametrize("statement", [MANIFEST, NOTICE], ids=["manifest", "notice"])
@pytest.mark.parametrize(
    "changed",
    [
        {"version": 9}, {"version": True}, {"site": ""}, {"site": "a\nb"}, {"experiment": None},
        {"round": -1}, {"round": (1 << 31) + 1}, {"round": 1.0}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_who_what_for_and_when_are_read_strictly_whatever_was_signed(
    statement: Manifest | Notice, changed: dict[str, object]
) -> None:
    text = json.dumps(json.loads(statement.to_json()) | changed)
    with pytest.raises(ValueError, match=next(iter(changed))):
        type(statement).from_json(text)
