"""What must never cross a border, collected from the sites of a run, and a scan for it.

Shapes: N, M images or planes of them, C channels, H height, W width, P pixels.
"""

from __future__ import annotations

import csv
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from PIL import Image

from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy.sampling import quantise
from tests.unpacking import arrays, cells, layers, picture, planes

NEAR = 0.98
"""Correlation with a real image from which another one is a near copy of it, in any units."""

ROWS = 8
"""Rows of a real image, in a row, that are searched for."""


RANKED = ("nearness", "loss", "likelihood_ratio")
"""What is measured of each patient; shares of so many patients or images may be anybody's."""


@dataclass(frozen=True)
class Canaries:
    """By kind: the bytes that are searched for, and the real images that none may resemble."""

    bytes_: Mapping[str, tuple[bytes, ...]]
    real_NCHW: tuple[np.ndarray, ...]
    """uint8, as a release would store them; one array a site."""
    raw_HW: tuple[np.ndarray, ...]
    """As they came, in their own units and sizes."""

    @classmethod
    def of(cls, sites: Path, *folders: Path) -> Canaries:
        """Those of a store's folder `sites`, and of raw data sets elsewhere."""
        views = [
            GeneratorView.load(path) for path in sorted(sites.glob("*/stages/prepare-*/view.npz"))
        ]
        real = tuple(quantise(view.images_NCHW) for view in views)
        raw_data = (*sorted(sites.glob("*/stages/draw_phantom-*")), *folders)
        raw = tuple(
            sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
            for folder in raw_data
            for file in sorted(folder.glob("imagesTr/*.nii.gz"))
        )
        rows = [row for folder in raw_data for row in _table(folder / "sites.csv")]
        numbers = list(_distances(sites))
        assert views
        assert rows
        assert len(numbers) > 50
        return cls(
            bytes_={
                "case": tuple(sorted({row["case"].encode() for row in rows})),
                "patient": tuple(sorted({row["patient"].encode() for row in rows})),
                "path": (
                    *(str(folder).encode() for folder in (sites, *folders)),
                    *(b"imagesTr", b"labelsTr", b"/stages/"),
                ),
                "distance": tuple(
                    spelt
                    for number in numbers
                    for spelt in (repr(number)[:12].encode(), struct.pack("<d", number))
                ),
                "pixels": (*_pixels(real, views), *_raw_pixels(raw)),
                "pickle": (b"data.pkl", b"numpy._core.multiarray", b"torch._utils"),
            },
            real_NCHW=real,
            raw_HW=raw,
        )

    def found(self, content: bytes, *, but: Sequence[str] = ()) -> list[str]:
        """Kinds of canaries that are in there, `copy` for an image like a real one."""
        kinds: dict[str, None] = {}
        for layer in layers(content):
            for kind, canaries in self.bytes_.items():
                if kind not in but and any(canary in layer for canary in canaries):
                    kinds[kind] = None
            if self._holds_a_copy(layer):
                kinds["copy"] = None
        return list(kinds)

    def _holds_a_copy(self, content: bytes) -> bool:
        shown_HWC = picture(content)
        if shown_HWC is not None and any(map(self._shows_a_copy, cells(shown_HWC))):
            return True
        found = list(arrays(content))
        return any(
            _most_alike(planes(array, size).reshape(-1, size[0] * size[1]), real_MP) > NEAR
            for size, real_MP in self._real.items()
            for array in found
        )

    def _shows_a_copy(self, cell_HWC: np.ndarray) -> bool:
        """Whether a part of a picture is a real image, of any size, outlined in colours or not."""
        colour_HW = np.ptp(cell_HWC, axis=2) > 40
        drawn_HW = colour_HW & (colour_HW.mean() < 0.5)
        tall = cell_HWC.shape[0] / cell_HWC.shape[1]
        for (height, width), real_MP in self._real.items():
            if abs(np.log(tall * width / height)) > 0.15:
                continue  # of other proportions
            grey_P = _resized(cell_HWC.mean(axis=2), height, width)
            kept_P = _resized(drawn_HW.astype(float), height, width) < 0.05
            colours_CP = [
                _resized(cell_HWC[..., colour], height, width)
                for colour in range(cell_HWC.shape[2])
            ]
            shown_NP = np.stack([grey_P, *colours_CP])[:, kept_P]
            if kept_P.mean() > 0.4 and _most_alike(shown_NP, real_MP[:, kept_P]) > NEAR:
                return True
        return False

    @cached_property
    def _real(self) -> dict[tuple[int, int], np.ndarray]:
        """real_MP: every plane of every real image, by its size."""
        found: dict[tuple[int, int], list[np.ndarray]] = {}
        for array in (*self.real_NCHW, *self.raw_HW):
            height, width = array.shape[-2:]
            plane_MP = array.reshape(-1, height * width).astype(float)
            found.setdefault((height, width), []).append(plane_MP)
        return {size: np.concatenate(parts).astype(np.float32) for size, parts in found.items()}


