"""The audit of what a site is about to release, the gate that it has to pass, and the audit of the
general model that it receives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hyfree_ray.cohorts.site_case import Cases, SiteCase
from hyfree_ray.core.stage import Context, Folder, read_result, stage
from hyfree_ray.evaluation.scores import PRIMARY

SECONDS = 3600.0
"""An audit that takes longer is given up, and nothing is released."""

AUDIT_FILE = "distances.json"
HISTOGRAM = "distances.png"
RISK_FILE = "patients.json"
"""These files stay at the site: distances and patients' risks reveal membership."""


@stage(version=6, device=True, private=("trained_before",))
def audit(
    context: Context,
    /,
    *,
    samples: Folder,
    segmenter: Folder,
    prepared: Folder,
    gate: Mapping[str, Any],
    generator: str,
    images_shown: int,
    embedder: str,
    seed: int,
    embedder_weights: Folder | None = None,
    left_out: int = 0,
    attempts: int = 1,
    trained_before: Sequence[int] = (),
    **earlier: Folder,
) -> dict[str, Any]:
    """Attack the accepted samples, write the privacy card, and check it against the site's gate.

    Args:
        context: where it runs.
        samples: those that passed the filter.
        segmenter: the site's own, by whose features images are compared.
        prepared: the site's images.
        gate: the site's own.
        generator: the backend.
        images_shown: length of its training.
        embedder: what images are compared by.
        seed: seed of what no attack depends on.
        embedder_weights: OpenCLIP's.
        left_out: patients whom the site has left out for their risk; nothing else is said of them.
        attempts: audits of samples of these patients so far, this one included.
        trained_before: patients whom earlier releases were trained on.
        earlier: the samples of earlier releases of some of these patients.

    Returns:
        outcome (released or withheld), reason, rejection_rate, and the card, which may travel.
    """
    import numpy as np

    from hyfree_ray.border.gate import Gate, violations
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.audit import (
        Earlier,
        TimeLimit,
        audit_masks,
        audit_samples,
        privacy_card,
    )
    from hyfree_ray.privacy.embedders import load_embedder
    from hyfree_ray.reports.pictures import distance_histogram
    from hyfree_ray.stages.synthesis import MASKS

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
    limit = TimeLimit(seconds=SECONDS)
    found = audit_samples(
        np.load(samples / "accepted.npy", allow_pickle=False),
        view,
        embed,
        percentile=filtered["percentile"],
        seed=seed,
        limit=limit,
        earlier=Earlier(
            samples=tuple(
                np.load(folder / "accepted.npy", allow_pickle=False) for folder in earlier.values()
            ),
            patients=tuple(trained_before),
        ),
    )
    (context.out / AUDIT_FILE).write_text(json.dumps(found.numbers()))
    (context.out / RISK_FILE).write_text(json.dumps(found.patients()))
    distance_histogram(
        context.out / HISTOGRAM, found.nearest_N, found.nearest_M, found.paper_threshold
    )
    bounds = Gate.model_validate(gate)
    drawn_masks = samples / MASKS
    card = privacy_card(
        found,
        filtered,
        bounds,
        generator=generator,
        images_shown=images_shown,
        attempts=attempts,
        left_out=left_out,
        by_masks=audit_masks(np.load(drawn_masks, allow_pickle=False), view, limit)
        if drawn_masks.is_file()
        else None,
    )
    failed = violations(card, bounds)
    if failed:
        outcome |= {"outcome": "withheld", "reason": f"it fails the gate: {'; '.join(failed)}"}
    return {**outcome, "card": card.model_dump(mode="json")}


