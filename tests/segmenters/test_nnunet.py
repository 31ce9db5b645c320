"""nnU-Net under our control: plans, trainings that resume, models that travel."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from safetensors.torch import load_file, save_file

from hyfree_ray.segmenters.nnunet.data import (
    DATASET,
    RawCase,
    plan_and_preprocess,
    preprocess_for,
    read_splits,
)
from hyfree_ray.segmenters.nnunet.model import MODEL_FILES, Model, save_network, slice_spacing
from hyfree_ray.segmenters.nnunet.on_cpu import RememberingDataset
from hyfree_ray.segmenters.nnunet.pseudo_dice import PseudoDice
from hyfree_ray.segmenters.nnunet.reading import read_image, read_label
from hyfree_ray.segmenters.nnunet.schedule import Schedule, WarmupPolyLR
from hyfree_ray.segmenters.nnunet.train import train
from hyfree_ray.segmenters.plan_caps import PlanCaps
from hyfree_ray.segmenters.unet_plan import UNetPlan
from tests.refusals import refuses

CAPS = PlanCaps(working_size=32, base_features=4, max_features=16, batch_size=4)
SHORT = Schedule(epochs=3, iterations=3, validation_iterations=1)


def cases_of(folder: Path) -> list[RawCase]:
    return [
        RawCase(
            name=label.name.removesuffix(".nii.gz"),
            images=(folder / "imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz"),),
            label=label,
        )
        for label in sorted((folder / "labelsTr").iterdir())
    ]


@pytest.fixture(scope="module")
def dataset_json(phantom_folder: Path) -> dict:
    return json.loads((phantom_folder / "dataset.json").read_text())


@pytest.fixture(scope="module")
def prepared(
    phantom_folder: Path, dataset_json: dict, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("prepared")
    cases = cases_of(phantom_folder)[:24]
    plan_and_preprocess(
        root, cases, dataset_json, CAPS, validation=[case.name for case in cases[-6:]]
    )
    return root


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(prepared, folder, schedule=SHORT, seed=1, device="cpu", report=ignore)
    return folder


def ignore(step: int, total: int, metrics: Mapping[str, float]) -> None:
    """A report that nobody reads."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "weights.safetensors")


def test_cases_are_prepared_over_what_a_killed_attempt_left(
    phantom_folder: Path, dataset_json: dict, tmp_path: Path
) -> None:
    """Whole cases, half a case, and one that is none of these cases."""
    cases = cases_of(phantom_folder)[:6]
    given = (tmp_path, cases, dataset_json, CAPS)
    plan_and_preprocess(*given, validation=[cases[-1].name])
    (folder,) = {file.parent for file in tmp_path.rglob("*.b2nd")}
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    half = folder / f"{cases[2].name}.b2nd"
    half.write_bytes(half.read_bytes()[:40])
    (folder / "another.b2nd").touch()
    plan_and_preprocess(*given, validation=[cases[-1].name])
    assert {file.name for file in folder.iterdir()} == set(whole)
    assert half.read_bytes() == whole[half.name]


def test_the_working_size_caps_the_longest_side_through_the_spacing(prepared: Path) -> None:
    plan = UNetPlan.read(prepared)
    assert max(plan.patch_size) == 32
    assert plan.patch_size[0] != plan.patch_size[1]
    assert plan.features_per_stage == (4, 8, 16)
    assert plan.batch_size <= 4
    plans = json.loads((prepared / "plans.json").read_text())
    assert plan.spacing[0] > plans["original_median_spacing_after_transp"][1]


def test_without_caps_the_plan_is_nnunets_own(
    phantom_folder: Path, dataset_json: dict, tmp_path: Path
) -> None:
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )

    from hyfree_ray.segmenters.nnunet.data import nnunet_environment

    none = PlanCaps(working_size=None, base_features=None, max_features=None, batch_size=None)
    plan_and_preprocess(tmp_path, cases_of(phantom_folder)[:6], dataset_json, none, validation=[])
    ours = json.loads((tmp_path / "plans.json").read_text())
    with nnunet_environment(tmp_path):
        theirs = ExperimentPlanner(DATASET).plan_experiment()
    theirs = json.loads(json.dumps(theirs))
    for plans in (ours, theirs):
        del plans["experiment_planner_used"]
    assert ours == theirs


