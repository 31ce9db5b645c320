"""`hyfree-ray predict` and `hyfree-ray export-model`: the general and fine-tuned models in use."""

from __future__ import annotations

from pathlib import Path

import click

from hyfree_ray.commands.options import DEVICE, EXIT_CODES, SEGMENTER
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import try_to_write, writing_to
from hyfree_ray.core.folders import check_free

_MODEL = click.option(
    "--model",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder written by 'pool train' or 'site personalise', or a finished training in a store.",
)


@click.command(epilog=EXIT_CODES)
@_MODEL
@click.option(
    "-i", "--images", type=click.Path(path_type=Path), required=True, help="Folder of images."
)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for the masks."
)
@SEGMENTER
@DEVICE
def predict(model: Path, images: Path, out: Path, segmenter: str | None, device: str) -> None:
    """Segment a folder of images (CASE_0000.ENDING, as nnU-Net names them).

    Run the same command again to resume after an interruption.

    \b
    Example:
      hyfree-ray predict --model model -i imagesTs -o labelsTs
    """
    from hyfree_ray.config.device import find_device
    from hyfree_ray.segmenters import NNUNET
    from hyfree_ray.segmenters.nnunet.ensemble import members_of
    from hyfree_ray.segmenters.nnunet.folders import predict_folder
    from hyfree_ray.segmenters.nnunet.trial import try_model

    folder = _model_in(model)
    for member in members_of(folder):
        try_model(member, segmenter or NNUNET)
    with writing_to(out):
        try_to_write(out)
    where = find_device() if device == "auto" else device
    count = predict_folder(
        folder, images, out, segmenter=segmenter or NNUNET, device=where, report=click.echo
    )
    click.echo(f"{count} cases segmented into {out}")


@click.command(epilog=EXIT_CODES)
@_MODEL
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder, new or empty."
)
@click.option(
    "--ending",
    show_default="as trained",
    help="File ending of the images to segment, e.g. .nii.gz.",
)
@SEGMENTER
def export_model(model: Path, out: Path, ending: str | None, segmenter: str | None) -> None:
    """Export a model as an nnU-Net results folder, for nnU-Net's own predictor.

    Of another --segmenter than nnU-Net's own, that predictor needs this package beside it.

    An ensemble becomes a folder for each member: predict from each with --save_probabilities, then
    average with nnUNetv2_ensemble.

    \b
    Example:
      hyfree-ray export-model --model general -o Dataset901_General --ending .nii.gz
      nnUNetv2_predict_from_modelfolder -m Dataset901_General/nnUNetTrainer__nnUNetPlans__2d
        -i imagesTs -o labelsTs -f 0
    """
    from hyfree_ray.segmenters import NNUNET
    from hyfree_ray.segmenters.nnunet.ensemble import members_of
    from hyfree_ray.segmenters.nnunet.folders import write_results_folder
    from hyfree_ray.segmenters.nnunet.trial import try_model

    folder = _model_in(model)
    check_free(out)
    members = members_of(folder)
    for member in members:
        try_model(member, segmenter or NNUNET)
    for position, member in enumerate(members):
        part = out if len(members) == 1 else out / f"member-{position}"
        with writing_to(out):
            results = write_results_folder(
                member, part, ending=ending, segmenter=segmenter or NNUNET
            )
        click.echo(f"nnU-Net results folder: {results}")


def _model_in(folder: Path) -> Path:
    """The four files, or an ensemble, which lie in `model/` of whatever holds a model."""
    for found in (folder / "model", folder):
        if (found / "weights.safetensors").is_file() and (found / "plans.json").is_file():
            return found
        if (found / "ensemble.json").is_file():
            return found
    raise HyfreeError(
        "model.not-found",
        f"{folder}: holds no model; name a folder written by 'pool train' or 'site personalise'",
    )
