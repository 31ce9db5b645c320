"""A plan from another party names what nnU-Net names, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from hyfree_ray.border.foreign_plan import check_plan, check_resampled, only_2d
from tests.plans import PLANS, changed
from tests.refusals import refuses

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
        ("configurations/2d/batch_size", float("nan")),
        ("configurations/2d/spacing", [1e-9, 1e-9]),
        ("configurations/2d/spacing", [float("nan"), 1.0]),
        ("configurations/2d/resampling_fn_data_kwargs/order", 10**9),
        (f"{NETWORK}/arch_kwargs/n_conv_per_stage", [10**7, 2]),
        (f"{NETWORK}/arch_kwargs/n_conv_per_stage_decoder", [10**7]),
        (f"{NETWORK}/arch_kwargs/n_conv_per_stage_decoder", []),
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


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("configurations/x", {"inherits_from": "x"}),
        ("configurations/2d/inherits_from", "2d"),
        (f"{NETWORK}/arch_kwargs/norm_op_kwargs", {"eps": 1e-5, "affine": True, "device": "meta"}),
        (f"{NETWORK}/arch_kwargs/nonlin_kwargs", {"inplace": True, "negative_slope": "x"}),
        (f"{NETWORK}/arch_kwargs/dropout_op", "torch.nn.modules.dropout.Dropout2d"),
        (f"{NETWORK}/arch_kwargs/nonlin_first", True),
        (f"{NETWORK}/_kw_requires_import", []),
        ("transpose_forward", [2, 2, 2]),
        ("transpose_forward", [0, 2, 1]),
        ("anything", "else"),
    ],
)
def test_a_plan_with_what_nnunets_own_does_not_have_is_refused(path: str, value: Any) -> None:
    """Case 102: nothing is inherited, and no argument is nnU-Net's to interpret."""
    with refuses("model.plan-refused"):
        check_plan(changed(path, value))


def test_3d_networks_of_volumes_are_allowed_and_never_read() -> None:
    """Case 102: nothing is looked up in them, so they may claim what they like."""
    plans = changed("configurations/3d_fullres", {"inherits_from": "3d_fullres"})
    check_plan(plans)
    assert only_2d(plans) == PLANS


def test_sizes_that_are_allowed_each_are_refused_where_their_product_is_not() -> None:
    """Case 102: 2,048 features by 7x7 kernels in twelve stages, and layers of a large patch."""
    network = {
        **PLANS["configurations"]["2d"]["architecture"]["arch_kwargs"],
        "n_stages": 12,
        "features_per_stage": [2048] * 12,
        "kernel_sizes": [[7, 7]] * 12,
        "strides": [[1, 1]] * 12,
        "n_conv_per_stage": [8] * 12,
        "n_conv_per_stage_decoder": [8] * 11,
    }
    with refuses("model.plan-refused", "too many weights"):
        check_plan(changed(f"{NETWORK}/arch_kwargs", network))
    thin = {**network, "features_per_stage": [32] * 12, "kernel_sizes": [[3, 3]] * 12}
    plans = changed(f"{NETWORK}/arch_kwargs", thin)
    check_plan(plans)
    plans["configurations"]["2d"] |= {"patch_size": [2048, 2048], "batch_size": 1}
    with refuses("model.plan-refused", "layers are too large"):
        check_plan(plans)


def test_nnunets_largest_own_plans_pass() -> None:
    """Eight stages of up to 512 features, on patches of 1024 x 1024 pixels."""
    network = {
        **PLANS["configurations"]["2d"]["architecture"]["arch_kwargs"],
        "n_stages": 8,
        "features_per_stage": [32, 64, 128, 256, 512, 512, 512, 512],
        "kernel_sizes": [[3, 3]] * 8,
        "strides": [[1, 1]] + [[2, 2]] * 7,
        "n_conv_per_stage": [2] * 8,
        "n_conv_per_stage_decoder": [2] * 7,
    }
    plans = changed(f"{NETWORK}/arch_kwargs", network)
    plans["configurations"]["2d"] |= {"patch_size": [1024, 1024], "batch_size": 3}
    check_plan(plans)


def test_a_spacing_that_makes_a_huge_array_of_an_image_is_refused() -> None:
    """Case 102: .001 mm made 15 GiB of 64 x 64 pixels; what hospitals differ by passes."""
    for target in ((1e-3, 1e-3), (0.05, 0.05), (1e-4, 1.0)):
        with refuses("model.too-fine"):
            check_resampled((1, 64, 64), (999.0, 1.0, 1.0), target, 0)
    with refuses("model.too-fine"):
        check_resampled((600, 512, 512), (1.0, 0.7, 0.7), (0.1, 0.1), 0)
    with refuses("model.too-fine"):
        check_resampled((64, 1, 64), (1.0, 999.0, float("nan")), (1.0, 1.0), 1)
    check_resampled((120, 512, 512), (3.0, 0.7, 0.7), (0.35, 0.35), 0)
    check_resampled((1, 3000, 2000), (999.0, 0.1, 0.1), (0.5, 0.5), 0)
    check_resampled((512, 20, 512), (0.7, 5.0, 0.7), (0.7, 0.7), 1)


@pytest.mark.parametrize("plans", [{}, {"configurations": []}, {"configurations": {"2d": 3}}])
def test_what_is_no_plan_is_refused(plans: dict[str, Any]) -> None:
    with refuses("model.plan-refused"):
        check_plan(plans)