def test_a_remembered_case_is_the_one_that_nnunet_reads(prepared: Path) -> None:
    folder = next((prepared / "preprocessed" / DATASET).glob("nnUNetPlans_2d"))
    names = read_splits(prepared)[0].train[:4]
    theirs, ours = (
        kind(str(folder), list(names)) for kind in (nnUNetDatasetBlosc2, RememberingDataset)
    )
    for name in names:
        for _ in range(2):
            pairs = zip(ours.load_case(name)[:2], theirs.load_case(name)[:2], strict=True)
            assert all(np.array_equal(mine, other[:]) for mine, other in pairs)
        assert ours.load_case(name)[3].keys() == theirs.load_case(name)[3].keys()
        assert ours.load_case(name)[0] is ours.load_case(name)[0]


def test_bf16_is_near_fp32_and_gives_weights_in_fp32(prepared: Path, tmp_path: Path) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        schedule = Schedule(epochs=1, iterations=1, validation_iterations=1, precision=precision)
        folder = tmp_path / precision
        train(prepared, folder, schedule=schedule, seed=1, device="cpu", report=ignore)
        found[precision] = weights(folder)
    assert not all(torch.equal(found["fp32"][name], found["bf16"][name]) for name in found["fp32"])
    for name, tensor in found["bf16"].items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, found["fp32"][name], rtol=0.05, atol=5e-3)


def test_what_travels_with_a_plan_names_no_file_and_no_case(prepared: Path) -> None:
    for name in ("plans.json", "dataset.json"):
        text = (prepared / name).read_text()
        assert str(prepared.parent) not in text
        assert "imagesTr" not in text
        assert cases_like(prepared)[0] not in text


def cases_like(prepared: Path) -> list[str]:
    split = json.loads((prepared / "preprocessed" / DATASET / "splits_final.json").read_text())
    return [*split[0]["train"], *split[0]["val"]]


def test_validation_cases_are_not_trained_on(prepared: Path) -> None:
    split = json.loads((prepared / "preprocessed" / DATASET / "splits_final.json").read_text())[0]
    assert len(split["val"]) == 6
    assert not set(split["train"]) & set(split["val"])


def test_a_set_without_foreground_is_planned(dataset_json: dict, tmp_path: Path) -> None:
    import SimpleITK as sitk

    for index in range(5):
        pixels = np.random.default_rng(index).normal(100, 10, (40, 28)).astype(np.float32)
        for name, array in (
            (f"a{index}_0000", pixels),
            (f"a{index}", np.zeros((40, 28), np.uint8)),
        ):
            image = sitk.GetImageFromArray(array)
            sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    cases = [
        RawCase(
            name=f"a{index}",
            images=(tmp_path / f"a{index}_0000.nii.gz",),
            label=tmp_path / f"a{index}.nii.gz",
        )
        for index in range(5)
    ]
    plan = plan_and_preprocess(tmp_path / "out", cases, dataset_json, CAPS, validation=["a4"])
    assert max(plan.patch_size) <= 40


def test_validation_without_foreground_keeps_the_last_weights_and_says_so(
    dataset_json: dict, tmp_path: Path
) -> None:
    """nnU-Net's pseudo-Dice is NaN then, than which no later epoch is better."""
    import SimpleITK as sitk

    for index in range(8):
        pixels = np.random.default_rng(index).normal(100, 10, (40, 28)).astype(np.float32)
        label = np.zeros((40, 28), np.uint8)
        label[8:20, 6:16] = 1 if index < 6 else 0
        pixels[label > 0] += 80
        for name, array in ((f"a{index}_0000", pixels), (f"a{index}", label)):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.nii.gz"))
    cases = [
        RawCase(
            name=f"a{index}",
            images=(tmp_path / f"a{index}_0000.nii.gz",),
            label=tmp_path / f"a{index}.nii.gz",
        )
        for index in range(8)
    ]
    prepared, folder = tmp_path / "prepared", tmp_path / "trained"
    plan_and_preprocess(prepared, cases, dataset_json, CAPS, validation=["a6", "a7"])
    result = train(prepared, folder, schedule=SHORT, seed=1, device="cpu", report=ignore)
    json.dumps(result, allow_nan=False)
    assert result["best_ema_pseudo_dice"] is None or result["best_ema_pseudo_dice"] >= 0
    assert (folder / "model" / "weights.safetensors").exists()


