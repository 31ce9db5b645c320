"""What must never cross a border, collected from the sites of a run, and a scan for it.

Shapes: N, M images, C channels, H height, W width.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import SimpleITK as sitk

from hyfree_ray.generator_view import GeneratorView
from hyfree_ray.privacy.sampling import quantise

NEAR = 4.0
"""Mean difference, in levels of 255, under which an image is a near copy."""

ROWS = 8
"""Rows of a real image, in a row, that are searched for."""


@dataclass(frozen=True)
class Canaries:
    """By kind: the bytes that are searched for, and the real images that none may resemble."""

    bytes_: Mapping[str, tuple[bytes, ...]]
    real_NCHW: tuple[np.ndarray, ...]
    """uint8, as a release would store them; one array a site."""

    @classmethod
    def of(cls, sites: Path) -> Canaries:
        """Those of a store's folder `sites`."""
        views = [
            GeneratorView.load(path) for path in sorted(sites.glob("*/stages/prepare-*/view.npz"))
        ]
        real = tuple(quantise(view.images_NCHW) for view in views)
        names = {
            name
            for file in sites.glob("*/audit/cases-*.json")
            for name in json.loads(file.read_text()).values()
        }
        numbers = list(_distances(sites))
        assert views
        assert names
        assert len(numbers) > 50
        return cls(
            bytes_={
                "case": tuple(name.encode() for name in sorted(names)),
                "path": (str(sites).encode(), b"imagesTr", b"labelsTr", b"/stages/"),
                "distance": tuple(
                    spelt
                    for number in numbers
                    for spelt in (repr(number)[:12].encode(), struct.pack("<d", number))
                ),
                "pixels": tuple(_pixels(real, views, sites)),
                "pickle": (b"data.pkl", b"numpy._core.multiarray", b"torch._utils"),
            },
            real_NCHW=real,
        )

    def found(self, content: bytes, *, but: tuple[str, ...] = ()) -> list[str]:
        """Kinds of canaries that are in there, `copy` for an image like a real one."""
        kinds = [
            kind
            for kind, canaries in self.bytes_.items()
            if kind not in but and any(canary in content for canary in canaries)
        ]
        return kinds + (["copy"] if self._is_copy(content) else [])

    def _is_copy(self, content: bytes) -> bool:
        if not content.startswith(b"ARROW1"):
            return False
        with pa.ipc.open_file(io.BytesIO(content)) as reader:
            table = reader.read_all().combine_chunks()
        images_NCHW = table["image"].chunk(0).to_numpy_ndarray().astype(float)
        for real_MCHW in self.real_NCHW:
            if real_MCHW.shape[1:] != images_NCHW.shape[1:]:
                continue
            for image_CHW in images_NCHW:
                if np.abs(real_MCHW - image_CHW).mean(axis=(1, 2, 3)).min() < NEAR:
                    return True
        return False


def _distances(sites: Path) -> Iterator[float]:
    """Numbers that the audits keep: each distance tells something of a real image."""

    def walk(value: Any) -> Iterator[float]:
        if isinstance(value, float):
            yield value
        elif isinstance(value, (list, dict)):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from walk(inner)

    for name in ("audit-*/distances.json", "synthesise-*/filter.json"):
        for file in sites.glob(f"*/stages/{name}"):
            for number in walk(json.loads(file.read_text())):
                if len(repr(number)) > 10:  # a round one, as 0.0, is anywhere
                    yield number


def _pixels(
    real: tuple[np.ndarray, ...], views: list[GeneratorView], sites: Path
) -> Iterator[bytes]:
    """Some rows of each real image, as the generator sees them, stores them, and as they came."""
    for stored_NCHW, view in zip(real, views, strict=True):
        physical_NCHW = view.physical(view.images_NCHW)
        for stored, shown, physical in zip(
            stored_NCHW, view.images_NCHW, physical_NCHW, strict=True
        ):
            middle = stored.shape[1] // 2
            rows = (0, slice(middle - ROWS // 2, middle + ROWS // 2))
            if len(np.unique(stored[rows])) > 8:
                yield from (part[rows].tobytes() for part in (stored, shown, physical))
    for path in sorted(sites.glob("*/stages/draw_phantom-*/imagesTr/*.nii.gz"))[::5]:
        image_HW = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        row = image_HW[len(image_HW) // 2]
        yield from (row.tobytes(), row.astype(np.float32).tobytes())


def is_pickle(content: bytes) -> bool:
    """A pickle of a protocol with a header, or a zip with one."""
    return re.match(rb"\x80[\x02-\x05]", content) is not None or (
        content.startswith(b"PK\x03\x04") and b".pkl" in content
    )
