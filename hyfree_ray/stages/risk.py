"""The risk of each patient whom a site's generator was trained on: for the site's own staff alone.

Shapes: N images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.core.stage import Context, Folder, read_result, stage

if TYPE_CHECKING:
    from hyfree_ray.privacy.risk import Losses

PATIENTS = "risk.json"
"""Stays at the site, as all that is said of single patients."""


@stage(version=1, device=True)
def patient_risk(
    context: Context,
    /,
    *,
    samples: Folder,
    segmenter: Folder,
    prepared: Folder,
    generator: Folder,
    snapshot: str,
    embedder: str,
    embedder_weights: Folder | None = None,
    **others: Folder,
) -> dict[str, Any]:
    """Measure the risk of each patient, by the release and by the generator's own loss.

    Args:
        context: where to.
        samples: those that passed the filter.
        segmenter: the site's own, by whose features images are compared.
        prepared: the site's images.
        generator: what drew the samples.
        snapshot: which of its snapshots did.
        embedder: what images are compared by.
        embedder_weights: OpenCLIP's.
        others: further trainings of the site, `training_K` with the images that it saw, `view_K`.

    Returns:
        How many patients there are, whether there is a loss, and how many further trainings it was
        compared with.
        Nothing of any patient: what a stage returns is seen by observers.
    """
    import numpy as np

    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.concentration import concentration
    from hyfree_ray.privacy.embedders import load_embedder
    from hyfree_ray.privacy.membership import Group, Hospital
    from hyfree_ray.privacy.risk import patient_risks
    from hyfree_ray.privacy.sampling import restore

    view = GeneratorView.load(prepared / "view.npz")
    embed = load_embedder(
        embedder,
        model=segmenter / "model",
        weights=embedder_weights,
        view=view,
        device=context.device,
    )
    real_NF = embed(view.images_NCHW)
    groups = [
        Group(features_KF=real_NF[part_N], patients_K=view.patients_N[part_N])
        for part_N in (view.training_N, ~view.training_N)
    ]
    real = Hospital.of(*groups)
    sample_NF = embed(restore(np.load(samples / "accepted.npy", allow_pickle=False)))
    compared = [
        _losses(others[f"training_{k}"], others[f"view_{k}"], None, context.device)
        for k in range(len(others) // 2)
    ]
    target = _losses(generator, prepared, snapshot, context.device)
    useful = [losses for losses in compared if losses is not None]
    found = patient_risks(
        sample_NF,
        real,
        concentration(sample_NF, real),
        target,
        useful,
    )
    (context.out / PATIENTS).write_text(json.dumps([one.row() for one in found]))
    return {"patients": len(found), "loss": target is not None, "compared": len(useful)}


def _losses(
    generator: Folder, prepared: Folder, snapshot: str | None, device: str
) -> Losses | None:
    """Return a training's losses of its site's images; None where its backend has none.

    Args:
        generator: the training.
        prepared: the images that it saw, or was spared.
        snapshot: of which snapshot; None: the last one.
        device: where to compute.
    """
    from hyfree_ray import generators
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.risk import Losses

    view = GeneratorView.load(prepared / "view.npz")
    loss_N = generators.losses(
        Path(generator),
        snapshot or read_result(generator)["snapshots"][-1],
        view.images_NCHW,
        view.masks_NHW,
        device=device,
    )
    if loss_N is None:
        return None
    return Losses(loss_N=loss_N, patients_N=view.patients_N, training_N=view.training_N)
