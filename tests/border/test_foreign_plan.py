"""A plan from another party names what nnU-Net names, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hyfree_ray.border.foreign_plan import NETWORKS, check_plan
from tests.refusals import refuses

ARCHITECTURE: dict[str, Any] = {
    "network_class_name": NETWORKS[0],
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "kernel_sizes": [[3, 3], [3, 3]],
        "strides": [[1, 1], [2, 1]],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "dropout_op": None,
        "nonlin": "torch.nn.LeakyReLU",
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
CONFIGURATION: dict[str, Any] = {
    "data_identifier": "nnUNetPlans_2d",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 4,
    "patch_size": [48, 32],
    "normalization_schemes": ["ZScoreNormalization"],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "architecture": ARCHITECTURE,
}
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset001_Party",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "label_manager": "LabelManager",
    "configurations": {"2d": CONFIGURATION},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    plans = copy.deepcopy(PLANS)
    target: Any = plans
    *parents, last = path.split("/")
    for part in parents:
        target = target[part]
    target[last] = value
    return plans


NETWORK = "configurations/2d/architecture"


def test_nnunets_own_plan_passes() -> None:
    check_plan(PLANS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{NETWORK}/network_class_name", "os.system"),
        (f"{NETWORK}/network_class_name", "dynamic_network_architectures.evil.Net"),
        (f"{NETWORK}/arch_kwargs/conv_op", "os.system"),
        (f"{NETWORK}/arch_kwargs/nonlin", "builtins.eval"),
        (f"{NETWORK}/_kw_requires_import", ["n_stages"]),
        ("configurations/2d/preprocessor_name", "../../evil"),
        ("configurations/2d/resampling_fn_data", "rm"),
        ("configurations/2d/normalization_schemes", ["/tmp/evil.py"]),
        ("configurations/2d/data_identifier", "../../../etc"),
        ("image_reader_writer", "/tmp/evil.py"),
        ("label_manager", "evil.Labels"),
    ],
)
def test_a_plan_that_names_code_or_a_path_is_refused(path: str, value: Any) -> None:
    """Case 73."""
    with refuses("model.plan-refused"):
        check_plan(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("configurations/2d/patch_size", [10**9, 32]),
        ("configurations/2d/patch_size", [-48, -32]),
        ("configurations/2d/patch_size", [48, 32.5]),
        ("configurations/2d/patch_size", [48, 32, 16]),
        ("configurations/2d/batch_size", 10**9),
        ("configurations/2d/batch_size", True),
        (f"{NETWORK}/arch_kwargs/n_stages", 10**6),
        (f"{NETWORK}/arch_kwargs/features_per_stage", [4, 10**9]),
        (f"{NETWORK}/arch_kwargs/strides", [[0, 1], [2, 2]]),
        (f"{NETWORK}/arch_kwargs/kernel_sizes", [[3, 3], [3, "3"]]),
    ],
)
def test_a_plan_of_impossible_sizes_is_refused(path: str, value: Any) -> None:
    """Case 74: before anything of that size is allocated."""
    with refuses("model.plan-refused"):
        check_plan(changed(path, value))


@pytest.mark.parametrize("plans", [{}, {"configurations": []}, {"configurations": {"2d": 3}}])
def test_what_is_no_plan_is_refused(plans: dict[str, Any]) -> None:
    with refuses("model.plan-refused"):
        check_plan(plans)
