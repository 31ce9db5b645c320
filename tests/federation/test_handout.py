"""What the pool hands out: a site that has its key refuses whatever was exchanged on the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hyfree_ray.border.manifest import Addressee, key_of
from hyfree_ray.core.parcels import Parcel
from hyfree_ray.core.parties import POOL
from hyfree_ray.federation.handout import check_handout, signed_handout, without_statement
from hyfree_ray.federation.interface import ReplaySet
from hyfree_ray.federation.trust import HANDOUT_FILE, HANDOUT_SIGNATURE_FILE
from hyfree_ray.federation.workspace import Workspace
from tests.refusals import refuses

HERE = Addressee(pool="Basel", federation="lungs")
EXPERIMENT = key_of("t" * 32, "r" * 32, HERE)


def model(content: bytes = b"weights", **changes: object) -> Parcel:
    files = {"model/weights.safetensors": content, "model/plans.json": b"{}"}
    parcel = Parcel(sender=POOL, stage="train_general", key="a" * 64, files=files, result={"l": 1})
    return dataclasses.replace(parcel, **changes)  # type: ignore[arg-type]


def release(site: str) -> Parcel:
    files = {"release.arrow": site.encode(), "manifest.json": b"{}"}
    return Parcel(sender=POOL, stage="release", key="b" * 64, files=files, result={})


SHARED = ReplaySet(sites=("A", "B"), parcels=(release("A"), release("B")))


def handed_out(root: Path, general: Parcel, addressee: Addressee = HERE) -> tuple[Parcel, bytes]:
    workspace = Workspace(root / "pool", POOL, {})
    handed = signed_handout(workspace, general, SHARED, EXPERIMENT, addressee)
    return handed, workspace.public_key()


def test_a_model_that_arrives_as_it_left_is_the_one_that_was_signed(tmp_path: Path) -> None:
    handed, key = handed_out(tmp_path, model())
    found = check_handout(handed, tmp_path, key, EXPERIMENT, HERE)
    listed = {site: {"key": "b" * 64, "sha256": release(site).sha256} for site in "AB"}
    found.check_releases(tmp_path, listed)
    assert without_statement(handed) == model()


@pytest.mark.parametrize(
    "changed",
    [
        model(b"another's"),
        model(key="c" * 64),
        model(result={"l": 2}),
        model(files={"model/plans.json": b"{}"}),
        model(files={**model().files, "model/more.json": b"{}"}),
    ],
)
def test_a_model_that_was_exchanged_under_the_pools_statement_is_refused(
    tmp_path: Path, changed: Parcel
) -> None:
    """Case 114: weights, names of files, the key and what came with it."""
    handed, key = handed_out(tmp_path, model())
    extra = {name: c for name, c in handed.files.items() if name not in model().files}
    exchanged = dataclasses.replace(changed, files={**changed.files, **extra})
    with refuses("model.signature"):
        check_handout(exchanged, tmp_path, key, EXPERIMENT, HERE)


@pytest.mark.parametrize("missing", [HANDOUT_FILE, HANDOUT_SIGNATURE_FILE])
def test_a_model_without_the_pools_statement_is_refused(tmp_path: Path, missing: str) -> None:
    """Case 114: to leave the signature out is no way around it."""
    handed, key = handed_out(tmp_path, model())
    files = {name: content for name, content in handed.files.items() if name != missing}
    with refuses("model.signature"):
        unsigned = dataclasses.replace(handed, files=files)
        check_handout(unsigned, tmp_path, key, EXPERIMENT, HERE)


def test_a_model_that_a_stranger_signed_with_a_key_beside_it_is_refused(tmp_path: Path) -> None:
    """Case 114: the key that lies beside a model says nothing."""
    _, key = handed_out(tmp_path, model())
    theirs, _ = handed_out(tmp_path / "stranger", model(b"another's"))
    with refuses("model.signature"):
        check_handout(theirs, tmp_path, key, EXPERIMENT, HERE)


@pytest.mark.parametrize(
    ("experiment", "addressee"),
    [
        (EXPERIMENT, Addressee(pool="Bern", federation="lungs")),
        (EXPERIMENT, Addressee(pool="Basel", federation="brains")),
        (key_of("u" * 32, "r" * 32, HERE), HERE),
    ],
)
def test_a_model_for_another_pool_federation_or_task_is_refused(
    tmp_path: Path, experiment: str, addressee: Addressee
) -> None:
    """Case 114: signed by the same pool, for somebody else."""
    handed, key = handed_out(tmp_path, model())
    with refuses("model.signature"):
        check_handout(handed, tmp_path, key, experiment, addressee)


def test_releases_other_than_those_that_the_pool_signed_are_refused(tmp_path: Path) -> None:
    """Case 114: one exchanged, one left out, one more."""
    handed, key = handed_out(tmp_path, model())
    found = check_handout(handed, tmp_path, key, EXPERIMENT, HERE)
    right = {site: {"key": "b" * 64, "sha256": release(site).sha256} for site in "AB"}
    for listed in (
        right | {"B": right["A"]},
        {"A": right["A"]},
        right | {"C": right["A"]},
    ):
        with refuses("model.signature"):
            found.check_releases(tmp_path, listed)