def _most_alike(shown_NP: np.ndarray, real_MP: np.ndarray) -> float:
    """The highest correlation of any with any; 0 where none is left."""
    standard = []
    for plane_KP in (shown_NP, real_MP):
        plane_KP = np.nan_to_num(plane_KP, posinf=0, neginf=0)
        centred_KP = plane_KP - plane_KP.mean(axis=1, keepdims=True)
        length_K = np.linalg.norm(centred_KP, axis=1)
        kept_K = length_K > 1e-6 * np.abs(plane_KP).max(axis=1, initial=1)
        standard.append(centred_KP[kept_K] / length_K[kept_K, None])
    return float((standard[0] @ standard[1].T).max(initial=0.0))


def _resized(plane_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """plane_P of that size."""
    image = Image.fromarray(plane_HW.astype(np.float32))
    smaller = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(smaller, float).reshape(-1)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _distances(sites: Path) -> Iterator[float]:
    """Numbers that the audits keep: each distance tells something of a real image."""

    def walk(value: Any) -> Iterator[float]:
        if isinstance(value, float):
            yield value
        elif isinstance(value, (list, dict)):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from walk(inner)

    def found() -> Iterator[float]:
        for name in ("audit-*/distances.json", "synthesise-*/filter.json"):
            for file in sites.glob(f"*/stages/{name}"):
                yield from walk(json.loads(file.read_text()))
        for file in sites.glob("*/stages/patient_risk-*/risk.json"):
            for row in json.loads(file.read_text()):
                yield from walk([row[name] for name in RANKED])

    # A round one, as 0.0, is anywhere.
    yield from (number for number in found() if len(repr(number)) > 10)


def _pixels(real: tuple[np.ndarray, ...], views: list[GeneratorView]) -> Iterator[bytes]:
    """Some rows of each real image, as the generator sees them, and as it stores them."""
    for stored_NCHW, view in zip(real, views, strict=True):
        physical_NCHW = view.physical(view.images_NCHW)
        for stored, shown, physical in zip(
            stored_NCHW, view.images_NCHW, physical_NCHW, strict=True
        ):
            middle = stored.shape[1] // 2
            rows = (0, slice(middle - ROWS // 2, middle + ROWS // 2))
            if len(np.unique(stored[rows])) > 8:
                yield from (part[rows].tobytes() for part in (stored, shown, physical))


def _raw_pixels(raw: tuple[np.ndarray, ...]) -> Iterator[bytes]:
    """A row of some images as they came."""
    for image_HW in raw[::5]:
        row = image_HW[len(image_HW) // 2]
        if len(np.unique(row)) > 8:
            yield from (row.tobytes(), row.astype(np.float32).tobytes())


def is_pickle(content: bytes) -> bool:
    """A pickle of a protocol with a header, or a zip with one."""
    return re.match(rb"\x80[\x02-\x05]", content) is not None or (
        content.startswith(b"PK\x03\x04") and b".pkl" in content
    )
