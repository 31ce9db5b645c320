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
    """Return whether the owner of the key has signed this; False also for an invalid key."""
    with contextlib.suppress(InvalidSignature, ValueError):
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        return True
    return False
