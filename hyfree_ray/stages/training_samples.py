"""What a generator drew at each of its snapshots, as pictures; beside a phantom's, new patients.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.cohorts.phantom_record import DEFAULT_PHANTOM, PHANTOMS
from hyfree_ray.core.stage import Context, Folder, read_result, stage

if TYPE_CHECKING:
    import numpy as np

    from hyfree_ray.generators.view import GeneratorView

IMAGES = 8
"""Side by side in a picture."""

STEP_PICTURE = "step-{:08d}.png"
"""By the number of images that the training had shown."""

NEW_PATIENTS = "new-patients.png"
"""Of a phantom alone: patients of the same site whom nobody was trained or tested on."""


@stage(version=1, device=True)
def training_samples(
    context: Context,
    *,
    generator: Folder,
    prepared: Folder,
    precision: str,
    seed: int,
    phantom: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Draw the same samples from each snapshot; write a picture a snapshot.

    No filter and no audit has seen these samples: a hospital's own staff may look at them, and they
    never leave it. Snapshots that were deleted meanwhile are left out.

    Args:
        context: where to.
        generator: the trained generator.
        prepared: has the site's view.
        precision: of sampling.
        seed: of the samples, which are none of the release's.
        phantom: what a phantom site is drawn from; None: a hospital.
    """
    import numpy as np

    from hyfree_ray import generators
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.reports.pictures import strip

    view = GeneratorView.load(prepared / "view.npz")
    names = read_result(generator)["snapshots"]
    names = [name for name in names if (generator / "snapshots" / name).is_file()]
    steps = []
    for done, name in enumerate(names, start=1):
        drawn = generators.sample(
            Path(generator),
            name,
            start=0,
            count=IMAGES,
            seed=seed,
            device=context.device,
            precision=precision,
            batch_size=IMAGES,
        )
        steps.append(int(name.split(".")[0]))
        strip(context.out / STEP_PICTURE.format(steps[-1]), np.concatenate(list(drawn)))
        context.progress(done, len(names), {})
    if phantom is not None:
        strip(context.out / NEW_PATIENTS, _new_patients(phantom, view))
    return {"images_shown": steps}


def _new_patients(phantom: Mapping[str, Any], view: GeneratorView) -> np.ndarray:
    """Return slices_NCHW of new patients of a phantom site, as its generator would see them."""
    import numpy as np

    from hyfree_ray.generators.view import fit_into_patch

    record = PHANTOMS[phantom.get("kind", DEFAULT_PHANTOM)]
    drawn: dict[str, np.ndarray] = {}
    for one in record.draw(phantom["index"], phantom["seed"], ("new patients",)):
        if len(drawn) == IMAGES:
            break
        image_CHW, label_HW = np.stack(one.images), one.label
        if label_HW.ndim == 3:
            middle = int((label_HW > 0).sum((1, 2)).argmax())
            image_CHW = image_CHW[:, middle]
        scaled = (image_CHW - view.low_C[:, None, None]) / (view.high_C - view.low_C)[:, None, None]
        patch, _, _ = fit_into_patch(
            scaled.astype(np.float32),
            (one.spacing[-2], one.spacing[-1]),
            (view.images_NCHW.shape[2], view.images_NCHW.shape[3]),
            view.spacing[0],
        )
        drawn.setdefault(one.case.patient, patch * 2 - 1)  # around it, as black as air
    return np.stack(list(drawn.values()))
