"""Models and images as nnU-Net's users keep them: results folders in, folders of images out.

Shapes: C channels, Z slices, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending

from hyfree_ray.border.foreign_plan import only_2d
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import replacing
from hyfree_ray.segmenters.nnunet.ensemble import load_model, members_of
from hyfree_ray.segmenters.nnunet.inputs import cases_to_predict
from hyfree_ray.segmenters.nnunet.model import Model, read_dataset

RESULTS_FOLDER = "nnUNetTrainer__nnUNetPlans__2d"
"""What nnU-Net calls the folder of a trained 2d configuration."""


def predict_folder(
    model: Path,
    images: Path,
    out: Path,
    *,
    segmenter: str,
    device: str,
    report: Callable[[str], None],
) -> int:
    """Segment every case of a folder, each on its own grid, into a file of the images' format.

    Args:
        model: a folder with a model's four files, or an ensemble of such.
        images: holds `CASE_0000.ENDING`, one file a channel, as nnU-Net names them.
        out: gets `CASE.ENDING`; what is there already is left as it is.
        segmenter: the architecture that the model has to be of.
        report: called with a line for each case.

    Returns:
        How many cases were segmented now.

    Raises:
        HyfreeError: no images, a file that cannot be read, or a case with other channels than the
            model's; before a network is built.
    """
    ending, cases = cases_to_predict(images, read_dataset(members_of(model)[0]))
    network = load_model(model, device, segmenter)
    reader = determine_reader_writer_from_file_ending(ending, verbose=False)()
    out.mkdir(parents=True, exist_ok=True)
    missing = {c: f for c, f in cases.items() if not (out / f"{c}{ending}").exists()}
    for number, (case, files) in enumerate(missing.items(), start=1):
        image_CZHW, properties = reader.read_images([str(file) for file in sorted(files)])
        label_ZHW = network.segment(image_CZHW, properties["spacing"])
        # The ending comes last, for it is what writers choose the format by.
        half = out / f".{case}{ending}"
        reader.write_seg(label_ZHW, str(half), properties)
        half.replace(out / f"{case}{ending}")
        report(f"{case} ({number} of {len(missing)})")
    return len(missing)


def write_results_folder(
    model: Path, out: Path, *, ending: str | None, segmenter: str | None
) -> Path:
    """Write a model as nnU-Net's results folder, for `nnUNetv2_predict_from_modelfolder`.

    Its plan names the network's class. What is not nnU-Net's own is found where this package is
    installed, with the extra that the architecture asks for.

    Args:
        model: a folder with a model's four files.
        out: gets a folder `RESULTS_FOLDER` with plans, dataset and `fold_0/checkpoint_final.pth`.
        ending: of the images that it is to be used on; None: as it was trained.
        segmenter: as of `Model`.

    Returns:
        The results folder.

    Raises:
        HyfreeError: as `Model`, or an architecture that nnU-Net's tools cannot build.
    """
    network = Model(model, "cpu", segmenter)  # everything is checked here
    plans = only_2d(json.loads((model / "plans.json").read_text()))
    described = network.segmenter.described(plans, network.plan.channels)
    if described is None:
        raise HyfreeError(
            "model.no-export",
            f"nnU-Net's own tools cannot build the architecture {network.segmenter.name!r}; use "
            "'hyfree-ray predict'",
        )
    configuration = {**plans["configurations"]["2d"], "architecture": dict(described)}
    plans["configurations"] = {"2d": configuration}
    dataset_json = dict(network.dataset_json)
    if ending is not None:
        dataset_json["file_ending"] = ending
        reader = determine_reader_writer_from_file_ending(ending, verbose=False)
        plans["image_reader_writer"] = reader.__name__
    axes = json.loads((model / "model.json").read_text())["inference_allowed_mirroring_axes"]
    folder = out / RESULTS_FOLDER
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans, indent=4))
    (folder / "dataset.json").write_text(json.dumps(dataset_json, indent=4))
    checkpoint = {
        "network_weights": network.network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "2d", "fold": 0},
        "inference_allowed_mirroring_axes": None if axes is None else tuple(axes),
    }
    with replacing(folder / "fold_0" / "checkpoint_final.pth") as file:
        torch.save(checkpoint, file)
    return folder
