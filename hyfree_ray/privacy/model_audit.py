"""Whether a model tells which of a hospital's patients were trained on, directly or through images.

The general model is trained on releases alone, and reaches everybody. What releases and their masks
have kept of a patient shows where it segments that patient better than others: its loss on members
against that on patients who were held out (Yeom et al. 2018, arXiv 1709.01604, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hyfree_ray.privacy.membership import Attacked


def attack_model(cases: Iterable[tuple[int, bool, float | None]]) -> Attacked | None:
    """Attack patients by how well a model segments them.

    Args:
        cases: of each its patient, whether that patient was trained on, and its mean Dice; None
            where no structure was there or was found.

    Returns:
        None where no case of a member could be scored.
    """
    by_patient: dict[tuple[int, bool], list[float]] = {}
    for patient, member, dice in cases:
        if dice is not None:
            by_patient.setdefault((patient, member), []).append(dice)
    if not any(member for _, member in by_patient):
        return None
    return Attacked(
        score_AP=np.array([[float(np.mean(dice)) for dice in by_patient.values()]]),
        member_P=np.array([member for _, member in by_patient]),
        names=("loss",),
    )
