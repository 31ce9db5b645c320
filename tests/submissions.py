"""What phantom sites hand in to a pool: releases and notices, good or spoilt, and signed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hyfree_ray.border.release import ReleaseMetadata, write_release
from hyfree_ray.border.signing import signing_key
from hyfree_ray.border.withheld import Notice
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.federation.interface import Receipt
from hyfree_ray.federation.pool import PoolParty
from hyfree_ray.federation.simulation import Simulation
from hyfree_ray.federation.trust import sign
from tests.cards import card


def parcel(simulation: Simulation, site: str, folder: Path, **changes: object) -> Parcel:
    """A site's release, on its way."""
    labels = {"background": 0, "organ": 1, "lesion": 2}
    rng = np.random.default_rng(int(digest_of([site, changes.get("content", 0)])[:6], 16))
    images_NCHW = rng.integers(0, 256, (6, 1, 20, 28), dtype=np.uint8)
    labels_NHW = rng.integers(0, 3, (6, 20, 28), dtype=np.uint8)
    if "moved" in changes:  # a bright organ, labelled that many pixels too far right
        labels_NHW = np.zeros_like(labels_NHW)
        for row in range(len(labels_NHW)):
            labels_NHW[row, 5 + row : 15, 6 : 12 + row] = 1
        images_NCHW = (images_NCHW // 4) + 120 * labels_NHW[:, None]
        labels_NHW = np.roll(labels_NHW, int(str(changes["moved"])), axis=2)
    metadata = ReleaseMetadata(
        site=site,
        channel_names=("MR",),
        label_names=changes.get("labels", labels),  # type: ignore[arg-type]
        spacing=(2.0, 1.5),
        slice_axis=0,
        scale=(1.0,),
        offset=(0.0,),
        card=changes.get("card", card()),  # type: ignore[arg-type]
        quality=changes.get("quality", {}),  # type: ignore[arg-type]
    )
    write_release(
        folder / site,
        metadata,
        images_NCHW,
        labels_NHW,
        experiment=str(changes.get("federation", simulation.federation)),
        round_number=int(str(changes.get("round", 1))),
        nonce=str(changes.get("nonce", f"nonce of {site}")),
    )
    files = {
        name: (folder / site / name).read_bytes() for name in ("release.arrow", "manifest.json")
    }
    if changes.get("flip"):
        content = bytearray(files["release.arrow"])
        content[len(content) // 2] ^= 1
        files["release.arrow"] = bytes(content)
    if changes.get("signed", True):
        signer = str(changes.get("signer", site))
        files["manifest.sig"] = key_of(folder, signer).sign(files["manifest.json"])
    result = {"outcome": "released", "reason": None, "rejection_rate": 0.1, "images": 6}
    key = digest_of([site, changes.get("key", 0)])
    return Parcel(sender=site, stage="release", key=key, files=files, result=result)


def notice(
    simulation: Simulation, site: str, folder: Path, /, signer: str = "", **changes: Any
) -> Parcel:
    """A site's word that it withholds."""
    told = Notice.of(site, simulation.federation, "too small", 0.9)
    text = json.dumps(json.loads(told.to_json()) | changes).encode()
    key = digest_of([site, text.decode()])
    result = {"outcome": "released", "reason": "unsigned", "rejection_rate": 0.0}
    handed = Parcel(
        sender=site, stage="release", key=key, files={"withheld.json": text}, result=result
    )
    return sign(handed, "withheld.json", key_of(folder, signer or site))


def key_of(folder: Path, site: str) -> Ed25519PrivateKey:
    return signing_key(folder / "keys" / site)


def take(pool: PoolParty, site: str, parcel: Parcel) -> Receipt:
    return asyncio.run(pool.take(site, parcel))