def test_killed_and_resumed_is_uninterrupted_bit_for_bit(
    prepared: Path, trained: Path, tmp_path: Path
) -> None:
    def die(step: int, total: int, metrics: Mapping[str, float]) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(prepared, tmp_path, schedule=SHORT, seed=1, device="cpu", report=die)
    steps: list[int] = []

    def give_way(epoch: int) -> None:
        if epoch == 2:
            raise InterruptedError

    def go_on(each_epoch: Callable[[int], None] | None = None) -> None:
        train(
            prepared,
            tmp_path,
            schedule=SHORT,
            seed=1,
            device="cpu",
            report=lambda step, total, metrics: steps.append(step),
            each_epoch=each_epoch,
        )

    with pytest.raises(InterruptedError):
        go_on(give_way)
    assert steps == [2]  # told before it is kept: the epoch of the kill is told again
    go_on()
    assert steps == [2, 3]  # who gives way has kept it: nothing is done again
    whole, resumed = weights(trained), weights(tmp_path)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_lucky_first_epoch_is_not_the_one_that_is_kept() -> None:
    pseudo_dice = PseudoDice(epochs=8)
    kept = [pseudo_dice.take(k, d) for k, d in enumerate([0.9, 0.4, 0.5, 0.6, 0.6, 0.7, 0.7, 0.1])]
    assert kept == [False] * 4 + [True, True, True, False]
    assert pseudo_dice.best_epoch == 6


def test_the_moving_average_starts_without_bias_and_passes_over_epochs_without_foreground() -> None:
    pseudo_dice = PseudoDice(epochs=4)
    assert pseudo_dice.average == 0.0
    for epoch, dice in enumerate([float("nan"), 0.6, float("nan"), 0.6]):
        pseudo_dice.take(epoch, dice)
        assert pseudo_dice.average == pytest.approx(0.6 if epoch else 0.0)
    assert pseudo_dice.best_epoch == 3


def test_without_any_foreground_the_last_epoch_is_kept() -> None:
    pseudo_dice = PseudoDice(epochs=2)
    assert [pseudo_dice.take(k, float("nan")) for k in range(2)] == [False, True]


def test_another_seed_is_another_network(prepared: Path, trained: Path, tmp_path: Path) -> None:
    train(prepared, tmp_path, schedule=SHORT, seed=2, device="cpu", report=ignore)
    one, other = weights(trained), weights(tmp_path)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_fine_tuning_starts_from_all_weights_the_head_included(
    prepared: Path, trained: Path, tmp_path: Path
) -> None:
    schedule = Schedule(epochs=1, iterations=1, validation_iterations=1, warmup=0.1)
    train(
        prepared,
        tmp_path,
        schedule=schedule,
        seed=5,
        device="cpu",
        report=ignore,
        initial=trained / "model",
    )
    start, end = weights(trained), weights(tmp_path)
    head = [name for name in start if "seg_layers" in name]
    assert head
    for name in start:
        # One step at a rate of 0.01 moves weights a little; other initial weights are far away.
        assert (start[name] - end[name]).abs().max() < 0.2, name


def test_the_rate_warms_up_linearly_then_decays_as_nnunets() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    rates = [WarmupPolyLR(optimizer, 0.01, 20, 2).rate_at(epoch) for epoch in range(20)]
    assert rates[:2] == [0.005, 0.01]
    expected = [0.01 * (1 - k / 18) ** 0.9 for k in range(18)]
    np.testing.assert_allclose(rates[2:], expected)


def test_a_model_is_four_files_without_a_pickle(trained: Path) -> None:
    files = sorted(file.name for file in (trained / "model").iterdir())
    assert files == sorted(MODEL_FILES)