@stage(version=1, device=True, private=("cases",))
def audit_general(
    context: Context,
    *,
    data: Folder,
    cases: Cases,
    dataset: Mapping[str, Any],
    model: Folder,
    segmenter: str,
    gate: Mapping[str, Any],
) -> dict[str, Any]:
    """Attack the general model, as everybody may who has it: does it know the site's patients?

    Args:
        context: where it runs.
        data: the site's raw data.
        cases: those that its generator and its labels were trained on, and those held out.
        dataset: the task.
        model: the general model.
        segmenter: the architecture that it has to be of.
        gate: the site's own: bounds on the attack.

    Returns:
        outcome (passes or fails), the attacks, and the table of bounds. The model is everywhere
        already: a site whose patients it tells can withdraw its release from the next round.
    """
    from hyfree_ray.border.gate import Gate, judge_attacks
    from hyfree_ray.border.privacy_card import Attacks, Findings
    from hyfree_ray.privacy.audit import rounded
    from hyfree_ray.privacy.membership import membership
    from hyfree_ray.privacy.model_audit import attack_model

    scored = []
    for case, dice in _dice_of_cases(context, data, cases, dataset, model, segmenter):
        scored.append((case["patient"], case["part"] == "train", dice))
        context.progress(len(scored), len(cases), {})
    attacked = attack_model(scored)
    if attacked is None:
        return {"outcome": "passes", "attacks": None, "gate": []}
    attacks = Attacks.model_validate(rounded(membership(attacked)))
    table = judge_attacks(
        Findings(attacks=attacks, concentration=None), Gate.model_validate(gate), "general model"
    )
    return {
        "outcome": "passes" if all(row.passed for row in table) else "fails",
        "attacks": attacks.model_dump(mode="json"),
        "gate": [row.model_dump(mode="json") for row in table],
    }


@stage(version=1)
def audit_labels(
    context: Context,  # noqa: ARG001
    *,
    labelled: Folder,
    prepared: Folder,
    gate: Mapping[str, Any],
) -> dict[str, Any]:
    """Attack the masks of a release alone: do they tell whom the labelling network was trained on?

    Args:
        context: where it runs.
        labelled: the masks, as a network drew them on samples.
        prepared: the site's images with their masks.
        gate: the site's own: bounds on the attack.

    Returns:
        outcome (passes or fails), the attacks, and the table of bounds.
    """
    import numpy as np

    from hyfree_ray.border.gate import Gate, judge_attacks
    from hyfree_ray.border.privacy_card import Findings
    from hyfree_ray.generators.view import GeneratorView
    from hyfree_ray.privacy.audit import TimeLimit, audit_masks
    from hyfree_ray.stages.synthesis import LABELS

    if read_result(labelled)["outcome"] == "withheld":
        return {"outcome": "passes", "attacks": None, "gate": []}
    masks_NHW = np.load(labelled / LABELS, allow_pickle=False)
    view = GeneratorView.load(prepared / "view.npz")
    attacks = audit_masks(masks_NHW, view, TimeLimit(seconds=SECONDS))
    table = judge_attacks(
        Findings(attacks=attacks, concentration=None), Gate.model_validate(gate), "labels"
    )
    return {
        "outcome": "passes" if all(row.passed for row in table) else "fails",
        "attacks": attacks.model_dump(mode="json"),
        "gate": [row.model_dump(mode="json") for row in table],
    }


def _dice_of_cases(
    context: Context,
    data: Folder,
    cases: Cases,
    dataset: Mapping[str, Any],
    model: Folder,
    segmenter: str,
) -> Iterator[tuple[SiteCase, float | None]]:
    """Yield each case with the mean Dice of its labels."""
    from hyfree_ray.cohorts.label_sets import LabelEncoding, with_values
    from hyfree_ray.evaluation.metrics import score_case
    from hyfree_ray.segmenters.nnunet.model import Model
    from hyfree_ray.segmenters.nnunet.reading import read_image, read_label

    network = Model(model / "model", context.device, segmenter)
    values = LabelEncoding.of(network.dataset_json).values_in(LabelEncoding.of(dataset))
    for case in cases:
        image_CZHW, spacing = read_image([data / name for name in case["images"]], dataset)
        predicted_ZHW = with_values(network.segment(image_CZHW, spacing), values)
        reference_ZHW = read_label(data / case["label"], dataset)
        scores = score_case(predicted_ZHW, reference_ZHW, dataset["labels"], spacing)
        dice = [value for one in scores if (value := one.values[PRIMARY]) is not None]
        yield case, sum(dice) / len(dice) if dice else None
