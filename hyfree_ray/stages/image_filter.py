"""The memorisation filter of a site: calibrated on its training images, tested on copies of them.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyfree_ray.core.stage import Folder, read_result

if TYPE_CHECKING:
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.embedders import Embed
    from hyfree_ray.privacy.memorization import MemorisationFilter

WANTED_RECALL = 0.95
"""Share of altered copies that the filter is to stop, as far as honest images allow it."""


def calibrated(
    view: GeneratorView, embed: Embed, percentile: float, *, precision: str, seed: int
) -> MemorisationFilter:
    """Calibrate the memorisation filter: two detectors, thresholds from training images, raised
    where altered copies of these would pass.

    Args:
        view: the site's images.
        embed: features of images.
        percentile: of honest images that are rejected.
        precision: of the search for what an image may be a copy of.
        seed: of the alterations; the self-test makes others.
    """
    import numpy as np

    from hyfree_ray.privacy.detectors import Features, Measure, Registration
    from hyfree_ray.privacy.memorization import MemorisationFilter
    from hyfree_ray.privacy.self_test import altered_copies

    real_NCHW, patients_N = view.images_NCHW[view.training_N], view.patients_N[view.training_N]
    detectors: list[Measure] = [Features(embed=embed), Registration(precision=precision)]
    rule = MemorisationFilter.calibrate(real_NCHW, patients_N, detectors, percentile=percentile)
    copies = altered_copies(real_NCHW, patients_N, seed=seed)
    return rule.raised(np.concatenate(list(copies.values())), recall=WANTED_RECALL)


def self_tested(
    rule: MemorisationFilter, view: GeneratorView, copies: Folder, *, seed: int
) -> dict[str, Any]:
    """Test the filter on copies of training images: altered ones, and those of a generator."""
    import numpy as np

    from hyfree_ray.privacy.sampling import quantise, restore
    from hyfree_ray.privacy.self_test import generated_recall, self_test
    from hyfree_ray.stages.training import COPIES

    real_NCHW, patients_N = view.images_NCHW[view.training_N], view.patients_N[view.training_N]
    by_alteration, altered = self_test(rule, real_NCHW, patients_N, seed=seed)
    generated = generated_recall(
        rule,
        restore(quantise(np.load(copies / COPIES, allow_pickle=False))),
        np.array(read_result(copies)["copied"]),
        real_NCHW,
        patients_N,
    )
    return {
        "self_test": by_alteration,
        "copies": {
            kind: recall.values()
            for kind, recall in (("altered", altered), ("generated", generated))
            if recall is not None
        },
    }


def held_out(rule: MemorisationFilter, view: GeneratorView) -> dict[str, Any]:
    """Report what the filter does to new real images: sound if it rejects about `percentile` %."""
    images_NCHW = view.images_NCHW[~view.training_N]
    if not len(images_NCHW):
        return {
            "held_out_images": 0,
            "held_out_rejected_share": None,
            "held_out_rejected_by": None,
        }
    judged = rule.judge(images_NCHW)
    shares = judged.copied_ND.mean(axis=0).tolist()
    return {
        "held_out_images": len(images_NCHW),
        "held_out_rejected_share": float(judged.copied_N.mean()),
        "held_out_rejected_by": dict(zip(rule.names, shares, strict=True)),
    }
