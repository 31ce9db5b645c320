"""A plan of nnU-Net's for tests, of a small network on images that are not square."""

from __future__ import annotations

import copy
from typing import Any

from hyfree_ray.border.foreign_plan import NETWORKS

_RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
ARCHITECTURE: dict[str, Any] = {
    "network_class_name": NETWORKS[0],
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3], [3, 3]],
        "strides": [[1, 1], [2, 1]],
        "n_conv_per_stage": [2, 2],
        "n_conv_per_stage_decoder": [2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
CONFIGURATION: dict[str, Any] = {
    "data_identifier": "nnUNetPlans_2d",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 4,
    "patch_size": [48, 32],
    "median_image_size_in_voxels": [48.0, 32.0],
    "spacing": [1.0, 1.25],
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": _RESAMPLING,
    "resampling_fn_seg_kwargs": {**_RESAMPLING, "is_seg": True, "order": 1},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {**_RESAMPLING, "order": 1},
    "architecture": ARCHITECTURE,
    "batch_dice": True,
}
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset001_Party",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [999.0, 1.0, 1.25],
    "original_median_shape_after_transp": [1, 48, 32],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {"2d": CONFIGURATION},
    "experiment_planner_used": "CappedPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        "0": {
            "mean": 1.0,
            "median": 1.0,
            "std": 0.5,
            "min": 0.0,
            "max": 2.0,
            "percentile_99_5": 2.0,
            "percentile_00_5": 0.0,
        }
    },
    "made_on_slices": True,
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the plan with one thing replaced, named by its path."""
    plans = copy.deepcopy(PLANS)
    target: Any = plans
    *parents, last = path.split("/")
    for part in parents:
        target = target[part]
    target[last] = value
    return plans
