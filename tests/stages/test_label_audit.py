"""The masks of a release by themselves: do they tell whom the labelling network was trained on?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hyfree_ray.border.gate import Gate
from hyfree_ray.core.records import write_record
from hyfree_ray.core.stage import Context
from hyfree_ray.stages.audit import audit_labels
from hyfree_ray.stages.synthesis import LABELS
from tests.privacy.test_mask_copies import lesions
from tests.stage_records import stage_record

TRAINING, HELD_OUT = 40, 30
"""Patients with a mask each."""


def prepared(folder: Path) -> Path:
    folder.mkdir()
    masks_NHW = lesions(TRAINING + HELD_OUT, 0)
    np.savez(
        folder / "view.npz",
        images=np.zeros((len(masks_NHW), 1, *masks_NHW.shape[1:]), np.float32),
        patients=np.arange(len(masks_NHW)),
        training=np.arange(len(masks_NHW)) < TRAINING,
        low=np.zeros(1, np.float32),
        high=np.ones(1, np.float32),
        spacing=np.ones(2),
        masks=masks_NHW,
    )
    return folder


def audited(root: Path, masks_NHW: np.ndarray | None) -> dict[str, Any]:
    labelled = root / "labelled"
    labelled.mkdir()
    outcome = "withheld" if masks_NHW is None else "released"
    if masks_NHW is not None:
        np.save(labelled / LABELS, masks_NHW)
    write_record(labelled, stage_record("label", result={"outcome": outcome}))
    context = Context(out=root, owner="A", device="cpu")
    gate = Gate().model_dump(exclude={"quality"})
    return audit_labels(context, labelled=labelled, prepared=prepared(root / "prepared"), gate=gate)


def test_masks_of_a_network_that_draws_what_it_was_trained_on_fail(tmp_path: Path) -> None:
    """Case 116: no image is looked at."""
    of_members = np.roll(lesions(TRAINING, 0), (2, -3), axis=(1, 2))
    found = audited(tmp_path, of_members)
    assert found["outcome"] == "fails"
    assert found["attacks"]["auc_bound"] > 0.8
    assert any("labels" in row["name"] and not row["passed"] for row in found["gate"])


def test_masks_of_nobody_pass_and_the_row_says_what_could_have_been_seen(tmp_path: Path) -> None:
    """Case 116."""
    found = audited(tmp_path, lesions(80, 5))
    assert found["outcome"] == "passes"
    assert found["attacks"]["auc_bound"] <= Gate().max_attack_auc
    assert (found["attacks"]["members"], found["attacks"]["held_out"]) == (TRAINING, HELD_OUT)


def test_a_release_that_is_withheld_has_no_masks_to_attack(tmp_path: Path) -> None:
    found = audited(tmp_path, None)
    assert (found["outcome"], found["attacks"], found["gate"]) == ("passes", None, [])
