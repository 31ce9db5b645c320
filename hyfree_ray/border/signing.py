"""Proof of who made a release: Ed25519 signatures (RFC 8032) over the manifest's bytes.

A site keeps its private key in its own store; the pool holds the public ones. The manifest holds
the hash of the release's file, so one signature stands for both.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_FILE = "manifest.sig"
"""64 bytes beside the manifest."""

PUBLIC_KEY_FILE = "public.key"
"""Beside a release: the key with which its site claims to sign."""

SIGNATURE_BYTES = 64

KEY_BYTES = 32
"""Length of a public key."""

_PRIME = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = {0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8}
"""The y coordinates of the eight points whose order divides 8: one signature of such a key fits
every message, which the RFC leaves to who verifies."""


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the key in this file, readable by its owner alone; create it if there is none.

    Of several processes that come at the same time one creates it and all read the same.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Made with mode 600. A link, unlike a rename, never replaces a file.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp") as file:
            file.write(Ed25519PrivateKey.generate().private_bytes_raw())
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)
    return Ed25519PrivateKey.from_private_bytes(path.read_bytes())


def fingerprint(public_key: bytes) -> str:
    """Return a key as 16 hexadecimal digits, for people to compare."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def is_signed_by(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether the owner of the key has signed this; False also for an invalid or weak
    key."""
    y = int.from_bytes(public_key, "little") & (2**255 - 1)  # without the sign of x
    if y % _PRIME in _SMALL_ORDER:
        return False
    with contextlib.suppress(InvalidSignature, ValueError):
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        return True
    return False
