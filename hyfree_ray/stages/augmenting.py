"""A site's real cases with images of its own generator added, prepared for one training.

The number of real images stays and the set grows, as in Vu, Tronchin, Nyholm and Löfstedt (2025,
arXiv 2503.00962); a mixture of constant size is `comparison.prepare_mixture`.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.cohorts.site_case import Cases
from hyfree_ray.core.stage import Context, Folder, stage
from hyfree_ray.segmenters.plan_caps import PlanCaps

if TYPE_CHECKING:
    import numpy as np


@stage(version=1, private=("cases",))
def prepare_augmented(
    context: Context,
    *,
    data: Folder,
    cases: Cases,
    dataset: Mapping[str, Any],
    caps: Mapping[str, Any],
    samples: Folder,
    labelled: Folder,
    prepared: Folder,
    images: int,
    per_real: float,
) -> dict[str, Any]:
    """Preprocess real cases and the first synthetic images under the real cases' plan.

    The fingerprint, and so the network, is that of the real images: only what is trained on
    differs from the control. Of each epoch's draws per_real / (1 + per_real) are synthetic, also
    where volumes have more slices than the generator has seen.

    Args:
        context: where to.
        data: the site's raw data set.
        cases: its training and validation cases. Validation is on real images alone.
        dataset: channels and labels.
        caps: the budget's, on nnU-Net's plan.
        samples: what `synthesise` accepted, at least `images`.
        labelled: their labels.
        prepared: the view that maps them to the site's units.
        images: synthetic images that are added.
        per_real: how many that is for each real one.
    """
    from hyfree_ray.core.files import remove_tree
    from hyfree_ray.segmenters.nnunet.data import (
        Split,
        plan_and_preprocess,
        use_on_volumes,
        write_splits,
    )
    from hyfree_ray.stages.replay import as_mha, in_proportion, slice_axis_of, write_real_slices

    slices = context.out / "slices"
    real = write_real_slices(slices, "real", data, cases, dataset)
    synthetic = _write_synthetic(slices, samples, labelled, prepared, images)
    validation = [case.name for case, part in real if part == "val"]
    training = [case.name for case, part in real if part == "train"]
    plan = plan_and_preprocess(
        context.out,
        [*(case for case, _ in real), *synthetic],
        as_mha(dataset),
        PlanCaps(**caps),
        validation=validation,
        fingerprint_on=[case.name for case, _ in real],
    )
    use_on_volumes(context.out, slice_axis_of(cases))
    share = per_real / (1 + per_real)
    drawn = in_proportion(training, [case.name for case in synthetic], share)
    write_splits(context.out, [Split(train=drawn, val=validation)])
    remove_tree(slices)
    return {
        "patch_size": list(plan.patch_size),
        "batch_size": plan.batch_size,
        "real": len(training),
        "synthetic": len(synthetic),
    }


def _write_synthetic(
    folder: Path, samples: Folder, labelled: Folder, prepared: Folder, images: int
) -> list[Any]:
    """Write the first accepted samples and their labels as raw cases, in the site's units."""
    import numpy as np

    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.sampling import max_level
    from hyfree_ray.stages.pooling import write_pairs
    from hyfree_ray.stages.synthesis import LABELS

    view = GeneratorView.load(prepared / "view.npz")
    stored_NCHW = np.load(samples / "accepted.npy", allow_pickle=False)[:images]
    labels_NHW = np.load(labelled / LABELS, allow_pickle=False)[:images]
    scale_C = view.step_C(max_level(stored_NCHW.dtype))[:, None, None]

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for stored_CHW, label_HW in zip(stored_NCHW, labels_NHW, strict=True):
            yield (stored_CHW * scale_C + view.low_C[:, None, None]).astype(np.float32), label_HW

    return write_pairs(folder, "synthetic", pairs(), view.spacing)
