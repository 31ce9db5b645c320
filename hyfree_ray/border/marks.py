"""Machine-readable marks that say that images are synthetic, in every format they are written in.

The keyword and its value are those of DICOM's attribute Synthetic Data, (0008,001C).
"""

from __future__ import annotations

from hyfree_ray import __version__
from hyfree_ray.border.release import Release

KEYWORD, VALUE = "SyntheticData", "YES"


MARK = {KEYWORD: VALUE}


def marks_of(release: Release) -> dict[str, str]:
    """Return what is written beside a release's images: that they are synthetic, and whose."""
    return {
        **MARK,
        "Statement": "Synthetic images. Not a declaration of anonymity.",
        "Software": f"hyfree-ray {__version__}",
        "Site": release.metadata.site,
        "Release": release.manifest.sha256,
    }


def short_mark(release: Release) -> str:
    """Return the mark for a field of 79 ASCII characters, as NIfTI's `descrip`."""
    return f"{KEYWORD}={VALUE} hyfree-ray {__version__} release {release.manifest.sha256[:16]}"
