"""The audit of what a site is about to release, and the gate that it has to pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hyfree_ray.core.stage import Context, Folder, read_result, stage

SECONDS = 3600.0
"""An audit that takes longer is given up, and nothing is released."""

AUDIT_FILE = "distances.json"
HISTOGRAM = "distances.png"
"""These files stay at the site: distances to training images reveal membership."""


@stage(version=2, device=True)
def audit(
    context: Context,
    *,
    samples: Folder,
    segmenter: Folder,
    prepared: Folder,
    gate: Mapping[str, float],
    generator: str,
    images_shown: int,
    embedder: str,
    seed: int,
    embedder_weights: Folder | None = None,
) -> dict[str, Any]:
    """Attack the accepted samples, write the privacy card, and check it against the site's gate.

    Returns:
        outcome (released or withheld), reason, rejection_rate, and the card, which may travel.
    """
    import numpy as np

    from hyfree_ray.border.gate import Gate, violations
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.audit import TimeLimit, audit_samples, privacy_card
    from hyfree_ray.privacy.embedders import load_embedder
    from hyfree_ray.reports.pictures import distance_histogram

    filtered = read_result(samples)
    outcome = {name: filtered[name] for name in ("outcome", "reason", "rejection_rate")}
    if filtered["outcome"] == "withheld":
        return {**outcome, "card": None}
    view = GeneratorView.load(prepared / "view.npz")
    embed = load_embedder(
        embedder,
        model=segmenter / "model",
        weights=embedder_weights,
        view=view,
        device=context.device,
    )
    found = audit_samples(
        np.load(samples / "accepted.npy", allow_pickle=False),
        view,
        embed,
        percentile=filtered["percentile"],
        seed=seed,
        limit=TimeLimit(seconds=SECONDS),
    )
    (context.out / AUDIT_FILE).write_text(json.dumps(found.numbers()))
    distance_histogram(
        context.out / HISTOGRAM, found.nearest_N, found.nearest_M, found.paper_threshold
    )
    card = privacy_card(
        found,
        filtered,
        generator=generator,
        images_shown=images_shown,
    )
    failed = violations(card, Gate(**gate))
    if failed:
        outcome |= {"outcome": "withheld", "reason": f"it fails the gate: {'; '.join(failed)}"}
    return {**outcome, "card": card.model_dump(mode="json")}
