"""What a site does with its generator: sample, filter, label, release.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyfree_ray.stage import Context, read_result, stage

if TYPE_CHECKING:
    import numpy as np


@stage(version=1, device=True)
def synthesise(
    context: Context,
    *,
    generator: Path,
    segmenter: Path,
    prepared: Path,
    choice: Path,
    quota: int,
    percentile: float,
    embedder: str,
    precision: str,
    seed: int,
    embedder_weights: Path | None = None,
) -> dict[str, Any]:
    """Sample until `quota` images have passed the memorisation filter, or decide to withhold.

    Writes `accepted.npy` (uint8 NCHW), and `nearest_pairs.png` with real images, which stays.
    """
    import numpy as np

    from hyfree_ray import generators
    from hyfree_ray.generator_view import GeneratorView
    from hyfree_ray.pictures import nearest_pairs
    from hyfree_ray.privacy.embedders import load_embedder
    from hyfree_ray.privacy.memorization import MemorisationFilter
    from hyfree_ray.privacy.sampling import draw_until

    snapshot = read_result(choice)["snapshot"]
    view = GeneratorView.load(prepared / "view.npz")
    embed_physical = load_embedder(
        embedder,
        model=segmenter / "model",
        weights=embedder_weights,
        window_C=(view.low_C, view.high_C),
        device=context.device,
    )

    def embed(images_NCHW: np.ndarray) -> np.ndarray:
        return embed_physical(view.physical(images_NCHW))

    def draw(start: int, count: int) -> Iterator[np.ndarray]:
        return generators.sample(
            generator,
            snapshot,
            start=start,
            count=count,
            seed=seed,
            device=context.device,
            precision=precision,
        )

    def report(accepted: int, rejected: int) -> None:
        context.progress(accepted, quota, {"rejected": rejected})

    real_NCHW = view.images_NCHW[view.training_N]
    patients_N = view.patients_N[view.training_N]
    rule = MemorisationFilter.calibrate(real_NCHW, patients_N, embed, percentile=percentile)
    drawn = draw_until(quota, draw, rule, embed, report=report)
    np.save(context.out / "accepted.npy", drawn.accepted_NCHW)
    nearest_pairs(
        context.out / "nearest_pairs.png",
        drawn.nearest_sample_NCHW,
        real_NCHW[drawn.nearest_real_N],
        drawn.nearest_N,
    )
    held_out_NCHW = view.images_NCHW[~view.training_N]
    reason = drawn.reason_to_withhold
    return {
        "outcome": "released" if reason is None else "withheld",
        "reason": reason,
        "drawn": drawn.drawn,
        "rejected": drawn.rejected,
        "rejection_rate": drawn.rejection_rate,
        "accepted": len(drawn.accepted_NCHW),
        "quota": quota,
        "embedder": embedder,
        "held_out_images": len(held_out_NCHW),
        # The rule is sound only where it rejects about `percentile` % of new real images.
        "held_out_rejected_share": float(rule.memorised(embed(held_out_NCHW)).mean())
        if len(held_out_NCHW)
        else None,
    }


@stage(version=1, device=True)
def release(
    context: Context,
    *,
    samples: Path,
    segmenter: Path,
    prepared: Path,
    site: str,
    dataset: Mapping[str, Any],
    federation: str,
    round_number: int,
    card: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Label the accepted samples with the site's own nnU-Net and write the release.

    A site that withholds writes no release; its outcome and the reason are all there is.
    """
    import numpy as np

    from hyfree_ray.generator_view import GeneratorView
    from hyfree_ray.labelling import content_box
    from hyfree_ray.privacy.sampling import LEVELS
    from hyfree_ray.release import ReleaseMetadata, write_release
    from hyfree_ray.seeds import seed_of
    from hyfree_ray.segmenters.nnunet.model import Model

    found = read_result(samples)
    outcome = {name: found[name] for name in ("outcome", "reason", "rejection_rate")}
    if found["outcome"] == "withheld":
        return {**outcome, "images": 0}
    view = GeneratorView.load(prepared / "view.npz")
    stored_NCHW = np.load(samples / "accepted.npy", allow_pickle=False)
    scale_C = (view.high_C - view.low_C) / LEVELS
    model = Model(segmenter / "model", context.device)
    labels_NHW = np.zeros((len(stored_NCHW), *stored_NCHW.shape[2:]), np.uint8)
    for done, stored_CHW in enumerate(stored_NCHW, start=1):
        physical_CHW = stored_CHW * scale_C[:, None, None] + view.low_C[:, None, None]
        box = content_box(stored_CHW)
        inside_CHW = physical_CHW[(slice(None), *box)]
        labels_NHW[done - 1][box] = model.segment_slice(inside_CHW, view.spacing)
        if done % 32 == 0 or done == len(stored_NCHW):
            context.progress(done, len(stored_NCHW), {})
    metadata = ReleaseMetadata(
        site=site,
        channel_names=tuple(dataset["channel_names"].values()),
        label_names=dict(dataset["labels"]),
        spacing=view.spacing,
        slice_axis=0,
        scale=tuple(float(s) for s in scale_C),
        offset=tuple(float(o) for o in view.low_C),
        card={
            **card,
            "statement": "Synthetic images. Not a declaration of anonymity.",
            "rejection_rate": round(found["rejection_rate"], 2),
            "embedder": found["embedder"],
        },
    )
    manifest = write_release(
        context.out,
        metadata,
        stored_NCHW,
        labels_NHW,
        experiment=federation,
        round_number=round_number,
        nonce=f"{seed_of(seed, 'nonce'):016x}",
    )
    return {
        **outcome,
        "images": manifest.rows,
        "bytes": manifest.bytes,
        "label_share": {
            name: float((labels_NHW == value).mean())
            for name, value in dataset["labels"].items()
            if value != 0
        },
    }
