"""Privacy and quality cards for tests."""

from __future__ import annotations

from typing import Any

from hyfree_ray.border.privacy_card import UNION, PrivacyCard
from hyfree_ray.border.quality_card import QualityCard


def attacks(**changes: Any) -> dict[str, Any]:
    """Attacks that find nothing, at a hospital of uneven halves, but for what is changed."""
    return {
        "measurable": True,
        "members": 60,
        "held_out": 24,
        "auc": 0.55,
        "chance": 0.63,
        "auc_bound": 0.5,
        "tpr": 0.1,
        "tpr_bound": 0.0,
        "excluded": 0.08,
        "by_name": {
            "nearest": {"auc": 0.52, "tpr": 0.07},
            "density": {"auc": 0.45, "tpr": 0.1},
        },
        **changes,
    }


def findings(**changes: Any) -> dict[str, Any]:
    """Findings that pass, but for what is changed about the attacks."""
    return {"attacks": attacks(**changes), "concentration": {"share": 0.02, "p": 0.4}}


def too_few(held_out: int = 3) -> dict[str, Any]:
    """Findings at a hospital where attacks have next to nobody to be tried on."""
    unknown = dict.fromkeys(("tpr", "tpr_bound", "excluded"))
    few = attacks(held_out=held_out, members=9, chance=0.98, **unknown)
    return {"attacks": few, "concentration": {"share": 0.02, "p": 0.4}}


def card(**changes: Any) -> dict[str, Any]:
    """A card that passes the default gate, as JSON, but for what is changed."""
    recall = {"features": 0.9, "correlation": 1.0, "structure": 1.0, UNION: 1.0}
    values = {
        "generator": "flow",
        "images_shown": 6000,
        "training_images": 80,
        "images": 6,
        "embedder": "nnunet",
        "labels": "the site's own network",
        "detectors": ["features", "correlation", "structure"],
        "rejection_rate": 0.12,
        "rejects_of_honest_images": 0.05,
        "self_test": {"exact": recall, "mirrored": recall, "jittered": recall},
        "planted_leaks": {"exact": 1.0, "jittered": 1.0, "blended 80:20": 0.7},
        "copy_recall": {"altered": 0.97},
        "copy_recall_over_seeds": {"altered": [0.96, 0.98]},
        "findings": findings(),
        "history": {"releases": 0, "audits": 1, "together": None},
        "thresholds": {
            "ours": {"of_released": 0.0, "of_held_out": 0.05},
            "paper": {"of_released": 0.0, "of_held_out": 0.2},
        },
    }
    return PrivacyCard.model_validate(values | changes).model_dump(mode="json")


STRUCTURE = {"share": 0.024, "presence": 0.6, "components": 1.2, "size": 0.02}


def quality(**changes: Any) -> dict[str, Any]:
    """A card of a release that teaches, as JSON, but for what is changed."""
    values = {
        "measurable": True,
        "compared_with": "held-out",
        "accuracy": 0.8,
        "accuracy_floor": 0.5,
        "images": {"spectrum": {"value": 0.1, "floor": 0.05}},
        "labels": {"label share": {"value": 0.1, "floor": 0.2}},
        "images_times_floor": 1.8,
        "labels_times_floor": 1.2,
        "times_floor": 2.1,
        "structures": {"lesion": {"synthetic": STRUCTURE, "real": STRUCTURE, "labelled": None}},
        "taught": {"release": 0.71, "half": 0.7, "local": 0.78},
    }
    return QualityCard.model_validate(values | changes).model_dump(mode="json")
