"""The scoring of models on real test cases, on the cases' original grids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hyfree_ray.cohorts.site_case import Cases
from hyfree_ray.core.stage import Context, Folder, stage
from hyfree_ray.evaluation.scores import PRIMARY

SCORES = "scores.json"


@stage(version=3, device=True, private=("cases",))
def score(
    context: Context,
    *,
    data: Folder,
    cases: Cases,
    dataset: Mapping[str, Any],
    model: Folder,
    segmenter: str,
    regime: str,
    train_site: str,
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """Score a model on a site's test cases: the metrics of each case and label.

    `metrics` are measured beside the project's own; the model has to be of the architecture
    `segmenter`, for it may be another party's.

    A volume is one case: it is predicted and scored whole, on its own grid. Labels are matched
    by name, whatever their values are in the model's data set.

    Writes `scores.json`: rows of patient and case as indices, whose names stay with the site.
    """
    from hyfree_ray.cohorts.label_sets import LabelEncoding, with_values
    from hyfree_ray.evaluation.metrics import metrics_in_order, score_case
    from hyfree_ray.segmenters.nnunet.ensemble import load_model
    from hyfree_ray.segmenters.nnunet.reading import read_image, read_label

    network = load_model(model / "model", context.device, segmenter)
    measures = metrics_in_order(metrics)
    values = LabelEncoding.of(network.dataset_json).values_in(LabelEncoding.of(dataset))
    rows: list[dict[str, Any]] = []
    for case in cases:
        image_CZHW, spacing = read_image([data / name for name in case["images"]], dataset)
        predicted_ZHW = with_values(network.segment(image_CZHW, spacing), values)
        reference_ZHW = read_label(data / case["label"], dataset)
        scores = score_case(predicted_ZHW, reference_ZHW, dataset["labels"], spacing, measures)
        rows += [
            {
                "patient": case["patient"],
                "case": case["index"],
                "label": found.label,
                **found.values,
                "outcome": found.outcome,
            }
            for found in scores
        ]
    (context.out / SCORES).write_text(json.dumps(rows))
    measured = [row[PRIMARY] for row in rows if row[PRIMARY] is not None]
    return {
        "regime": regime,
        "train_site": train_site,
        "cases": len(cases),
        "mean_dice": sum(measured) / len(measured) if measured else None,
        "rows": rows,
    }
