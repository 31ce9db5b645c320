"""A reader study: can a radiologist tell a release's images from the hospital's real ones?

One HTML page that works offline, as Akbar et al. (2024, arXiv 2306.02986) asked one reader: an
image at a time, real or synthetic. Real images are brought onto the release's grid and steps, so
that neither size, sharpness nor grey levels tell them; what is what stands in a file of its own.

Shapes: N images, C channels, H height, W width, K colours (1 or 3).
"""

from __future__ import annotations

import base64
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.reports.pages import render

if TYPE_CHECKING:
    from hyfree_ray.border.release import Release
    from hyfree_ray.cohorts.cohort import Case, Cohort

PAGE, KEY = "reader-study.html", "key.json"

MIN_SIDE = 384
"""Pixels on the screen of an image's longer side, at least."""

_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, kw_only=True)
class ReaderStudy:
    """A page and what is what on it."""

    page: str
    key: str
    """JSON: the study's id, and for each image whether it is real or synthetic."""


def make_reader_study(release: Release, cohort: Cohort, *, images: int, seed: int) -> ReaderStudy:
    """Make a page of equally many real and synthetic images, in random order.

    Args:
        release: the synthetic ones.
        cohort: the site's data set.
        images: of each kind.
        seed: of the choice and the order.

    Raises:
        HyfreeError: there are fewer of a kind, or the data set has other channels.
    """
    real_NCHW = _real_images(release, cohort, images, seed)
    most = min(len(release.images_NCHW), len(real_NCHW))
    if most < images:
        raise HyfreeError(
            "reader-study.too-few",
            f"--images {images}: there are {len(release.images_NCHW)} synthetic images and "
            f"{len(real_NCHW)} real cases of the site; ask for {most} or fewer",
        )
    chosen = random.Random(f"{seed} synthetic").sample(range(len(release.images_NCHW)), images)
    synthetic_NCHW = release.images_NCHW[sorted(chosen)]
    shown = _as_pngs(np.concatenate([real_NCHW, synthetic_NCHW]).astype(np.float32))
    truths = ["real"] * images + ["synthetic"] * images
    order = list(range(2 * images))
    random.Random(f"{seed} order").shuffle(order)
    study = digest_of([seed, [base64.b64encode(png).decode() for png in shown]])[:16]
    height, width = synthetic_NCHW.shape[2:]
    page = render(
        PAGE,
        study=study,
        site=release.metadata.site,
        pictures=[f"data:image/png;base64,{base64.b64encode(shown[k]).decode()}" for k in order],
        channels=", ".join(release.metadata.channel_names),
        enlarged=max(1, -(-MIN_SIDE // max(height, width))),
    )
    truth = {str(place): truths[k] for place, k in enumerate(order)}
    return ReaderStudy(page=page, key=json.dumps({"study": study, "truth": truth}, indent=1) + "\n")


def _real_images(release: Release, cohort: Cohort, images: int, seed: int) -> np.ndarray:
    """Return as many real images as there are cases for, one a case, as the release stores them."""
    metadata = release.metadata
    cases = cohort.sites.get(metadata.site)
    if cases is None:
        raise HyfreeError(
            "option.unknown-site",
            f"--real: the release is of {metadata.site}, and the data set has no such site; there "
            f"are: {', '.join(sorted(cohort.sites))}",
        )
    if tuple(cohort.channel_names) != tuple(metadata.channel_names):
        raise HyfreeError(
            "reader-study.other-task",
            f"--real: its channels are {', '.join(cohort.channel_names)}, the release's "
            f"{', '.join(metadata.channel_names)}; name the data that the release was made from",
        )
    order = sorted(cases, key=lambda case: case.name)
    random.Random(f"{seed} real").shuffle(order)
    found = [_on_the_releases_grid(release, cohort, case, seed) for case in order[:images]]
    kept = [one for one in found if one is not None]
    return np.stack(kept) if kept else release.images_NCHW[:0]


def _on_the_releases_grid(
    release: Release, cohort: Cohort, case: Case, seed: int
) -> np.ndarray | None:
    """Return one of a case's slices as image_CHW in the release's steps; None: all are blank."""
    from hyfree_ray.generators.view import fit_into_patch
    from hyfree_ray.segmenters.nnunet.reading import cut_slices, read_image

    metadata, stored_NCHW = release.metadata, release.images_NCHW
    files = [cohort.root / name for name in case.images]
    image_CZHW, spacing = read_image(files, cohort.dataset_json)
    slices, in_plane = cut_slices(image_CZHW, spacing, metadata.slice_axis)
    if not slices:
        return None
    image_CHW = random.Random(f"{seed} {case.name}").choice(slices)
    patch = (int(stored_NCHW.shape[2]), int(stored_NCHW.shape[3]))
    target = float(np.sqrt(metadata.spacing[0] * metadata.spacing[1]))
    placed_CHW, box, _ = fit_into_patch(image_CHW, in_plane, patch, target)
    scale_C11, offset_C11 = (
        np.asarray(values, np.float32)[:, None, None]
        for values in (metadata.scale, metadata.offset)
    )
    steps_CHW = np.zeros_like(placed_CHW)
    inside = (slice(None), *box)
    steps_CHW[inside] = ((placed_CHW - offset_C11) / scale_C11)[inside]
    levels = np.iinfo(stored_NCHW.dtype)
    stored_CHW: np.ndarray = steps_CHW.round().clip(levels.min, levels.max)
    return stored_CHW.astype(stored_NCHW.dtype)


def _as_pngs(images_NCHW: np.ndarray) -> list[bytes]:
    """Return 8-bit PNGs in one window a channel for all; channels side by side, three as RGB."""
    from PIL import Image

    low_C, high_C = np.percentile(images_NCHW, _PERCENTILES, axis=(0, 2, 3))
    width_C = np.maximum(high_C - low_C, np.finfo(np.float32).tiny)
    grey_NCHW = (images_NCHW - low_C[:, None, None]) / width_C[:, None, None]
    grey_NCHW = (grey_NCHW.clip(0, 1) * 255).round().astype(np.uint8)
    pngs = []
    for image_CHW in grey_NCHW:
        colour = len(image_CHW) == 3
        shown = image_CHW.transpose(1, 2, 0) if colour else np.concatenate(list(image_CHW), axis=1)
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(shown)).save(file, format="PNG")
        pngs.append(file.getvalue())
    return pngs


def write_reader_study(made: ReaderStudy, folder: Path) -> None:
    """Write the page and its key into a folder, readable by its owner alone."""
    for name, content in ((PAGE, made.page), (KEY, made.key)):
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)


def read_key(file: Path) -> tuple[str, dict[str, str]]:
    """Read a study's id, and what each of its images is.

    Raises:
        HyfreeError: it is no key.
    """
    try:
        found = json.loads(file.read_text())
        study, truth = str(found["study"]), dict(found["truth"])
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise HyfreeError(
            "reader-study.bad-key",
            f"--key {file}: not the key of a reader study; name the {KEY} that 'reader-study make' "
            "wrote beside the page",
        ) from error
    return study, truth
