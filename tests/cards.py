"""Privacy cards for tests."""

from __future__ import annotations

from typing import Any

from hyfree_ray.border.privacy_card import UNION, PrivacyCard


def attack(auc: float = 0.52, control: float = 0.49, over: bool = False) -> dict[str, Any]:
    return {
        "auc": auc,
        "interval": [0.4, 0.9],
        "control": control,
        "control_interval": [0.4, 0.6],
        "over_control": over,
        "control_valid": True,
    }


def card(**changes: Any) -> dict[str, Any]:
    """A card that passes the default gate, as JSON, but for what is changed."""
    recall = {"features": 0.9, "correlation": 1.0, "structure": 1.0, UNION: 1.0}
    values = {
        "generator": "flow",
        "images_shown": 6000,
        "training_images": 80,
        "images": 6,
        "embedder": "nnunet",
        "detectors": ["features", "correlation", "structure"],
        "rejection_rate": 0.12,
        "rejects_of_honest_images": 0.05,
        "self_test": {"exact": recall, "mirrored": recall, "jittered": recall},
        "planted_leaks": {"exact": 1.0, "jittered": 1.0, "blended 80:20": 0.7},
        "attacks": {
            "measurable": True,
            "non_member_patients": 24,
            "nearest": attack(),
            "density": attack(0.5, 0.52),
        },
        "nearer_to_training": 0.55,
        "thresholds": {
            "ours": {"of_released": 0.0, "of_held_out": 0.05},
            "paper": {"of_released": 0.0, "of_held_out": 0.2},
        },
    }
    return PrivacyCard.model_validate(values | changes).model_dump(mode="json")