def test_a_model_that_is_written_again_is_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    """Others hold it by its hash: made again after a loss, it must not be another one."""
    network = Model(trained / "model", "cpu").network
    for attempt in ("first", "again"):
        save_network(tmp_path / attempt, network, {}, {}, {})
    file = "weights.safetensors"
    first = (tmp_path / "first" / file).read_bytes()
    assert first == (tmp_path / "again" / file).read_bytes()
    assert first == (trained / "model" / file).read_bytes()


def test_a_model_segments_on_the_images_own_grid(
    trained: Path, phantom_folder: Path, dataset_json: dict
) -> None:
    case = cases_of(phantom_folder)[30]
    image_CZHW, spacing = read_image(case.images, dataset_json)
    predicted_ZHW = Model(trained / "model", "cpu").segment(image_CZHW, spacing)
    assert predicted_ZHW.shape == image_CZHW.shape[1:] == read_label(case.label, dataset_json).shape
    assert predicted_ZHW.dtype == np.uint8


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(trained: Path) -> None:
    model = Model(trained / "model", "cpu")
    images = np.random.default_rng(0).normal(100, 9, (5, 1, *model.plan.patch_size))
    features = model.embed(images.astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(features, model.embed(images.astype(np.float32), 2), atol=1e-5)


def test_a_slice_has_a_missing_axis_of_huge_spacing() -> None:
    assert slice_spacing((1.5, 2.0)) == (1998.0, 1.5, 2.0)


@pytest.mark.parametrize("fault", ["missing", "shape", "nan", "not-safetensors"])
def test_weights_that_do_not_fit_are_refused(trained: Path, tmp_path: Path, fault: str) -> None:
    """Cases 69, 70 and 72."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in MODEL_FILES:
        (folder / name).write_bytes((trained / "model" / name).read_bytes())
    tensors = weights(trained)
    name = sorted(tensors)[0]
    if fault == "missing":
        del tensors[name]
    elif fault == "shape":
        tensors[name] = tensors[name][:1].clone()
    elif fault == "nan":
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    if fault == "not-safetensors":
        torch.save(tensors, folder / "weights.safetensors")
    else:
        save_file(tensors, folder / "weights.safetensors")
    with refuses("model.bad-weights"):
        Model(folder, "cpu")


def test_a_plan_cannot_choose_what_code_is_imported(trained: Path, tmp_path: Path) -> None:
    """Case 73."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in MODEL_FILES:
        (folder / name).write_bytes((trained / "model" / name).read_bytes())
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "os.system"
    (folder / "plans.json").write_text(json.dumps(plans))
    with refuses("model.plan-refused", "'os.system'"):
        Model(folder, "cpu")


def test_another_partys_plan_is_kept_but_for_reader_and_batch(
    trained: Path, phantom_folder: Path, dataset_json: dict, tmp_path: Path
) -> None:
    cases = cases_of(phantom_folder)[24:36]
    plan = preprocess_for(
        tmp_path, cases, dataset_json, trained / "model", CAPS, validation=[cases[-1].name]
    )
    general = Model(trained / "model", "cpu").plan
    assert plan.patch_size == general.patch_size
    assert plan.spacing == general.spacing
    assert plan.batch_size <= general.batch_size


def overlapping(tensors: dict[str, torch.Tensor], folder: Path) -> bytes:
    """A safetensors file whose second tensor lies over its first."""
    save_file(tensors, folder / "honest")
    content = (folder / "honest").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


@pytest.mark.parametrize("fault", ["empty", "long-header", "no-json", "overlaps", "torchscript"])
def test_hostile_weights_are_refused_before_they_are_used(
    trained: Path, tmp_path: Path, fault: str
) -> None:
    """Cases 70 and 71: bad headers, tensors over each other, TorchScript under another name."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in MODEL_FILES:
        (folder / name).write_bytes((trained / "model" / name).read_bytes())
    file = folder / "weights.safetensors"
    if fault == "empty":
        file.write_bytes(b"")
    elif fault == "long-header":
        file.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    elif fault == "no-json":
        file.write_bytes((4).to_bytes(8, "little") + b"{{{{")
    elif fault == "overlaps":
        file.write_bytes(overlapping(weights(trained), tmp_path))
    else:
        file.write_bytes(b"PK\3\4" + b"archive/code/__torch__.py")
    with refuses("model.bad-weights"):
        Model(folder, "cpu")
