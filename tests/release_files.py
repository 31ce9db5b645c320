"""Releases for tests, good and bad. N rows, C channels, H height, W width."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hyfree_ray.border.manifest import RELEASE_VERSION, Manifest
from hyfree_ray.border.release import Release, ReleaseMetadata, read_release, write_release
from hyfree_ray.core.errors import ReleaseError
from tests.cards import card

SITE, EXPERIMENT, ROUND = "site-1", "e" * 64, 3
METADATA = ReleaseMetadata(
    site=SITE,
    channel_names=("T1", "T2"),
    label_names={"background": 0, "organ": 1, "lesion": 2},
    spacing=(0.8, 1.25),
    slice_axis=0,
    scale=(0.5, 2.0),
    offset=(-100.0, 0.0),
    card=card(images=5),
)


def pixels(rows: int = 5, dtype: type = np.uint8, seed: int = 0) -> tuple[Any, Any]:
    """Non-square images of two channels, and labels 0 to 2."""
    random = np.random.default_rng(seed)
    images_NCHW = random.integers(0, np.iinfo(dtype).max, (rows, 2, 6, 4), dtype, endpoint=True)
    return images_NCHW, random.integers(0, 3, (rows, 6, 4), np.uint8)


def write(folder: Path, rows: int = 5, dtype: type = np.uint8) -> Manifest:
    images_NCHW, labels_NHW = pixels(rows, dtype)
    return write_release(
        folder,
        METADATA,
        images_NCHW,
        labels_NHW,
        experiment=EXPERIMENT,
        round_number=ROUND,
        nonce="n1",
    )


def read(folder: Path, **changes: Any) -> Release:
    known: dict[str, Any] = {"site": SITE, "experiment": EXPERIMENT, "round_number": ROUND}
    return read_release(folder, **known | changes)


def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(ReleaseError) as caught:
        read(folder, **changes)
    assert caught.value.site == changes.get("site", SITE)
    assert "\n" not in str(caught.value)
    return caught.value.rule


def put(folder: Path, file: bytes, **changes: Any) -> Path:
    """Hand in these bytes with a manifest that describes them truly."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "release.arrow").write_bytes(file)
    manifest = {
        "version": RELEASE_VERSION,
        "site": SITE,
        "experiment": EXPERIMENT,
        "round": ROUND,
        "pool": "unnamed",
        "federation": "unnamed",
        "nonce": "n1",
        "rows": 5,
        "sha256": hashlib.sha256(file).hexdigest(),
        "bytes": len(file),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


def tensor(pixels: Any) -> Any:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(pixels))


def arrow(
    columns: dict[str, Any] | None = None,
    metadata: dict[Any, Any] | None = None,
    options: Any = None,
    nullable: bool = False,
) -> bytes:
    """An Arrow IPC file like ours but for what is changed."""
    if columns is None:
        images_NCHW, labels_NHW = pixels()
        kind = pa.fixed_shape_tensor(pa.uint8(), [2, 6, 4])
        label = pa.fixed_shape_tensor(pa.uint8(), [6, 4])
        columns = {
            "image": pa.ExtensionArray.from_storage(kind, tensor(images_NCHW).storage),
            "label": pa.ExtensionArray.from_storage(label, tensor(labels_NHW).storage),
        }
    if metadata is None:
        metadata = {b"hyfree": METADATA.to_json().encode()}
    schema = pa.schema(
        [pa.field(name, column.type, nullable) for name, column in columns.items()], metadata
    )
    stream = io.BytesIO()
    with pa.ipc.new_file(stream, schema, options=options) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    return stream.getvalue()


def ours() -> dict[str, Any]:
    images_NCHW, labels_NHW = pixels()
    return {
        "image": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.uint8(), [2, 6, 4]), tensor(images_NCHW).storage
        ),
        "label": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.uint8(), [6, 4]), tensor(labels_NHW).storage
        ),
    }


def described(**changes: Any) -> bytes:
    """A file whose metadata differs."""
    values = json.loads(METADATA.to_json()) | changes
    return arrow(metadata={b"hyfree": json.dumps(values).encode()})


def release_of(images_NCHW: Any, folder: Path) -> bytes:
    """The file of a release of these images, of one channel, without labels."""
    write_release(
        folder,
        dataclasses.replace(METADATA, channel_names=("T1",), scale=(1.0,), offset=(0.0,)),
        images_NCHW,
        np.zeros((len(images_NCHW), *images_NCHW.shape[2:]), np.uint8),
        experiment=EXPERIMENT,
        round_number=ROUND,
        nonce="n",
    )
    return (folder / "release.arrow").read_bytes()
