"""Checks of another party's plan before nnU-Net acts on it.

nnU-Net looks up classes by the names in a plan, imports what the plan says must be imported, and
allocates what it claims. So a plan from elsewhere has the fields that nnU-Net's own 2D plans have
and no other, with the names that stand there, and with sizes whose sum can be allocated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hyfree_ray.core.errors import HyfreeError

NETWORKS = ("dynamic_network_architectures.architectures.unet.PlainConvUNet",)

MAX_PLAN_BYTES = 1 << 20

_MAX_PATCH_PIXELS = 1 << 24
"""Of a batch."""
_MAX_PARAMETERS = 1 << 27
"""Of a network; nnU-Net's own 2D plans stay below 5e7."""
_MAX_ACTIVATIONS = 1 << 30
"""Numbers in all layers for one patch."""
_MAX_SLICE_PIXELS = 1 << 26
_MAX_VOXELS = 1 << 28
_MAX_GROWTH, _ALWAYS_FINE = 64, 1 << 20
"""By which a slice's pixels may grow in resampling, beyond this many."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Millimetres = Annotated[float, Field(ge=1e-4, le=1e3)]
Pixels = Annotated[int, Field(ge=1, le=1 << 14)]
Features = Annotated[int, Field(ge=1, le=2048)]
Convolutions = Annotated[int, Field(ge=1, le=8)]
Kernel = Annotated[list[Annotated[int, Field(ge=1, le=7)]], Field(min_length=2, max_length=2)]
Stride = Annotated[list[Annotated[int, Field(ge=1, le=4)]], Field(min_length=2, max_length=2)]
Resampler = Literal["resample_data_or_seg_to_shape"]
Normalisation = Literal[
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
]


def _identifier(name: str) -> str:
    if not name.isidentifier() or len(name) > 100:
        raise ValueError("not a name")
    return name


Identifier = Annotated[str, AfterValidator(_identifier)]
"""Readers choose their own image reader; still, this must be a name, not a path."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Resampling(_Strict):
    is_seg: bool
    order: Annotated[int, Field(ge=0, le=5)]
    order_z: Annotated[int, Field(ge=0, le=5)]
    force_separate_z: bool | None


class _Norm(_Strict):
    eps: Annotated[float, Field(gt=0, le=1)]
    affine: bool


class _Nonlinearity(_Strict):
    inplace: bool


