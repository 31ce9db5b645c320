"""The phantom: the same from the same seed, read as any data set is, sites that differ."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from hyfree_ray.cohorts.cohort import Case, read_cohort, split_fold
from hyfree_ray.cohorts.phantom import draw_phantom_site, phantom_cohort
from hyfree_ray.cohorts.phantom_anatomy import LESION, ORGAN
from hyfree_ray.cohorts.phantom_record import PHANTOMS
from hyfree_ray.cohorts.phantom_sites import MAX_SITES, site_style
from tests.refusals import refuses

SITE = 2


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest site, drawn."""
    out = tmp_path_factory.mktemp("phantom") / "site"
    draw_phantom_site(SITE, 0, out)
    return out


def pixels(path: Path) -> np.ndarray:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def described(case: Case) -> tuple[Any, ...]:
    return (case.name, case.patient, case.images, case.label)


def test_a_drawn_site_reads_as_the_cohort_described_it(drawn: Path) -> None:
    read = read_cohort(drawn)
    told = phantom_cohort(3, 0, drawn)
    assert list(read.sites) == [f"site-{SITE}"]
    assert [*map(described, read.sites[f"site-{SITE}"])] == [
        *map(described, told.sites[f"site-{SITE}"])
    ]
    for field in ("name", "channel_names", "labels", "file_ending", "left_out"):
        assert getattr(read, field) == getattr(told, field)


def test_slices_are_non_square_16_bit_2d_nifti_with_spacing(drawn: Path) -> None:
    style = site_style(SITE, 0)
    image: Any = sitk.ReadImage(str(next((drawn / "imagesTr").iterdir())))
    assert image.GetDimension() == 2
    assert image.GetSize() == style.matrix[::-1]
    assert style.matrix[0] < style.matrix[1]
    assert image.GetSpacing() == pytest.approx(style.spacing[::-1])
    assert image.GetPixelID() == sitk.sitkInt16


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(
    drawn: Path, tmp_path: Path
) -> None:
    def content(root: Path) -> dict[str, str]:
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*.*"))
        }

    draw_phantom_site(SITE, 0, tmp_path / "same")
    draw_phantom_site(SITE, 1, tmp_path / "other")
    assert content(tmp_path / "same") == content(drawn)
    images = {path.name: path.read_bytes() for path in (drawn / "imagesTr").iterdir()}
    others = [path.read_bytes() for path in (tmp_path / "other" / "imagesTr").iterdir()]
    assert not set(images.values()) & set(others)


def test_a_site_does_not_depend_on_how_many_there_are() -> None:
    few, many = phantom_cohort(2, 0, Path()), phantom_cohort(11, 0, Path())
    assert dict(many.sites).items() >= dict(few.sites).items()
    assert list(many.sites) == sorted(many.sites)
    assert len(many.sites) == 11


def test_digests_tell_seeds_sites_and_cases_apart() -> None:
    digests = [
        case.digest
        for seed in (0, 1)
        for cases in phantom_cohort(5, seed, Path()).sites.values()
        for case in cases
    ]
    assert len(set(digests)) == len(digests)


def test_sites_are_uneven_of_40_to_150_training_images_and_fill_every_fold() -> None:
    for seed in (0, 1):
        sites = phantom_cohort(5, seed, Path()).sites
        counts = [len(split_fold(cases, 0).train) for cases in sites.values()]
        assert min(counts) >= 36
        assert max(counts) <= 160
        assert max(counts) > 3 * min(counts)


def test_every_site_up_to_the_limit_has_a_style_of_its_own() -> None:
    styles = [site_style(index, 0) for index in range(1, MAX_SITES + 1)]
    assert len({repr(style) for style in styles}) == MAX_SITES
    assert len({style.matrix for style in styles[:5]}) == 5
    for style in styles:
        assert 16 <= style.patients <= 90
        assert style.matrix[0] != style.matrix[1]
        field = [n * step for n, step in zip(style.matrix, style.spacing, strict=True)]
        assert field == pytest.approx([236, 302], rel=0.06)
    for index in (0, MAX_SITES + 1):
        with refuses("option.out-of-range", f"site-{index}: "):
            site_style(index, 0)
        with refuses("option.out-of-range", f"--sites {index}: "):
            phantom_cohort(index, 0, Path())


def test_organ_and_lesions_lie_in_the_body_and_keep_clear_of_the_edge(drawn: Path) -> None:
    labels = [pixels(path) for path in sorted((drawn / "labelsTr").iterdir())]
    images = [pixels(path) for path in sorted((drawn / "imagesTr").iterdir())]
    air = np.mean([image[:3].mean() for image in images])
    for image, label in zip(images, labels, strict=True):
        assert set(np.unique(label)) <= {0, ORGAN, LESION}
        assert (label == ORGAN).mean() > 0.03
        assert not label[[0, -1]].any()
        assert not label[:, [0, -1]].any()
        assert image[label > 0].mean() > 1.5 * air
    without = np.mean([not (label == LESION).any() for label in labels])
    assert 0 < without < 0.3


def test_slices_of_a_patient_are_alike_but_not_equal(drawn: Path) -> None:
    cases = read_cohort(drawn).sites[f"site-{SITE}"]
    alike: list[float] = []
    apart: list[float] = []
    for one, other in itertools.pairwise(cases):
        a, b = (pixels(drawn / case.label) > 0 for case in (one, other))
        overlap = 2 * (a & b).sum() / (a.sum() + b.sum())
        (alike if one.patient == other.patient else apart).append(overlap)
    assert max(alike) < 1
    assert np.mean(alike) > np.mean(apart) + 0.1


@pytest.mark.parametrize("phantom", list(PHANTOMS))
def test_another_series_is_other_patients_of_the_same_hospital(phantom: str) -> None:
    record = PHANTOMS[phantom]
    ours, others = (next(record.draw(2, 0, series)) for series in ((), ("new patients",)))
    assert ours.images[0].shape == others.images[0].shape
    assert ours.spacing == others.spacing
    assert not np.array_equal(ours.images[0], others.images[0])
