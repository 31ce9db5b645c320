"""A release: the synthetic images and their labels that a site hands to the pool.

One Arrow IPC file and, beside it, a JSON manifest with the file's hash. The pool reads both as
hostile input. Shapes: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyfree_ray.arrow_layout import LayoutError
from hyfree_ray.errors import ReleaseError
from hyfree_ray.files import UntrustedFileError, read_untrusted, replacing
from hyfree_ray.release_arrow import Pixels, declared, read_pixels, write_arrow
from hyfree_ray.strict_json import StrictObject

RELEASE_VERSION = 2
RELEASE_FILE = "release.arrow"
MANIFEST_FILE = "manifest.json"
_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the pool takes from a site at most. Stated up front, checked before anything is read."""

    file_bytes: int = 8 << 30
    manifest_bytes: int = 64 << 10
    metadata_bytes: int = 256 << 10
    """Of the JSON in the schema, the privacy card included."""
    rows: int = 500_000
    channels: int = 64
    side: int = 8192
    """Pixels along height and along width."""
    highest_label: int = 255


@dataclass(frozen=True, kw_only=True)
class ReleaseMetadata:
    """What has to be known to use the images. No file name, no patient, no distance."""

    version: int = RELEASE_VERSION
    site: str
    channel_names: tuple[str, ...]
    """As in nnU-Net's `dataset.json`: they choose its normalisation."""
    label_names: dict[str, int]
    """Background (0) included; the values are consecutive. Of a region: the value it paints."""
    spacing: tuple[float, float]
    """mm between pixels, (height, width)."""
    slice_axis: int
    """Which axis of the site's volumes the slices were cut along; 0 for 2D images."""
    scale: tuple[float, ...]
    """One a channel: physical value = stored value x scale + offset."""
    offset: tuple[float, ...]
    card: dict[str, Any]
    """The privacy card."""
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Names with the values that each region consists of, in the order in which they paint;
    empty where labels are no regions."""

    def to_json(self) -> str:
        return _canonical(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ReleaseMetadata:
        """Parse strictly: unknown, missing and doubled keys and wrong types are errors.

        Raises:
            ValueError: what is wrong, in one line.
        """
        read = StrictObject.parse(text, [field.name for field in dataclasses.fields(cls)])
        spacing = read.numbers("spacing", positive=True)
        if len(spacing) != 2:
            raise ValueError("spacing is not a pair (height, width)")
        metadata = cls(
            version=read.integer("version", least=RELEASE_VERSION, most=RELEASE_VERSION),
            site=read.name("site"),
            channel_names=read.names("channel_names"),
            label_names=read.label_names("label_names"),
            spacing=(spacing[0], spacing[1]),
            slice_axis=read.integer("slice_axis", least=0, most=2),
            scale=read.numbers("scale", positive=True),
            offset=read.numbers("offset", positive=False),
            card=read.free("card"),
            regions=read.named_numbers("regions"),
        )
        _check_regions(metadata)
        names, scales = len(metadata.channel_names), len(metadata.scale)
        if not 0 < names == scales == len(metadata.offset):
            raise ValueError(f"{names} channels, {scales} scales, {len(metadata.offset)} offsets")
        return metadata


def _check_regions(metadata: ReleaseMetadata) -> None:
    """Regions are those of the labels, made of their values."""
    names = [name for name, value in metadata.label_names.items() if value]
    values = set(metadata.label_names.values()) - {0}
    if metadata.regions and (
        sorted(name for name, _ in metadata.regions) != sorted(names)
        or any(not classes or not values.issuperset(classes) for _, classes in metadata.regions)
    ):
        raise ValueError("regions are not made of the labels")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the file must be, read before the file is."""

    version: int = RELEASE_VERSION
    site: str
    experiment: str
    """Key of the experiment that the release was made for."""
    round: int
    nonce: str
    """Differs between any two releases, so that an old one cannot be handed in again."""
    rows: int
    sha256: str
    """Of the Arrow file's bytes, in hexadecimal digits."""
    bytes: int

    def to_json(self) -> str:
        """Canonical: equal manifests have equal bytes, which is what a signature is made over."""
        return _canonical(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse strictly, as `ReleaseMetadata.from_json`."""
        read = StrictObject.parse(text, [field.name for field in dataclasses.fields(cls)])
        return cls(
            version=read.integer("version", least=RELEASE_VERSION, most=RELEASE_VERSION),
            site=read.name("site"),
            experiment=read.name("experiment"),
            round=read.integer("round", least=0, most=1 << 31),
            nonce=read.name("nonce"),
            rows=read.integer("rows", least=0, most=1 << 40),
            sha256=read.digest("sha256"),
            bytes=read.integer("bytes", least=0, most=1 << 50),
        )


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release that has passed every check."""

    manifest: Manifest
    metadata: ReleaseMetadata
    images_NCHW: Pixels
    labels_NHW: npt.NDArray[np.uint8]

    def physical(self, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """The images in the site's own units (NCHW), as they were before they were quantised."""
        scale = np.asarray(self.metadata.scale, np.float32)[None, :, None, None]
        offset = np.asarray(self.metadata.offset, np.float32)[None, :, None, None]
        return self.images_NCHW[rows].astype(np.float32) * scale + offset


def repeated_rows(images_NCHW: Pixels) -> npt.NDArray[np.bool_]:
    """Which images are equal, byte for byte, to one before them: a release may not have any."""
    seen: set[bytes] = set()
    repeated = np.zeros(len(images_NCHW), np.bool_)
    for row, image in enumerate(images_NCHW):
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        repeated[row] = digest in seen
        seen.add(digest)
    return repeated


def nonce_of(
    seed: int,
    metadata: ReleaseMetadata,
    images_NCHW: Pixels,
    labels_NHW: npt.NDArray[np.uint8],
) -> str:
    """32 hexadecimal digits that differ for any two releases, and are equal for equal ones."""
    digest = hashlib.sha256(f"{seed}\n{metadata.to_json()}".encode())
    for pixels in (images_NCHW, labels_NHW):
        digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()[:32]


def write_release(
    folder: Path,
    metadata: ReleaseMetadata,
    images_NCHW: Pixels,
    labels_NHW: npt.NDArray[np.uint8],
    *,
    experiment: str,
    round_number: int,
    nonce: str,
) -> Manifest:
    """Write `folder/release.arrow` and then `folder/manifest.json`, each whole or not at all.

    The file is uncompressed, can be memory-mapped, and holds these rows only. Equal arguments
    give equal bytes.

    Args:
        images_NCHW: uint8 or uint16.
        labels_NHW: uint8, values of `metadata.label_names`.

    Raises:
        ReleaseError: where the pool would refuse it (see `read_release`).
    """
    with _refusing(metadata.site, "metadata"):
        metadata = ReleaseMetadata.from_json(metadata.to_json())
    _check_pixels(metadata, images_NCHW, labels_NHW, Limits())
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / RELEASE_FILE) as file:
        write_arrow(file, images_NCHW, labels_NHW, metadata.to_json())
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        size = file.tell()
    manifest = Manifest(
        site=metadata.site,
        experiment=experiment,
        round=round_number,
        nonce=nonce,
        rows=len(images_NCHW),
        sha256=digest.hexdigest(),
        bytes=size,
    )
    with replacing(folder / MANIFEST_FILE) as file:
        file.write(manifest.to_json().encode())
    return manifest


def read_release(
    folder: Path, *, site: str, experiment: str, round_number: int, limits: Limits | None = None
) -> Release:
    """Read a release as the pool does: as something that may have been made to do harm.

    The file is opened once and nothing is parsed but the very bytes that were hashed. Needs twice
    as much memory as the file has bytes.

    Args:
        folder: where the site's manifest and Arrow file are.
        site: who handed it in, as the pool knows it.
        experiment: key of the experiment that is running.
        round_number: the round that is open.

    Raises:
        ReleaseError: with the rule that was broken. The rules: `missing`, `not-a-file`,
            `too-large`, `manifest`, `site`, `experiment`, `round`, `bytes`, `sha256`, `magic`,
            `layout`, `endianness`, `compressed`, `schema`, `metadata`, `rows`, `nulls`, `shape`,
            `labels`, `duplicates`, `arrow`.
    """
    limits = limits or Limits()
    manifest = read_manifest(
        folder, site=site, experiment=experiment, round_number=round_number, limits=limits
    )
    with _refusing(site, "layout"):
        path, most = folder / RELEASE_FILE, limits.file_bytes
        file = memoryview(read_untrusted(path, most=most, expected=manifest.bytes))
        if hashlib.sha256(file).hexdigest() != manifest.sha256:
            raise LayoutError("sha256", "the file is not the one that the manifest describes")
        found = declared(file, most_rows=manifest.rows, metadata_bytes=limits.metadata_bytes)
        if found.rows != manifest.rows:
            raise LayoutError("rows", f"{found.rows} rows, the manifest says {manifest.rows}")
    with _refusing(site, "metadata"):
        metadata = ReleaseMetadata.from_json(found.metadata.decode())
    if metadata.site != site:
        raise ReleaseError(site, "site", f"made by {_quoted(metadata.site)}")
    with _refusing(site, "arrow"):
        images_NCHW, labels_NHW = read_pixels(file, manifest.rows)
    _check_pixels(metadata, images_NCHW, labels_NHW, limits)
    return Release(
        manifest=manifest, metadata=metadata, images_NCHW=images_NCHW, labels_NHW=labels_NHW
    )


def read_manifest(
    folder: Path, *, site: str, experiment: str, round_number: int, limits: Limits | None = None
) -> Manifest:
    """Read the manifest of a release and check that it is this site's, for this round.

    Raises:
        ReleaseError: see `read_release`.
    """
    limits = limits or Limits()
    manifest = read_manifest_alone(folder, site=site, limits=limits)
    if manifest.site != site:
        raise ReleaseError(site, "site", f"made by {_quoted(manifest.site)}")
    if manifest.experiment != experiment:
        made_for = _quoted(manifest.experiment)
        raise ReleaseError(
            site,
            "experiment",
            f"made for {made_for}, this is {experiment}: the parties' --seed, --fold, data set"
            " name, channels or structures differ",
        )
    if manifest.round != round_number:
        rounds = f"made for round {manifest.round}, this is round {round_number}"
        raise ReleaseError(site, "round", rounds)
    if not 0 < manifest.rows <= limits.rows:
        raise ReleaseError(site, "rows", f"{manifest.rows} rows; 1 to {limits.rows} are taken")
    return manifest


def read_manifest_alone(
    folder: Path, *, site: str = "release", limits: Limits | None = None
) -> Manifest:
    """Read the manifest of a release strictly, and believe what it says of who, what for and when.

    Args:
        site: who handed it in, named in errors; by hand, that is not known.

    Raises:
        ReleaseError: see `read_release`.
    """
    with _refusing(site, "manifest"):
        text = read_untrusted(folder / MANIFEST_FILE, most=(limits or Limits()).manifest_bytes)
        return Manifest.from_json(text.decode())


def _check_pixels(
    metadata: ReleaseMetadata,
    images_NCHW: Pixels,
    labels_NHW: npt.NDArray[np.uint8],
    limits: Limits,
) -> None:
    """What the site checks before it writes and the pool after it has read."""
    site, shape = metadata.site, images_NCHW.shape
    if len(shape) != 4 or labels_NHW.shape != (shape[0], *shape[2:]):
        raise ReleaseError(site, "shape", f"images {shape}, labels {labels_NHW.shape}")
    if images_NCHW.dtype not in (np.uint8, np.uint16) or labels_NHW.dtype != np.uint8:
        kinds = f"images of {images_NCHW.dtype}, labels of {labels_NHW.dtype}"
        raise ReleaseError(site, "shape", f"{kinds}; uint8 or uint16, and uint8, are taken")
    rows, channels, height, width = shape
    if not 0 < rows <= limits.rows:
        raise ReleaseError(site, "rows", f"{rows} rows; 1 to {limits.rows} are taken")
    if channels != len(metadata.channel_names) or channels > limits.channels:
        names = len(metadata.channel_names)
        raise ReleaseError(site, "shape", f"{channels} channels, {names} channel names")
    if not (0 < height <= limits.side and 0 < width <= limits.side):
        raise ReleaseError(site, "shape", f"images of {height}x{width} pixels")
    highest, found = max(metadata.label_names.values()), int(labels_NHW.max())
    if found > highest or highest > limits.highest_label:
        raise ReleaseError(site, "labels", f"a label of {found}; the highest declared: {highest}")
    repeated = int(repeated_rows(images_NCHW).sum())
    if repeated:
        raise ReleaseError(site, "duplicates", f"{repeated} images are copies of others in it")


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=1) + "\n"


def _quoted(text: str) -> str:
    """Somebody else's text, short and on one line, so that it can stand in a message or a log."""
    return ascii(text[:80])


@contextmanager
def _refusing(site: str, rule: str) -> Iterator[None]:
    """Turn whatever is wrong inside into a ReleaseError; `rule` where the fault names none."""
    try:
        yield
    except (LayoutError, UntrustedFileError) as error:
        raise ReleaseError(site, error.rule, str(error)) from error
    except ValueError as error:
        raise ReleaseError(site, rule, str(error)) from error
