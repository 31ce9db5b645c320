"""A trained network on disk and in use: safetensors and JSON, never a pickle.

Shapes: N images, C channels, Z slices, H height, W width, F features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file

from hyfree_ray.border.foreign_plan import (
    MAX_PLAN_BYTES,
    check_plan,
    check_resampled,
    only_2d,
)
from hyfree_ray.cohorts.label_sets import read_labels
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.untrusted import UntrustedFileError, read_untrusted
from hyfree_ray.segmenters import NNUNET, SEGMENTERS
from hyfree_ray.segmenters.nnunet.data import MADE_ON_SLICES
from hyfree_ray.segmenters.unet_plan import UNetPlan

MODEL_FILES = ("weights.safetensors", "plans.json", "dataset.json", "model.json")
"""What a model is, in full, when it travels between parties."""


def save_network(
    folder: Path,
    network: torch.nn.Module,
    plans: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    details: Mapping[str, Any],
) -> None:
    """Write a model's four files into `folder` (the stage's own, published as a whole later).

    The same weights are the same bytes, whichever process writes them: a model that is made again
    is the one that others hold already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(each_once(network), str(folder / "weights.safetensors"))
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    (folder / "model.json").write_text(json.dumps(details))


def each_once(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return each weight under one of its names: nnU-Net registers most under several.

    `safetensors.torch.save_model` does the same, and notes the other names in an order that differs
    from process to process.
    """
    found: dict[tuple[int, torch.Size], tuple[str, torch.Tensor]] = {}
    for name, weight in sorted(network.state_dict().items()):
        found.setdefault((weight.data_ptr(), weight.shape), (name, weight.contiguous()))
    return dict(found.values())


def read_dataset(folder: Path) -> dict[str, Any]:
    """The channels and labels of a model.

    Raises:
        HyfreeError: they are not what nnU-Net takes.
    """
    dataset = _read_json(folder, "dataset.json")
    if not isinstance(dataset.get("channel_names"), dict):
        raise HyfreeError("model.plan-refused", "the model's dataset.json names no channels")
    return {**dataset, "labels": read_labels(dataset)}


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read one of the small files of a model, which may be another party's.

    Raises:
        HyfreeError: it is no JSON object, or too large or deep for one of ours.
    """
    try:
        text = read_untrusted(folder / name, most=MAX_PLAN_BYTES)
        found = json.loads(text, parse_constant=_refuse)
    except (UntrustedFileError, ValueError, RecursionError) as error:
        raise HyfreeError(
            "model.plan-refused",
            f"the model's {name} cannot be read ({str(error)[:80]}); ask its owner to export it "
            "again",
        ) from error
    if not isinstance(found, dict):
        raise HyfreeError("model.plan-refused", f"the model's {name} is no JSON object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number that JSON knows")


def _mirroring_of(details: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The axes along which images are mirrored when they are segmented."""
    axes = details.get("inference_allowed_mirroring_axes")
    if axes not in (None, [], [0], [1], [0, 1]):
        raise HyfreeError("model.plan-refused", "the model mirrors along axes that slices lack")
    return None if axes is None else tuple(axes)


def load_weights(network: torch.nn.Module, file: Path) -> None:
    """Load all weights, the segmentation head included, and refuse anything that does not fit.

    nnU-Net's own `load_pretrained_weights` leaves the head out; the method fine-tunes everything.

    Raises:
        HyfreeError: weights are missing, unknown, of another shape, or not finite.
    """
    try:
        load_model(network, str(file), strict=True)
    except (RuntimeError, SafetensorError) as error:
        first = " ".join(str(error).split())[:200]
        raise HyfreeError(
            "model.bad-weights",
            f"the model's weights do not fit its plan ({first}); ask its owner to export it again",
        ) from error
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise HyfreeError(
                "model.bad-weights",
                f"the model's weight {name} is not finite; its training diverged",
            )


def _segmenter_of(details: Mapping[str, Any], expected: str | None) -> str:
    """The architecture that a model's `model.json` names; before it did, nnU-Net's own."""
    name = str(details.get("segmenter", NNUNET))
    if expected is not None and name != expected:
        raise HyfreeError(
            "model.other-segmenter",
            f"the model is of the architecture {name!a}, not {expected!r}; name it with "
            "--segmenter, or use another model",
        )
    return name


class Model:
    """A trained nnU-Net that segments images and embeds them.

    Args:
        folder: a folder with `MODEL_FILES`.
        device: "cpu" or "cuda[:index]".
        segmenter: the architecture that it has to be of, where the folder is another party's. None:
            the one that it says, which is only asked of a party's own.

    Raises:
        HyfreeError: it is of another architecture, the plan names what nnU-Net's own do not, or
            weights do not fit.
    """

    def __init__(self, folder: Path, device: str, segmenter: str | None = None) -> None:
        self.dataset_json = read_dataset(folder)
        plans = _read_json(folder, "plans.json")
        details = _read_json(folder, "model.json")
        check_plan(plans)
        plans = only_2d(plans)
        self.plan = UNetPlan.from_plans(plans, channels=len(self.dataset_json["channel_names"]))
        self.device = torch.device(device)
        self._plans = PlansManager(plans)
        self._configuration = self._plans.get_configuration("2d")
        heads = self._plans.get_label_manager(self.dataset_json).num_segmentation_heads
        self.segmenter = SEGMENTERS[_segmenter_of(details, segmenter)]
        network = self.segmenter.network(plans, self.plan.channels, heads, deep_supervision=False)
        load_weights(network, folder / "weights.safetensors")
        self.network = network.to(self.device).eval()
        self._slice_by_slice = bool(plans.get(MADE_ON_SLICES, False))
        self._predictor = nnUNetPredictor(
            perform_everything_on_device=self.device.type == "cuda",
            device=self.device,
            verbose=False,
            verbose_preprocessing=False,
            allow_tqdm=False,
        )
        self._predictor.manual_initialization(
            self.network,
            self._plans,
            self._configuration,
            [network.state_dict()],
            self.dataset_json,
            "nnUNetTrainer",
            _mirroring_of(details),
        )

    def segment(self, image_CZHW: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Segment an image on its own grid: label_ZHW, uint8.

        Args:
            image_CZHW: physical intensities, float32.
            spacing: (z, h, w) in mm.

        Raises:
            HyfreeError: the plan would resample it to a huge one.
        """
        axis = self.plan.slice_axis
        check_resampled(image_CZHW.shape[1:], spacing, self.plan.spacing, axis)
        if not self._slice_by_slice or image_CZHW.shape[1 + axis] == 1:
            return self._segment(image_CZHW, spacing)
        # In a constant slice there is nothing to be seen, and nothing to be normalised by.
        return np.concatenate(
            [
                self._segment(one, spacing)
                if one.max() > one.min()
                else np.zeros(one.shape[1:], np.uint8)
                for one in np.split(image_CZHW, image_CZHW.shape[1 + axis], axis=1 + axis)
            ],
            axis=axis,
        )

    def probabilities(self, image_CZHW: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Compute what `segment` decides by: probabilities_OZHW on the image's own grid, float32.

        One output O a label (background included), which sum to 1, or one a region.
        """
        axis = self.plan.slice_axis
        check_resampled(image_CZHW.shape[1:], spacing, self.plan.spacing, axis)
        if not self._slice_by_slice or image_CZHW.shape[1 + axis] == 1:
            return self._probabilities(image_CZHW, spacing)
        return np.concatenate(
            [
                self._probabilities(one, spacing)
                if one.max() > one.min()
                else self._nothing(one.shape[1:])
                for one in np.split(image_CZHW, image_CZHW.shape[1 + axis], axis=1 + axis)
            ],
            axis=1 + axis,
        )

    def _probabilities(self, image_CZHW: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        _, probabilities_OZHW = self._predictor.predict_single_npy_array(
            image_CZHW.astype(np.float32),
            {"spacing": [float(s) for s in spacing]},
            save_or_return_probabilities=True,
        )
        return np.asarray(probabilities_OZHW, dtype=np.float32)

    def _nothing(self, shape: tuple[int, ...]) -> np.ndarray:
        manager = self._predictor.label_manager
        probabilities_OZHW = np.zeros((manager.num_segmentation_heads, *shape), np.float32)
        if not manager.has_regions:
            probabilities_OZHW[0] = 1
        return probabilities_OZHW

    def label_of(self, probabilities_OZHW: np.ndarray) -> np.ndarray:
        """Decide by probabilities: label_ZHW, uint8, with the values of this model's labels."""
        manager = self._predictor.label_manager
        decided = manager.convert_probabilities_to_segmentation(probabilities_OZHW)
        return np.asarray(decided, dtype=np.uint8)

    def _segment(self, image_CZHW: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        label_ZHW = self._predictor.predict_single_npy_array(
            image_CZHW.astype(np.float32), {"spacing": [float(s) for s in spacing]}
        )
        return np.asarray(label_ZHW, dtype=np.uint8)

    def segment_slice(self, image_CHW: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
        """Segment a slice on its own grid: label_HW, uint8. `spacing` is (h, w) in mm."""
        axis = self.plan.slice_axis
        label_ZHW = self.segment(*slice_volume(image_CHW, spacing, axis))
        return np.asarray(label_ZHW.take(0, axis=axis))

    @torch.inference_mode()
    def embed(self, images_NCHW: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """The network's features of each image, L2-normalised.

        Args:
            images_NCHW: physical intensities of the plan's patch size.

        Returns:
            features_NF, float32, each row of length 1.
        """
        schemes = [
            getattr(default_normalization_schemes, name)(
                use_mask_for_norm=False,
                intensityproperties=self._plans.foreground_intensity_properties_per_channel[str(c)],
            )
            for c, name in enumerate(self.plan.normalization_schemes)
        ]
        parts = []
        for start in range(0, len(images_NCHW), batch_size):
            batch_NCHW = images_NCHW[start : start + batch_size].astype(np.float32)
            for image_CHW in batch_NCHW:
                for channel, scheme in enumerate(schemes):
                    image_CHW[channel] = scheme.run(image_CHW[channel].copy())
            shown_NCHW = torch.from_numpy(batch_NCHW).to(self.device)
            features_NF = self.segmenter.features(self.network, shown_NCHW)
            parts.append(torch.nn.functional.normalize(features_NF, dim=1).cpu().numpy())
        return np.concatenate(parts)


def slice_volume(
    image_CHW: np.ndarray, spacing: tuple[float, float], axis: int
) -> tuple[np.ndarray, list[float]]:
    """Return a slice as a volume of a plan that cuts along `axis` would hold it, with its spacing.

    Args:
        image_CHW: the slice.
        spacing: (h, w) in mm.
        axis: of (z, h, w).
    """
    steps = list(slice_spacing(spacing))
    steps.insert(axis, steps.pop(0))
    return np.expand_dims(image_CHW, 1 + axis), steps


def slice_spacing(spacing: tuple[float, float]) -> tuple[float, float, float]:
    """(z, h, w) for a slice on its own: nnU-Net marks the missing axis by a huge spacing."""
    return (999.0 * max(spacing), *spacing)
