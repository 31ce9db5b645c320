"""What a built-in cohort is: drawn hospitals, known by name before anything is drawn.

Readers of images are imported when something is drawn: parties and `--help` need names alone.

H, W: rows and columns of a slice.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.registry import Registry

if TYPE_CHECKING:
    from hyfree_ray.cohorts.cohort import Case, Cohort

FILE_ENDING = ".nii.gz"
DEFAULT_PHANTOM = "abdomen"


@dataclass(frozen=True, kw_only=True)
class DrawnCase:
    """A case with its pixels."""

    case: Case
    images: Sequence[NDArray[Any]]
    """One per channel, in scanner units: HW, or slices before it."""
    label: NDArray[np.uint8]
    spacing: tuple[float, ...]
    """mm, in the order of the axes."""


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A kind of drawn cohort. A site is the same however many there are."""

    name: str
    """As `--phantom` takes it."""
    cohort: str
    """The name of the data set."""
    version: int
    """Raised whenever what is drawn changes."""
    sites: int
    """Hospitals where no number is given."""
    max_sites: int
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    cases: Callable[[int, int], Sequence[Case]]
    """The cases of a site, by its index (from 1) and the seed, without drawing anything."""
    draw: Callable[[int, int, tuple[str, ...]], Iterator[DrawnCase]]
    """The same cases, drawn. The last argument names a series of patients: () those of the cohort;
    under another name patients of the same hospital who are not in it."""

    def cohort_of(self, sites: int, seed: int, root: Path) -> Cohort:
        """Return the cohort of `sites` hospitals without drawing anything.

        Paths of cases are relative to the folder that a site is drawn into.

        Raises:
            HyfreeError: it does not have so many.
        """
        from hyfree_ray.cohorts.cohort import Cohort

        if not 1 <= sites <= self.max_sites:
            raise HyfreeError(
                "option.out-of-range",
                f"--sites {sites}: the phantom has only 1 to {self.max_sites} sites",
            )
        names = {f"site-{index}": index for index in range(1, sites + 1)}
        cases = {name: tuple(self.cases(names[name], seed)) for name in sorted(names)}
        return Cohort(
            name=self.cohort,
            root=root,
            channel_names=self.channel_names,
            labels=dict(self.labels),
            file_ending=FILE_ENDING,
            sites=cases,
            dataset_json=self._dataset_json(sum(map(len, cases.values()))),
        )

    def drawn_from(self, site: str, seed: int) -> dict[str, Any]:
        """Return the parameters of the stage that draws a site."""
        given = {"index": int(site.removeprefix("site-")), "seed": seed, "phantom": self.version}
        return given if self.name == DEFAULT_PHANTOM else given | {"kind": self.name}

    def draw_site(self, index: int, seed: int, out: Path) -> None:
        """Write a site as an nnU-Net raw data set of NIfTI files, with its `sites.csv`."""
        for folder in ("imagesTr", "labelsTr"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        cases = []
        for drawn in self.draw(index, seed, ()):
            for pixels, path in zip(drawn.images, drawn.case.images, strict=True):
                _write(pixels.round().astype(np.int16), drawn.spacing, out / path)
            _write(drawn.label, drawn.spacing, out / drawn.case.label)
            cases.append(drawn.case)
        (out / "dataset.json").write_text(json.dumps(self._dataset_json(len(cases)), indent=1))
        with (out / "sites.csv").open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("case", "site", "patient"))
            table.writerows((case.name, f"site-{index}", case.patient) for case in cases)

    def _dataset_json(self, cases: int) -> dict[str, Any]:
        return {
            "name": self.cohort,
            "channel_names": {str(k): name for k, name in enumerate(self.channel_names)},
            "labels": self.labels,
            "numTraining": cases,
            "file_ending": FILE_ENDING,
        }


PHANTOMS = Registry(
    "phantom",
    "hyfree_ray.phantoms",
    Phantom,
    {
        DEFAULT_PHANTOM: "hyfree_ray.cohorts.phantom:ABDOMEN",
        "brain": "hyfree_ray.cohorts.phantom_brain:BRAIN",
    },
)


def phantom_case(
    name: str,
    patient: str,
    *,
    channels: int,
    version: str,
    shape: tuple[int, ...] = (),
    spacing: tuple[float, ...] = (),
) -> Case:
    """Return a case whose digest replaces that of its files.

    Args:
        name: of the case.
        patient: whose it is.
        channels: how many images it has.
        version: all that decides what is drawn beside the name.
        shape: of its arrays.
        spacing: of its arrays.
    """
    from hyfree_ray.cohorts.cohort import Case

    return Case(
        name=name,
        patient=patient,
        images=tuple(f"imagesTr/{name}_{k:04d}{FILE_ENDING}" for k in range(channels)),
        label=f"labelsTr/{name}{FILE_ENDING}",
        digest=hashlib.sha256(f"{version} {name}".encode()).hexdigest(),
        shape=shape,
        spacing=spacing,
    )


def _write(pixels: NDArray[Any], spacing: tuple[float, ...], path: Path) -> None:
    import SimpleITK as sitk

    itk: Any = sitk  # SimpleITK has no type annotations
    image = itk.GetImageFromArray(pixels)
    image.SetSpacing(spacing[::-1])
    itk.WriteImage(image, str(path))
