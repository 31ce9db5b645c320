"""What a site does with its generator: sample, filter, label, release.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyfree_ray.stage import Context, stage

DRAWS_PER_IMAGE = 4
"""Samples drawn at most for each image of the quota, dropped ones included."""

WITHHOLD_ABOVE = 0.5
"""A generator of whose samples more than this share look memorised mostly copies."""

CONTAINER_MAXIMUM = 255
"""Stored values are uint8: 1/255 of the site's intensity range a step."""


@stage(version=1, device=True)
def synthesise(
    context: Context,
    *,
    generator: Path,
    segmenter: Path,
    prepared: Path,
    snapshot: str,
    quota: int,
    percentile: float,
    embedder: str,
    embedder_weights: str | None,
    precision: str,
    seed: int,
) -> dict[str, Any]:
    """Sample until `quota` images have passed the memorisation filter, or decide to withhold.

    Writes `accepted.npy` (uint8 NCHW), and `nearest_pairs.png` with real images, which stays.
    """
    import numpy as np

    from hyfree_ray.generator_view import GeneratorView
    from hyfree_ray.pictures import nearest_pairs
    from hyfree_ray.privacy.embedders import load_embedder
    from hyfree_ray.privacy.memorization import MemorisationFilter

    view = GeneratorView.load(prepared / "view.npz")
    embed = load_embedder(
        embedder,
        model=segmenter / "model",
        weights=embedder_weights,
        window_C=(view.low_C, view.high_C),
        device=context.device,
    )
    real_NCHW = view.images_NCHW[view.training_N]
    rule = MemorisationFilter.calibrate(
        view.physical(real_NCHW), view.patients_N[view.training_N], embed, percentile=percentile
    )
    drawn = _draw(context, generator, snapshot, view, rule, embed, quota, precision, seed)
    np.save(context.out / "accepted.npy", drawn.accepted_NCHW[:quota])
    order = np.argsort(drawn.distances_N)[:8]
    nearest_pairs(
        context.out / "nearest_pairs.png",
        drawn.nearest_NCHW[order],
        real_NCHW[drawn.nearest_index_N[order]],
        drawn.distances_N[order],
    )
    held_out = view.images_NCHW[~view.training_N]
    rejected_real = rule.memorised(embed(view.physical(held_out))) if len(held_out) else []
    rate = drawn.rejected / drawn.drawn
    reason = _reason_to_withhold(rate, min(len(drawn.accepted_NCHW), quota))
    return {
        "outcome": "released" if reason is None else "withheld",
        "reason": reason,
        "drawn": drawn.drawn,
        "rejected": drawn.rejected,
        "rejection_rate": rate,
        "accepted": min(len(drawn.accepted_NCHW), quota),
        "quota": quota,
        "embedder": embedder,
        "held_out_images": len(held_out),
        "held_out_rejected_share": float(np.mean(rejected_real)) if len(held_out) else None,
    }


def _reason_to_withhold(rate: float, accepted: int) -> str | None:
    if rate > WITHHOLD_ABOVE:
        return (
            f"{rate:.0%} of the samples look like copies of training images (more than "
            f"{WITHHOLD_ABOVE:.0%}): this site is too small for its generator; nothing is released"
        )
    if accepted == 0:
        return "no sample passed the memorisation filter; nothing is released"
    return None


class _Drawn:
    """Samples so far: those accepted, and the ones nearest to real images."""

    def __init__(self) -> None:
        self.drawn = 0
        self.rejected = 0


def _draw(
    context: Context,
    generator: Path,
    snapshot: str,
    view: Any,
    rule: Any,
    embed: Any,
    quota: int,
    precision: str,
    seed: int,
) -> Any:
    import numpy as np

    from hyfree_ray import generators
    from hyfree_ray.release import repeated_rows

    drawn: Any = _Drawn()
    accepted, distances, indices, images = [], [], [], []
    count = 0
    while drawn.drawn < DRAWS_PER_IMAGE * quota and count < quota:
        wanted = min(quota, DRAWS_PER_IMAGE * quota - drawn.drawn)
        if drawn.drawn:
            # Later rounds only replace what was dropped, at the rate seen so far.
            wanted = min(wanted, int((quota - count) / max(0.05, count / drawn.drawn)) + 1)
        for batch_NCHW in generators.sample(
            generator,
            snapshot,
            start=drawn.drawn,
            count=wanted,
            seed=seed,
            device=context.device,
            precision=precision,
        ):
            stored_NCHW = np.rint((batch_NCHW + 1) / 2 * CONTAINER_MAXIMUM).astype(np.uint8)
            # The filter sees what would travel: the quantised image.
            shown_NCHW = stored_NCHW.astype(np.float32) / CONTAINER_MAXIMUM * 2 - 1
            nearest_N, index_N = rule.nearest(embed(view.physical(shown_NCHW)))
            dropped_N = nearest_N < rule.threshold
            accepted.append(stored_NCHW[~dropped_N])
            distances.append(nearest_N)
            indices.append(index_N)
            images.append(shown_NCHW)
            drawn.drawn += len(batch_NCHW)
            drawn.rejected += int(dropped_N.sum())
            count += int((~dropped_N).sum())
            context.progress(min(count, quota), quota, {"rejected": float(drawn.rejected)})
        if drawn.rejected / drawn.drawn > WITHHOLD_ABOVE:
            break
    unique = np.concatenate(accepted)
    drawn.accepted_NCHW = unique[~repeated_rows(unique)]
    drawn.distances_N = np.concatenate(distances)
    drawn.nearest_index_N = np.concatenate(indices)
    drawn.nearest_NCHW = np.concatenate(images)
    return drawn


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
    import json

    import numpy as np

    from hyfree_ray.generator_view import GeneratorView
    from hyfree_ray.release import ReleaseMetadata, write_release
    from hyfree_ray.seeds import seed_of
    from hyfree_ray.segmenters.nnunet.model import Model

    found = json.loads((samples / "record.json").read_text())["result"]
    outcome = {name: found[name] for name in ("outcome", "reason", "rejection_rate")}
    if found["outcome"] == "withheld":
        return {**outcome, "images": 0}
    view = GeneratorView.load(prepared / "view.npz")
    stored_NCHW = np.load(samples / "accepted.npy", allow_pickle=False)
    scale_C = (view.high_C - view.low_C) / CONTAINER_MAXIMUM
    model = Model(segmenter / "model", context.device)
    labels = []
    for stored_CHW in stored_NCHW:
        physical_CHW = stored_CHW * scale_C[:, None, None] + view.low_C[:, None, None]
        labels.append(model.segment_slice(physical_CHW, model.plan.spacing))
        if len(labels) % 32 == 0 or len(labels) == len(stored_NCHW):
            context.progress(len(labels), len(stored_NCHW), {})
    labels_NHW = np.stack(labels)
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
        "foreground_share": float((labels_NHW > 0).mean()),
    }
