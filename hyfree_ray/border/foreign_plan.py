"""Checks of another party's plan before nnU-Net acts on it.

nnU-Net looks up classes by the names in a plan, imports what the plan says must be imported, and
allocates what it claims. So a plan from elsewhere may only name what nnU-Net itself writes, and
only sizes that a 2D network can have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyfree_ray.core.errors import HyfreeError

NETWORKS = ("dynamic_network_architectures.architectures.unet.PlainConvUNet",)

_OPERATIONS = {
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.instancenorm.InstanceNorm2d",
    "torch.nn.LeakyReLU",
    None,
}
_NAMES = {
    "preprocessor_name": {"DefaultPreprocessor"},
    "resampling_fn_data": {"resample_data_or_seg_to_shape"},
    "resampling_fn_seg": {"resample_data_or_seg_to_shape"},
    "resampling_fn_probabilities": {"resample_data_or_seg_to_shape"},
}
_NORMALISATIONS = {
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
}
_MAX_PIXELS = 1 << 24
_MAX_SIZES = {"n_stages": 12, "features_per_stage": 4096, "kernel_sizes": 16, "strides": 16}
"""Numbers in the network's description: each from 1 to this."""


def check_plan(plans: Mapping[str, Any]) -> None:
    """Refuse a plan that names or claims what nnU-Net's own 2D plans do not.

    Args:
        plans: a parsed `plans.json`.

    Raises:
        HyfreeError: what is wrong with it.
    """
    try:
        configuration = plans["configurations"]["2d"]
        _check_network(configuration["architecture"])
        _check_names(plans, configuration)
        _check_sizes(configuration)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HyfreeError(
            "model.plan-refused",
            f"the model's plan is not an nnU-Net plan ({type(error).__name__}); ask its owner to "
            "export it again",
        ) from error


def _check_network(architecture: Mapping[str, Any]) -> None:
    name = architecture["network_class_name"]
    if name not in NETWORKS:
        raise HyfreeError(
            "model.plan-refused",
            f"the model's plan asks for the network {name!a}; only nnU-Net's own are allowed",
        )
    for key in architecture["_kw_requires_import"]:
        operation = architecture["arch_kwargs"][key]
        if operation not in _OPERATIONS:
            raise HyfreeError(
                "model.plan-refused",
                f"the model's plan asks for the operation {operation!a}, which is not allowed",
            )


def _check_names(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> None:
    for key, known in _NAMES.items():
        if configuration[key] not in known:
            raise HyfreeError(
                "model.plan-refused",
                f"the model's plan sets {key} to {configuration[key]!a}, which is not allowed",
            )
    strange = set(configuration["normalization_schemes"]) - _NORMALISATIONS
    if strange or plans["label_manager"] != "LabelManager":
        raise HyfreeError(
            "model.plan-refused",
            "the model's plan defines its own normalisation or labels, which is not allowed",
        )
    # Readers choose their own image reader; still, this must be a name, not a path.
    for key in ("image_reader_writer", "plans_name", "dataset_name"):
        if not str(plans[key]).isidentifier():
            raise HyfreeError(
                "model.plan-refused",
                f"the model's plan sets {key} to {str(plans[key])[:40]!a}, which is not allowed",
            )
    if not str(configuration["data_identifier"]).isidentifier():
        raise HyfreeError(
            "model.plan-refused", "the model's plan has a data_identifier that is no folder name"
        )


def _check_sizes(configuration: Mapping[str, Any]) -> None:
    height, width = configuration["patch_size"]
    batch = configuration["batch_size"]
    whole = all(type(number) is int and number > 0 for number in (height, width, batch))
    if not whole or height * width * batch > _MAX_PIXELS:
        raise HyfreeError(
            "model.plan-refused",
            f"the model's plan asks for batches of {str(batch)[:20]} patches of "
            f"{str(height)[:20]}x{str(width)[:20]} pixels, which is not allowed",
        )
    described = configuration["architecture"]["arch_kwargs"]
    for key, maximum in _MAX_SIZES.items():
        for number in _numbers(described[key]):
            if type(number) is not int or not 1 <= number <= maximum:
                raise HyfreeError(
                    "model.plan-refused",
                    f"the model's plan sets {key} to {str(number)[:20]}, which is not allowed",
                )


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [number for inner in value[:1000] for number in _numbers(inner)]
    return [value]