class _Network(_Strict):
    """Arguments of the network, one entry a stage."""

    n_stages: Annotated[int, Field(ge=1, le=12)]
    features_per_stage: list[Features]
    conv_op: Literal["torch.nn.modules.conv.Conv2d"]
    kernel_sizes: list[Kernel]
    strides: list[Stride]
    n_conv_per_stage: list[Convolutions]
    n_conv_per_stage_decoder: list[Convolutions]
    conv_bias: bool
    norm_op: Literal["torch.nn.modules.instancenorm.InstanceNorm2d"]
    norm_op_kwargs: _Norm
    dropout_op: None
    dropout_op_kwargs: None
    nonlin: Literal["torch.nn.LeakyReLU"]
    nonlin_kwargs: _Nonlinearity

    @model_validator(mode="after")
    def _one_entry_a_stage(self) -> _Network:
        lists = (self.features_per_stage, self.kernel_sizes, self.strides, self.n_conv_per_stage)
        lengths = {*(len(one) for one in lists), len(self.n_conv_per_stage_decoder) + 1}
        if lengths != {self.n_stages}:
            raise ValueError("not one entry a stage")
        return self

    def parameters(self) -> int:
        """Count the weights of the convolutions, input and output layers left out."""
        features, count = self.features_per_stage, 0
        for stage, (width, kernel) in enumerate(zip(features, self.kernel_sizes, strict=True)):
            before = features[max(stage - 1, 0)]
            inner = width * width * prod(kernel)
            count += before * width * prod(kernel) + (self.n_conv_per_stage[stage] - 1) * inner
            if stage < self.n_stages - 1:  # the decoder's first convolution also reads the skip
                count += (self.n_conv_per_stage_decoder[stage] + 1) * inner
                count += features[stage + 1] * width * prod(self.strides[stage + 1])
        return count

    def activations(self, patch: Sequence[int]) -> int:
        """Count the numbers in all layers for a patch: of each convolution, its norm and skip."""
        pixels, count = prod(patch), 0
        for stage, width in enumerate(self.features_per_stage):
            pixels = max(pixels // prod(self.strides[stage]), 1)
            layers = self.n_conv_per_stage[stage]
            if stage < self.n_stages - 1:
                layers += self.n_conv_per_stage_decoder[stage] + 2
            count += 2 * layers * width * pixels
        return count


class _Architecture(_Strict):
    network_class_name: Literal[NETWORKS]  # type: ignore[valid-type]
    arch_kwargs: _Network
    imported: Annotated[
        list[Literal["conv_op", "norm_op", "dropout_op", "nonlin"]],
        Field(alias="_kw_requires_import", min_length=4, max_length=4),
    ]


class _Configuration(_Strict):
    """Nothing is inherited: what a configuration does not say itself is missing."""

    data_identifier: Identifier
    preprocessor_name: Literal["DefaultPreprocessor"]
    batch_size: Annotated[int, Field(ge=1, le=1 << 16)]
    patch_size: Annotated[list[Pixels], Field(min_length=2, max_length=2)]
    median_image_size_in_voxels: Annotated[list[Finite], Field(min_length=2, max_length=2)]
    spacing: Annotated[list[Millimetres], Field(min_length=2, max_length=2)]
    normalization_schemes: Annotated[list[Normalisation], Field(min_length=1, max_length=64)]
    use_mask_for_norm: Annotated[list[bool], Field(min_length=1, max_length=64)]
    resampling_fn_data: Resampler
    resampling_fn_seg: Resampler
    resampling_fn_data_kwargs: _Resampling
    resampling_fn_seg_kwargs: _Resampling
    resampling_fn_probabilities: Resampler
    resampling_fn_probabilities_kwargs: _Resampling
    architecture: _Architecture
    batch_dice: bool

    @model_validator(mode="after")
    def _can_be_allocated(self) -> _Configuration:
        network = self.architecture.arch_kwargs
        if prod(self.patch_size) * self.batch_size > _MAX_PATCH_PIXELS:
            raise ValueError("the batch is too large")
        if network.parameters() > _MAX_PARAMETERS:
            raise ValueError("the network has too many weights")
        if network.activations(self.patch_size) > _MAX_ACTIVATIONS:
            raise ValueError("the network's layers are too large")
        return self


class _Configurations(_Strict):
    """Of volumes nnU-Net plans 3D networks, too, which nothing here ever reads: see `only_2d`."""

    two_d: Annotated[_Configuration, Field(alias="2d")]
    full: Annotated[Any, Field(alias="3d_fullres")] = None
    low: Annotated[Any, Field(alias="3d_lowres")] = None
    cascade: Annotated[Any, Field(alias="3d_cascade_fullres")] = None


class _Intensities(_Strict):
    mean: Finite
    median: Finite
    std: Annotated[Finite, Field(ge=0)]
    min: Finite
    max: Finite
    percentile_99_5: Finite
    percentile_00_5: Finite


Triple = Annotated[list[Finite], Field(min_length=3, max_length=3)]
Channel = Annotated[str, Field(pattern="^[0-9]{1,2}$")]


class _Plan(_Strict):
    dataset_name: Identifier
    plans_name: Identifier
    original_median_spacing_after_transp: Triple
    original_median_shape_after_transp: Triple
    image_reader_writer: Identifier
    transpose_forward: list[int]
    transpose_backward: list[int]
    configurations: _Configurations
    experiment_planner_used: Identifier
    label_manager: Literal["LabelManager"]
    foreground_intensity_properties_per_channel: Annotated[
        dict[Channel, _Intensities], Field(min_length=1, max_length=64)
    ]
    made_on_slices: bool = False

    @model_validator(mode="after")
    def _axes_in_order(self) -> _Plan:
        forward = self.transpose_forward
        if forward not in ([0, 1, 2], [1, 0, 2], [2, 0, 1]) or self.transpose_backward != [
            forward.index(axis) for axis in range(3)
        ]:
            raise ValueError("axes that nnU-Net does not permute so")
        return self


def check_plan(plans: Mapping[str, Any]) -> None:
    """Refuse a plan that names or claims what nnU-Net's own 2D plans do not.

    Args:
        plans: a parsed `plans.json`.

    Raises:
        HyfreeError: the first thing that is wrong with it.
    """
    try:
        _Plan.model_validate(plans)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ascii(".".join(str(part)[:40] for part in first["loc"]))
        value = first["input"] if isinstance(first["input"], (str, int, float)) else "..."
        raise HyfreeError(
            "model.plan-refused",
            f"the model's plan is not one of nnU-Net's 2D plans, or too large ({where} is "
            f"{str(value)[:40]!a}: {first['msg'][:100].lower()}); ask its owner to export it "
            "again",
        ) from error


def check_network(weights: int, activations: int) -> None:
    """Refuse a plan of which another architecture than nnU-Net's own would be too large.

    Args:
        weights: of the network.
        activations: numbers in all its layers for one patch.

    Raises:
        HyfreeError: more than a network of nnU-Net's own may have.
    """
    if weights > _MAX_PARAMETERS or activations > _MAX_ACTIVATIONS:
        raise HyfreeError(
            "model.plan-refused",
            f"the model's plan makes a network of {weights:.2g} weights, with {activations:.2g} "
            f"numbers in its layers for a patch, where {_MAX_PARAMETERS:.2g} and "
            f"{_MAX_ACTIVATIONS:.2g} are allowed; ask its owner to export it again",
        )


def only_2d(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan that was checked with what was checked of it: the 2D configuration alone."""
    return {**plans, "configurations": {"2d": plans["configurations"]["2d"]}}


def check_resampled(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float], slice_axis: int
) -> None:
    """Refuse a plan's spacing that would make a huge array of an image.

    Args:
        shape: of the image, (z, h, w) as stored, in voxels.
        spacing: of the image, as its shape, mm.
        target: the plan's, (height, width) of its slices, mm.
        slice_axis: of the image, along which it is cut.

    Raises:
        HyfreeError: the resampled image has too many pixels, in all or for so small an image.
    """
    in_plane = [axis for axis in range(3) if axis != slice_axis]
    grown = 1.0
    for axis, millimetres in zip(in_plane, target, strict=True):
        grown *= max(shape[axis] * spacing[axis] / millimetres, 1.0)
    own = prod(shape[axis] for axis in in_plane)
    allowed = min(max(_MAX_GROWTH * own, _ALWAYS_FINE), _MAX_SLICE_PIXELS)
    # Written so that NaN fails too.
    if not (grown <= allowed and grown * shape[slice_axis] <= max(_MAX_VOXELS, prod(shape))):
        raise HyfreeError(
            "model.too-fine",
            f"the model's plan would resample an image of {' x '.join(map(str, shape))} voxels "
            f"to {grown:.3g} pixels a slice ({target[0]:g} x {target[1]:g} mm each); "
            "check the image's spacing, or ask the model's owner",
        )
