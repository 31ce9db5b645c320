"""QaTa-COV19-v2: chest X-rays with masks of COVID-19 pneumonia (Degerli et al. 2022).

QaTa-COV19-v2/{Train Set,Test Set}/{Images,Ground-truths}/
"""

from __future__ import annotations

import re
from pathlib import Path

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.importers.files import files_in, folders_named, stem
from hyfree_ray.importers.folder import case_name
from hyfree_ray.importers.source import LeftOut, Source, SourceCase
from hyfree_ray.importers.two_classes import read_black_and_white, read_grey

_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")


def qata(root: Path) -> Source:
    """Import both sets together: folds are drawn anew, by patient (`sub-...` in the name).

    Images without a subject in their name are patients of their own. The set has no sites: use
    `--partition`.
    """
    cases, left_out = [], []
    for images in folders_named(root, "Images"):
        masks = {stem(path): path for path in files_in(images.with_name("Ground-truths"))}
        for image in files_in(images):
            mask = masks.get(f"mask_{stem(image)}")
            if mask is None:
                left_out.append(LeftOut(path=image, why=f"no mask mask_{image.name}"))
                continue
            subject = _SUBJECT.match(image.name)
            cases.append(
                SourceCase(
                    name=case_name(image.stem),
                    site="QaTa",
                    patient=subject[0] if subject else image.stem,
                    images=(image,),
                    masks=(mask,),
                    columns={"set": images.parent.name},
                )
            )
    if not cases:
        raise HyfreeError(
            "import.nothing-found",
            f"{root}: no 'Images' with masks in 'Ground-truths' beside it; name the folder of"
            " QaTa-COV19-v2",
        )
    return Source(
        name="QaTa-COV19",
        root=root,
        channel_names=("X-ray",),
        labels={"background": 0, "pneumonia": 1},
        file_ending=".png",
        cases=cases,
        read_images=read_grey,
        read_label=read_black_and_white,
        left_out=tuple(left_out),
    )
