"""Attacks on the filter that once got through, on the phantom's patients and on real ones."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from hyfree_ray.cohorts.phantom import draw_phantom_site
from hyfree_ray.privacy.alterations import (
    Alter,
    bent,
    blended,
    cropped,
    cut_out,
    noisy,
    posed,
    relit,
    shifted,
    turned_by_90,
    with_half,
    with_middle,
)
from hyfree_ray.privacy.detectors import Registration
from hyfree_ray.privacy.memorization import MemorisationFilter
from hyfree_ray.privacy.sampling import quantise, restore
from hyfree_ray.privacy.self_test import altered_copies
from hyfree_ray.stages.image_filter import WANTED_RECALL
from tests.border.test_label_shift import read
from tests.conftest import REAL_DATA

MOVES: Mapping[str, Alter] = {
    "cropped by a tenth": lambda x, o, r: cropped(x, 0.1),
    "cropped by a fifth": lambda x, o, r: cropped(x, 0.2),
    "shifted by 5 of 64 pixels": lambda x, o, r: shifted(x, 5 / 64, -5 / 64),
    "shifted by an eighth": lambda x, o, r: shifted(x, 1 / 8, 1 / 8),
    "turned by 10 degrees": lambda x, o, r: posed(x, degrees=10),
    "turned by 5 and cropped": lambda x, o, r: cropped(posed(x, degrees=5), 0.1),
}
PARTS: Mapping[str, Alter] = {
    "elastic, 2": lambda x, o, r: bent(x, 2, r),
    "elastic, 4": lambda x, o, r: bent(x, 4, r),
    "gamma 2": lambda x, o, r: relit(x, 2),
    "inverted": lambda x, o, r: -x,
    "noisy": lambda x, o, r: noisy(x, 0.05, r),
    "turned by 90 degrees": lambda x, o, r: turned_by_90(x),
    "half": lambda x, o, r: with_half(x, o),
    "middle": lambda x, o, r: with_middle(x, o),
    "cut out": lambda x, o, r: cut_out(x, r),
    "blended 60:40": lambda x, o, r: blended(x, o, 0.6),
}


class Hospital:
    """A site's training images with its filter, and patients who were held out."""

    def __init__(self, images_NCHW: np.ndarray, patients_N: np.ndarray) -> None:
        training_N = patients_N < 0.6 * patients_N.max()
        self.real, self.strangers = images_NCHW[training_N], images_NCHW[~training_N]
        self.whose = patients_N[~training_N]
        rule = MemorisationFilter.calibrate(
            self.real, patients_N[training_N], [Registration()], percentile=5
        )
        known = altered_copies(self.real, patients_N[training_N], seed=1)
        self.rule = rule.raised(np.concatenate(list(known.values())), recall=WANTED_RECALL)

    def stopped(self, alter: Alter, count: int) -> float:
        """The share of some training images, altered, that the filter stops."""
        rng = np.random.default_rng(0)
        real = self.real[rng.permutation(len(self.real))[:count]]
        others = self.strangers[rng.integers(len(self.strangers), size=len(real))]
        altered = np.clip(alter(real, others, rng), -1, 1).astype(np.float32)
        return float(self.rule.judge(restore(quantise(altered))).copied_N.mean())

    def false_alarms(self) -> float:
        """The share of held-out images that it stops, by patient."""
        copied_N = self.rule.judge(self.strangers).copied_N
        return float(np.mean([copied_N[self.whose == one].mean() for one in np.unique(self.whose)]))


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Hospital]:
    """A hospital by name and size: of the phantom, or one whose data have to be there."""

    @functools.cache
    def named(name: str, side: int) -> Hospital:
        height = round(0.75 * side / 4) * 4
        if name.startswith("phantom"):
            folder, pattern = tmp_path_factory.mktemp("phantom"), "*"
            draw_phantom_site(int(name[-1]), 0, folder)
        else:
            folder, pattern = REAL_DATA / "Dataset301_LungCXR", f"{name}_*"
            if not folder.is_dir():
                pytest.skip(f"{folder.name} is not here; set HYFREE_DATA to the folder of it")
        files = sorted((folder / "labelsTr").glob(pattern))[:100]
        cases = [file.name.split(".")[0] for file in files]
        stored_NCHW, _ = read(folder, cases, height, side)
        _, patients_N = np.unique([case.split("_s")[0] for case in cases], return_inverse=True)
        return Hospital(restore(stored_NCHW), patients_N)

    return named


def test_copies_that_were_moved_are_stopped(hospital: Callable[[str, int], Hospital]) -> None:
    for name, alter in itertools.islice(MOVES.items(), 1, None, 2):
        assert hospital("phantom-2", 64).stopped(alter, 6) >= 0.95, name


PASSING: Mapping[str, frozenset[str]] = {
    "phantom-1": frozenset({"middle"}),
    "montgomery": frozenset({"elastic, 4", "middle", "blended 60:40"}),
}
"""What mostly passes, and where: chests are so alike that honest images come as near."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"), [("phantom-1", 64), ("phantom-1", 192), ("montgomery", 64)]
)
def test_altered_copies_are_stopped_and_strangers_pass(
    hospital: Callable[[str, int], Hospital],
    name: str,
    side: int,
) -> None:
    here = hospital(name, side)
    tried = {kind: alter for kind, alter in (MOVES | PARTS).items() if kind not in PASSING[name]}
    found = {kind: here.stopped(alter, 8) for kind, alter in tried.items()}
    assert np.mean(list(found.values())) >= 0.95, found
    assert min(found.values()) >= 0.75, found
    assert here.false_alarms() <= 0.12


@pytest.mark.slow
def test_no_patient_travels_in_copies_that_were_moved(
    hospital: Callable[[str, int], Hospital],
) -> None:
    """A release of every training image, cropped, shifted or turned, at a small hospital."""
    here = hospital("phantom-2", 64)
    for kind, alter in MOVES.items():
        assert here.stopped(alter, len(here.real)) >= 0.95, kind
