from __future__ import annotations

import logging

import pytest
import torch

from hyfree_ray.core.checkpoints import load_checkpoint, save_checkpoint


def _state(step: int) -> dict[str, object]:
    return {"step": step, "weights": torch.full((3, 2), float(step)), "names": ["a", "b"]}


def test_the_newest_checkpoint_comes_back(tmp_path):
    for step in (1, 2, 11):
        save_checkpoint(tmp_path / "checkpoints", step, _state(step))
    step, state = load_checkpoint(tmp_path / "checkpoints", "cpu")
    assert step == 11
    assert state["names"] == ["a", "b"]
    assert torch.equal(state["weights"], torch.full((3, 2), 11.0))


def test_only_the_two_newest_are_kept(tmp_path):
    for step in range(5):
        save_checkpoint(tmp_path, step, _state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-{step:012d}{suffix}" for step in (3, 4) for suffix in (".pt", ".sha256")
    ]


def test_there_is_nothing_to_load_before_the_first_save(tmp_path):
    assert load_checkpoint(tmp_path / "none", "cpu") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "no digest", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_warns(tmp_path, caplog, damage):
    """Cases 22 and 23."""
    for step in (1, 2):
        save_checkpoint(tmp_path, step, _state(step))
    newest = tmp_path / "step-000000000002.pt"
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif damage == "cut":
        newest.write_bytes(content[:-10])
    elif damage == "empty":
        newest.write_bytes(b"")
    else:
        newest.with_suffix(".sha256").unlink()
    with caplog.at_level(logging.WARNING, "hyfree_ray"):
        step, state = load_checkpoint(tmp_path, "cpu")
    assert (step, state["step"]) == (1, 1)
    assert "falling back" in caplog.text


def test_leftovers_of_a_killed_write_are_ignored_and_swept(tmp_path):
    leftover = tmp_path / ".step-000000000009.pt.123.tmp"
    leftover.write_bytes(b"half")
    assert load_checkpoint(tmp_path, "cpu") is None
    save_checkpoint(tmp_path, 1, _state(1))
    assert not leftover.exists()


def test_saving_a_step_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, 1, _state(1))
    save_checkpoint(tmp_path, 1, _state(7))
    step, state = load_checkpoint(tmp_path, "cpu")
    assert (step, state["step"]) == (1, 7)


def test_pickled_objects_are_not_loaded(tmp_path):
    """Case 69."""
    save_checkpoint(tmp_path, 1, {"evil": pytest.raises})
    assert load_checkpoint(tmp_path, "cpu") is None
