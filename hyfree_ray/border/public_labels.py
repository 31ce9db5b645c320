"""A site's labels of public images: what crosses the border is masks alone, and what they mean.

`labels.bin` is one byte a pixel and nothing else, so that there is nothing in it to parse; a JSON
manifest beside it, which the site signs, holds its hash and size. Both are read as hostile input.
Shapes: N masks, H height, W width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyfree_ray.border.manifest import (
    ROUND,
    Limits,
    Signed,
    as_release_error,
    check_rows,
)
from hyfree_ray.core.errors import ReleaseError
from hyfree_ray.core.files import write_bytes
from hyfree_ray.core.strict_json import StrictObject
from hyfree_ray.core.untrusted import read_untrusted

LABELS_FILE = "labels.bin"
LABELS_MANIFEST_FILE = "labels.json"
LABELS_SIGNATURE_FILE = "labels.sig"

MAX_SIDE = 1024
"""Pixels along height and along width: whoever reads the labels draws images of this size."""

LABEL_FILES = frozenset({LABELS_FILE, LABELS_MANIFEST_FILE, LABELS_SIGNATURE_FILE})
"""The files of a submission of labels: exactly these."""


@dataclass(frozen=True, kw_only=True)
class LabelsManifest(Signed):
    """All that is known of a site's labels of public images: no image, no level, no distance."""

    VERSION = 1

    version: int = VERSION
    round: int = ROUND
    rows: int
    height: int
    width: int
    spacing: tuple[float, float]
    """mm between pixels, (height, width): that of the site's network."""
    slice_axis: int
    """The axis of the site's volumes that slices are cut along; 0 for 2D images."""
    label_names: dict[str, int]
    """As of a release."""
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """As of a release."""
    sha256: str
    """Hash of the masks' bytes, in hexadecimal digits."""

    @classmethod
    def _own_fields(cls, read: StrictObject) -> dict[str, Any]:
        spacing = read.numbers("spacing", positive=True)
        if len(spacing) != 2:
            raise ValueError("spacing is not a pair (height, width)")
        return {
            "rows": read.integer("rows", least=0, most=1 << 40),
            "height": read.integer("height", least=1, most=MAX_SIDE),
            "width": read.integer("width", least=1, most=MAX_SIDE),
            "spacing": (spacing[0], spacing[1]),
            "slice_axis": read.integer("slice_axis", least=0, most=2),
            "label_names": read.label_names("label_names"),
            "regions": read.named_numbers("regions"),
            "sha256": read.digest("sha256"),
        }


def write_labels(folder: Path, labels_NHW: npt.NDArray[np.uint8], **about: Any) -> LabelsManifest:
    """Write the masks and their manifest.

    Args:
        folder: where to.
        labels_NHW: values of `label_names`.
        about: the manifest's other fields.
    """
    content = np.ascontiguousarray(labels_NHW).tobytes()
    rows, height, width = labels_NHW.shape
    manifest = LabelsManifest(
        rows=rows,
        height=height,
        width=width,
        sha256=hashlib.sha256(content).hexdigest(),
        **about,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / LABELS_FILE, content)
    write_bytes(folder / LABELS_MANIFEST_FILE, manifest.to_json().encode())
    return manifest


def read_labels(
    folder: Path, *, site: str, experiment: str, rows: int
) -> tuple[LabelsManifest, npt.NDArray[np.uint8]]:
    """Read a site's labels of public images as files that may have been made to do harm.

    Args:
        folder: where the masks and their manifest are.
        site: who submitted them, as the reader knows it.
        experiment: key of the experiment that is running.
        rows: how many public images there are.

    Returns:
        The manifest and labels_NHW.

    Raises:
        ReleaseError: rule `manifest`, `site`, `experiment`, `round`, `rows`, `values`, `missing`,
            `not-a-file`, `too-large`, `bytes`, `sha256` or `labels`.
    """
    limits = Limits()
    with as_release_error(site, "manifest"):
        text = read_untrusted(folder / LABELS_MANIFEST_FILE, most=limits.manifest_bytes)
        manifest = LabelsManifest.from_json(bytes(text).decode())
    manifest.check_made_for(site=site, experiment=experiment)
    check_rows(site, manifest.rows, limits)
    if manifest.rows != rows:
        raise ReleaseError(site, "rows", f"{manifest.rows} masks of {rows} public images")
    _check_extent(manifest, limits)
    size = manifest.rows * manifest.height * manifest.width
    with as_release_error(site, "bytes"):
        content = bytes(read_untrusted(folder / LABELS_FILE, most=size, expected=size))
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise ReleaseError(site, "sha256", "the masks are not those that the manifest describes")
    labels_NHW = np.frombuffer(content, np.uint8).reshape(rows, manifest.height, manifest.width)
    highest, found = max(manifest.label_names.values()), int(labels_NHW.max())
    if found > highest or highest > limits.highest_label:
        raise ReleaseError(site, "labels", f"a label of {found}; the highest declared: {highest}")
    return manifest, labels_NHW


def _check_extent(manifest: LabelsManifest, limits: Limits) -> None:
    minimum, maximum = limits.spacing
    for spacing, pixels in zip(manifest.spacing, (manifest.height, manifest.width), strict=True):
        if not minimum <= spacing <= maximum or spacing * pixels > limits.extent:
            raise ReleaseError(
                manifest.site, "values", f"{pixels} pixels {spacing:g} mm apart are not taken"
            )
