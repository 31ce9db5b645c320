"""UPerNet-Swin inside nnU-Net's pipeline."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from safetensors.torch import load_file

from hyfree_ray.border.foreign_plan import check_network, check_plan
from hyfree_ray.cli import main
from hyfree_ray.segmenters import NNUNET, SEGMENTERS
from hyfree_ray.segmenters.nnunet.folders import predict_folder, write_results_folder
from hyfree_ray.segmenters.nnunet.model import Model, save_network
from hyfree_ray.segmenters.nnunet.personal_federated import normalisation_weights
from hyfree_ray.segmenters.nnunet.reading import read_image
from hyfree_ray.segmenters.nnunet.train import train
from hyfree_ray.segmenters.nnunet.trial import try_model
from hyfree_ray.segmenters.swin.network import UPerNetSwin
from hyfree_ray.segmenters.swin.shape import SwinShape
from hyfree_ray.segmenters.unet_plan import UNetPlan
from tests.plans import PLANS, changed
from tests.refusals import refused, refuses
from tests.segmenters import test_nnunet
from tests.segmenters.test_nnunet import SHORT, cases_of, ignore

dataset_json = test_nnunet.dataset_json
prepared = test_nnunet.prepared

SWIN = SEGMENTERS["swin"]
NETWORK = "configurations/2d/architecture/arch_kwargs"
HALF = (2, 2)


def plan_of(
    features: int, patch: tuple[int, int], *strides: tuple[int, int], channels: int = 1
) -> UNetPlan:
    stages = len(strides) + 1
    return UNetPlan(
        patch_size=patch,
        spacing=(1.0, 1.0),
        strides=((1, 1), *strides),
        kernel_sizes=((3, 3),) * stages,
        features_per_stage=(features,) * stages,
        batch_size=2,
        channels=channels,
        normalization_schemes=("ZScoreNormalization",) * channels,
    )


def network_of(plan: UNetPlan, outputs: int = 3) -> UPerNetSwin:
    torch.manual_seed(0)
    shape = SwinShape.of(plan)
    return UPerNetSwin(plan.channels, outputs, **dataclasses.asdict(shape)).eval()


def test_full_size_is_akbars_swin_b() -> None:
    shape = SwinShape.of(plan_of(32, (256, 224), *[HALF] * 6))
    assert (shape.embedding, shape.depths) == (128, (2, 2, 18, 2))
    assert (shape.heads, shape.window) == ((4, 8, 16, 32), 7)
    assert (shape.hidden, shape.drop_path, shape.stride) == (512, 0.3, 32)


def test_the_counted_weights_are_those_of_the_network() -> None:
    """By hand, of full size with 3 channels and 4 outputs.

    Swin of width c: a block has 4 (c + 1) c of attention, 169 of its positions a head, 8 c^2 + 5 c
    of its MLP and 4 c of its norms; tokens 16 * 3 * 128 + 3 * 128; merging 8 c^2 + 8 c.
    """
    swin = 6528 + 2 * 1024 + 2 * (128 + 256 + 512 + 1024)  # tokens, last norm, output norms
    blocks = ((128, 4, 2), (256, 8, 2), (512, 16, 18), (1024, 32, 2))
    for c, heads, depth in blocks:
        swin += depth * (4 * (c + 1) * c + 169 * heads + 8 * c * c + 5 * c + 4 * c)
    swin += sum(8 * c * c + 8 * c for c in (128, 256, 512))
    head = 4 * (1024 + 2) * 512 + (9 * (1024 + 4 * 512) + 2) * 512
    head += sum((c + 2) * 512 + (9 * 512 + 2) * 512 for c in (128, 256, 512))
    head += (9 * 4 * 512 + 2) * 512 + 513 * 4
    plan = plan_of(32, (64, 32), *[HALF] * 5, channels=3)
    shape = SwinShape.of(plan)
    assert shape.window == 7
    assert swin + head == shape.parameters(3, 4) == 119_988_156
    with torch.device("meta"):
        network = UPerNetSwin(3, 4, **dataclasses.asdict(shape))
    assert sum(weight.numel() for weight in network.parameters()) == 119_988_156


@pytest.mark.parametrize(
    ("plan", "depths", "padded"),
    [
        (plan_of(16, (64, 48), *[HALF] * 4), (2, 2, 6), (64, 48)),
        (plan_of(4, (33, 20), HALF, HALF, (2, 1), channels=5), (2, 2), (40, 24)),
        (plan_of(4, (40, 6), (2, 1), (2, 1), channels=2), (2,), (40, 8)),
        (plan_of(13, (31, 70), HALF, HALF, (1, 2), (1, 2), (1, 2)), (2, 2, 6, 2), (32, 96)),
    ],
)
def test_any_size_any_strides_any_channels(
    plan: UNetPlan, depths: tuple[int, ...], padded: tuple[int, int]
) -> None:
    shape = SwinShape.of(plan)
    assert (shape.depths, shape.padded(plan.patch_size)) == (depths, padded)
    network = network_of(plan)
    count = sum(weight.numel() for weight in network.parameters())
    assert count == shape.parameters(plan.channels, 3)
    height, width = plan.patch_size
    images_NCHW = torch.randn(2, plan.channels, height, width)
    logits_NOHW = network(images_NCHW)
    assert logits_NOHW.shape == (2, 3, height, width)
    larger_NCHW = torch.zeros(2, plan.channels, *padded)
    larger_NCHW[:, :, :height, :width] = images_NCHW
    assert torch.equal(network(larger_NCHW)[:, :, :height, :width], logits_NOHW)
    assert network(torch.randn(1, plan.channels, 57, 11)).shape == (1, 3, 57, 11)


def test_one_image_cannot_be_trained_on_alone() -> None:
    network = network_of(plan_of(4, (32, 24), HALF, HALF)).train()
    with refuses("segmenter.batch-of-one"):
        network(torch.randn(1, 1, 32, 24))


def test_all_its_weights_but_the_unused_norm_are_trained() -> None:
    """Distributed training waits for the gradient of each weight that asks for one."""
    network = network_of(plan_of(4, (32, 24), HALF, HALF, HALF)).train()
    network(torch.randn(2, 1, 32, 24)).square().mean().backward()
    for name, weight in network.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name
    (frozen,) = {n.rpartition(".")[0] for n, w in network.named_parameters() if not w.requires_grad}
    assert frozen == "upernet.backbone.swin.layernorm"


def test_its_normalisation_stays_at_home_in_fedbn() -> None:
    network = network_of(plan_of(4, (32, 24), HALF, HALF))
    at_home = normalisation_weights(network)
    assert "upernet.decode_head.bottleneck.batch_norm.running_mean" in at_home
    assert "upernet.backbone.swin.encoder.layers.0.blocks.0.layernorm_before.weight" in at_home
    assert "upernet.decode_head.classifier.weight" not in at_home


def train_swin(prepared: Path, folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    settings = {"schedule": SHORT, "seed": 1, "device": "cpu", "report": ignore, **changes}
    train(prepared, folder, segmenter="swin", **settings)
    return load_file(folder / "model" / "weights.safetensors")


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swin")
    train_swin(prepared, folder)
    return folder


def test_it_resumes_bit_for_bit_segments_and_embeds(
    prepared: Path, trained: Path, phantom_folder: Path, dataset_json: dict, tmp_path: Path
) -> None:
    def interrupt(epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_swin(prepared, tmp_path, each_epoch=interrupt)
    resumed = train_swin(prepared, tmp_path)
    whole = load_file(trained / "model" / "weights.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    model = Model(trained / "model", "cpu", "swin")
    case = cases_of(phantom_folder)[30]
    image_CZHW, spacing = read_image(case.images, dataset_json)
    assert model.segment(image_CZHW, spacing).shape == image_CZHW.shape[1:]
    images_NCHW = np.random.default_rng(0).normal(100, 9, (5, 1, *model.plan.patch_size))
    features_NF = model.embed(images_NCHW)
    assert features_NF.shape == (5, SwinShape.of(model.plan).widths[-1])
    np.testing.assert_allclose(np.linalg.norm(features_NF, axis=1), 1, atol=1e-5)
    assert len(np.unique(features_NF, axis=0)) == 5


def test_fine_tuning_starts_from_what_it_is_given(
    prepared: Path, trained: Path, tmp_path: Path
) -> None:
    whole = load_file(trained / "model" / "weights.safetensors")
    tuned = train_swin(prepared, tmp_path, initial=trained / "model")
    assert whole.keys() == tuned.keys()
    assert not torch.equal(
        whole["upernet.decode_head.classifier.weight"],
        tuned["upernet.decode_head.classifier.weight"],
    )


def test_nnunets_own_predictor_segments_the_export_as_predict_does(
    trained: Path, phantom_folder: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for case in cases_of(phantom_folder)[-3:]:
        (images / case.images[0].name).write_bytes(case.images[0].read_bytes())
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    model = trained / "model"
    predict_folder(model, images, ours, segmenter="swin", device="cpu", report=lambda _: None)
    folder = write_results_folder(model, tmp_path / "out", ending=".nii.gz", segmenter="swin")
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
    assert isinstance(predictor.network, UPerNetSwin)
    theirs.mkdir()
    predictor.predict_from_files_sequential(str(images), str(theirs))
    for file in sorted(ours.iterdir()):
        assert file.read_bytes() == (theirs / file.name).read_bytes()


@pytest.mark.slow
def test_a_trained_model_passes_the_trial_of_models_from_elsewhere(trained: Path) -> None:
    try_model(trained / "model", "swin")
    with refuses("model.other-segmenter"):
        try_model(trained / "model", NNUNET)


def hostile_plans(**arguments: Any) -> dict[str, Any]:
    """A plan whose nnU-Net is thin, with arguments of its network and a batch of one."""
    plans = changed("configurations/2d/batch_size", 1)
    network = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    stages = len(arguments["strides"])
    network |= {"n_stages": stages, "kernel_sizes": [[1, 1]] * stages, **arguments}
    network["features_per_stage"] = arguments["features_per_stage"] + [1] * (stages - 1)
    network |= {"n_conv_per_stage": [1] * stages, "n_conv_per_stage_decoder": [1] * (stages - 1)}
    return plans


@pytest.mark.parametrize(
    ("features", "strides"), [(2048, [[1, 1]] * 2), (2048, [[1, 1]] + [[4, 4]] * 11)]
)
def test_a_hostile_plan_makes_no_network_wider_or_deeper_than_full_size(
    features: int, strides: list[list[int]]
) -> None:
    plans = hostile_plans(features_per_stage=[features], strides=strides)
    check_plan(plans)
    sizes = SWIN.sizes(UNetPlan.from_plans(plans, channels=1), 255)
    assert sizes is not None
    assert sizes.weights < 1.21e8


def test_a_hostile_plan_is_refused_before_a_network_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patch that a thin network of nnU-Net's takes makes gigabytes of a wide Swin's layers."""
    plans = hostile_plans(features_per_stage=[32], strides=[[1, 1]] + [[4, 4]] * 3)
    plans["configurations"]["2d"]["patch_size"] = [2048, 1920]
    check_plan(plans)
    dataset = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "organ": 1},
        "file_ending": ".mha",
    }
    details = {"inference_allowed_mirroring_axes": None, "segmenter": "swin"}
    small = network_of(plan_of(4, (32, 24), HALF), 2)
    save_network(tmp_path, small, plans, dataset, details)

    def built(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(type(SWIN), "build", built)
    with refuses("model.plan-refused", "numbers in its layers"):
        Model(tmp_path, "cpu", "swin")


def test_nnunets_largest_patch_is_not_refused() -> None:
    sizes = SWIN.sizes(plan_of(32, (1024, 1024), *[HALF] * 7, channels=4), 5)
    assert sizes is not None
    check_network(sizes.weights, sizes.activations)


def test_without_its_library_it_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    store = tmp_path / "store"
    arguments = ["simulate", "--budget", "smoke", "--segmenter", "swin", "--ray", "off"]
    result = CliRunner().invoke(main, [*arguments, "--store", str(store)])
    refused(result, "segmenter.not-installed", "hyfree-ray[swin]")
    assert not store.exists()
    with refuses("segmenter.not-installed"):
        SWIN.network(PLANS, 1, 2, deep_supervision=False)


def test_the_plan_that_travels_names_nnunets_network_alone(trained: Path) -> None:
    plans = json.loads((trained / "model" / "plans.json").read_text())
    named = plans["configurations"]["2d"]["architecture"]["network_class_name"]
    assert named.startswith("dynamic_network_architectures.")
