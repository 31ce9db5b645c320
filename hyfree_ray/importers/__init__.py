"""Importers of public data sets, from their distributed layouts to nnU-Net raw + `sites.csv`.

An importer is a function from the folder of a download to a `Source`: it lists the files and reads
no image. `raw_set.write_raw_set` reads and writes one case at a time, and accounts for every file.
"""

from __future__ import annotations

from collections.abc import Callable

from hyfree_ray.importers.brats import brats
from hyfree_ray.importers.dicom import dicom
from hyfree_ray.importers.folder import folder
from hyfree_ray.importers.lung import lung
from hyfree_ray.importers.polyp import polyp
from hyfree_ray.importers.qata import qata
from hyfree_ray.importers.source import Source

IMPORTERS: dict[str, Callable[..., Source]] = {
    "qata": qata,
    "polyp": polyp,
    "brats": brats,
    "lung": lung,
    "folder": folder,
    "dicom": dicom,
}

WITH_CLASSES = ("folder", "dicom")
"""Importers that take `classes`: the others read sets whose masks are known."""
