"""What hospitals hand in as folders, and the command that takes it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from hyfree_ray.border.manifest import Addressee, key_of
from hyfree_ray.border.release import ReleaseMetadata, write_release
from hyfree_ray.border.signing import signing_key
from hyfree_ray.border.withheld import NOTICE_FILE, Notice
from hyfree_ray.cli import main
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.federation.parcel_folders import write_parcel
from hyfree_ray.federation.release_versions import RELEASE_VERSIONS
from hyfree_ray.federation.trust import sign
from tests.cards import card

TASK = "t" * 32


def federation(experiment: Experiment, task: str = TASK, addressee: Addressee | None = None) -> str:
    return key_of(task, experiment.recipe(RELEASE_VERSIONS), addressee)


def hand_in(
    root: Path,
    site: str,
    made_for: str,
    *,
    signer: str = "",
    labels: tuple[str, ...] = ("organ",),
    folder: str = "",
    addressee: Addressee | None = None,
) -> Path:
    """A signed release, as a folder in `root/in`."""
    rng = np.random.default_rng(int(digest_of([site, folder])[:6], 16))
    metadata = ReleaseMetadata(
        site=site,
        channel_names=("MR",),
        label_names={name: value for value, name in enumerate(("background", *labels))},
        spacing=(2.0, 1.5),
        slice_axis=0,
        scale=(1.0,),
        offset=(0.0,),
        card=card(),
    )
    made = root / "made" / (folder or site)
    write_release(
        made,
        metadata,
        rng.integers(0, 256, (6, 1, 20, 28), dtype=np.uint8),
        rng.integers(0, 2, (6, 20, 28), dtype=np.uint8),
        experiment=made_for,
        addressee=addressee,
        nonce=f"of {site} {folder}",
    )
    files = {name: (made / name).read_bytes() for name in ("release.arrow", "manifest.json")}
    result = {"outcome": "released", "rejection_rate": 0.0}
    key = digest_of([site, folder])
    parcel = Parcel(sender=site, stage="release", key=key, files=files, result=result)
    return put(root, sign(parcel, "manifest.json", key_at(root, signer or site)), folder)


def withhold(root: Path, site: str, made_for: str) -> Path:
    """A signed notice that a site withholds, as a folder in `root/in`."""
    text = Notice.of(site, made_for, "too small", 0.9).to_json()
    files = {NOTICE_FILE: text.encode()}
    result = {"outcome": "withheld", "rejection_rate": 0.9}
    key = digest_of([site, text])
    parcel = Parcel(sender=site, stage="release", key=key, files=files, result=result)
    return put(root, sign(parcel, NOTICE_FILE, key_at(root, site)), f"{site} withholds")


def put(root: Path, parcel: Parcel, folder: str = "") -> Path:
    """Parcels travel with the key that their sender says is its own."""
    public = key_at(root, parcel.sender).public_key().public_bytes_raw()
    to = root / "in" / (folder or parcel.sender)
    write_parcel(to, dataclasses.replace(parcel, files={**parcel.files, "public.key": public}))
    return to


def key_at(root: Path, name: str) -> Any:
    return signing_key(root / "keys" / name)


def train(root: Path, *folders: Path, options: tuple[Any, ...] = ()) -> Result:
    named = [*map(str, folders), "--store", str(root / "store"), "--out", str(root / "general")]
    smoke = ["--budget", "smoke", "--generator", "flow", "--device", "cpu"]
    return CliRunner().invoke(main, ["pool", "train", *named, *smoke, *map(str, options)])


def quarantined(root: Path) -> dict[str, str]:
    """By site, why."""
    folders = root.glob("store/pool/quarantine/*")
    return {f.name.rpartition("-")[0]: (f / "reason.txt").read_text() for f in folders}
