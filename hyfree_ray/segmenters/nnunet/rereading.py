"""A second reading of part of a data set by nnU-Net's own reader, compared with the first.

Whatever `check` says of a file holds only if nnU-Net reads the same numbers from it.
"""

from __future__ import annotations

import contextlib
import io
import math
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyfree_ray.cohorts.checks import Problem
from hyfree_ray.cohorts.cohort import Case, Cohort
from hyfree_ray.cohorts.image_reading import ImageFault, read_image_file
from hyfree_ray.cohorts.itk_images import reading_quietly
from hyfree_ray.cohorts.tables import reader_of as reader_name
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.segmenters.nnunet.reading import read_image, read_label

SHARE, MIN_CASES = 0.1, 3


def read_again(cohort: Cohort, seed: int | None = None) -> list[Problem]:
    """Read a random tenth of the cases, at least three, with nnU-Net's reader.

    Args:
        cohort: a data set without fatal problems.
        seed: of the choice; None: another at each call.

    Returns:
        A problem for each case of which nnU-Net reads other numbers, or that it cannot read.
    """
    cases = [case for members in cohort.sites.values() for case in members]
    count = min(len(cases), max(MIN_CASES, math.ceil(SHARE * len(cases))))
    chosen = random.Random(seed).sample(cases, count)
    problems = []
    for case in chosen:
        if why := _difference(cohort, case):
            problems.append(
                Problem(
                    code="data.read-otherwise",
                    where=case.images[0],
                    what=f"nnU-Net reads it otherwise than it was checked: {why}",
                    fix="save it in a plain form of its format (grey or RGB, one page, no palette)",
                )
            )
    return problems


def _difference(cohort: Cohort, case: Case) -> str:
    """Describe how nnU-Net's reading of a case differs; empty if it does not."""
    paths = [cohort.root / name for name in case.images]
    try:
        # nnU-Net prints what it refuses, and the traceback of each reader that it tries.
        with (
            reading_quietly(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            image_CZHW, spacing = read_image(paths, cohort.dataset_json)
            label_ZHW = read_label(cohort.root / case.label, cohort.dataset_json)
            own_CZHW = np.concatenate([_stored(path, cohort) for path in paths])
            own_label = _stored(cohort.root / case.label, cohort)[0]
    except (HyfreeError, ImageFault):
        raise
    except Exception as error:  # whatever nnU-Net's readers and their libraries raise
        return f"its reader fails ({type(error).__name__}: {str(error)[:80]})"
    if image_CZHW.shape != own_CZHW.shape or label_ZHW.shape != own_label.shape:
        return f"{_axes(image_CZHW.shape)} channels and axes, not {_axes(own_CZHW.shape)}"
    if not np.array_equal(image_CZHW, own_CZHW.astype(np.float32)):
        return "other intensities"
    if not np.array_equal(label_ZHW, own_label.astype(np.int16)):
        return "other labels"
    if case.spacing and not np.allclose(spacing[-len(case.spacing) :], case.spacing, rtol=1e-3):
        return f"a spacing of {_axes(spacing)} mm, not {_axes(case.spacing)}"
    return ""


def _stored(path: Path, cohort: Cohort) -> np.ndarray:
    """Return a file's pixels as the checks read them: (channels, slices, height, width)."""
    ending = cohort.file_ending
    image = read_image_file(
        path, ending, reader_name(cohort.dataset_json, ending), path.read_bytes()
    )
    pixels = image.pixels
    if image.channels > 1:
        pixels = np.moveaxis(pixels, -1, 0)[:, None]
    while pixels.ndim < 4:
        pixels = pixels[None]
    return pixels


def _axes(numbers: Sequence[float]) -> str:
    return "x".join(f"{number:g}" for number in numbers)
