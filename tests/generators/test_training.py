from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hyfree_ray import generators
from hyfree_ray.generators.protocol import compute_of
from hyfree_ray.generators.stylegan2.train import StyleGan2Learner
from tests.generators.plans import tiny_config, tiny_stylegan2, tiny_unet
from tests.refusals import refuses

GENERATORS = [generator.name for generator in generators.GENERATORS.built_in()]
SHOWN = 16 * 20


class Killed(Exception):
    pass


def _images(count: int = 21, channels: int = 2, size: tuple[int, int] = (21, 19)) -> np.ndarray:
    random = np.random.default_rng(0)
    smooth = random.normal(size=(count, channels, 1, 1)) + np.linspace(-1, 1, size[1])
    return np.clip(smooth + np.zeros((size[0], 1)), -1, 1).astype(np.float32)


def _train(backend, workdir, *, images=None, progress=None, saved=None, **changes):
    images = _images() if images is None else images
    settings = {
        "unet": tiny_unet(2, (21, 19)),
        "images_shown": SHOWN,
        "seed": 7,
        "device": "cpu",
        "precision": "bf16",
        "mirror": True,
        "snapshots": 3,
        **changes,
    }
    return generators.train(
        backend,
        config=tiny_config(backend),
        images_NCHW=images,
        workdir=workdir,
        progress=progress or (lambda _done, _of, _losses: None),
        saved=saved or (lambda _done, _of: None),
        **settings,
    )


def _snapshots(workdir):
    return {file.name: load_file(file) for file in sorted((workdir / "snapshots").iterdir())}


def _same(first, second) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(weights[name], second[file][name])
        for file, weights in first.items()
        for name in weights
    )


@pytest.mark.parametrize("backend", GENERATORS)
def test_a_killed_training_that_is_resumed_ends_with_the_very_same_weights(
    backend, tmp_path, monkeypatch
):
    _train(backend, tmp_path / "whole")
    monkeypatch.setattr("hyfree_ray.generators.loop.PROGRESS_EVERY", -1.0)
    seen = []

    def die(done, of, _losses):
        seen.append(done)
        if done > of * (0.3 if len(seen) < of // 2 else 2):
            raise Killed

    with pytest.raises(Killed):
        _train(backend, tmp_path / "killed", progress=die)
    killed_at = seen[-1]
    seen.clear()

    def later(done, of, _losses):
        seen.append(done)
        if done > of * 0.7:
            raise Killed

    with pytest.raises(Killed):
        _train(backend, tmp_path / "killed", progress=later)
    assert killed_at / 2 < seen[0] <= killed_at, "went on from a checkpoint, not from the start"
    _train(backend, tmp_path / "killed")
    assert _same(_snapshots(tmp_path / "whole"), _snapshots(tmp_path / "killed"))


def test_a_training_that_ends_at_a_checkpoint_repeats_no_step_and_ends_with_the_same_weights(
    tmp_path,
):
    _train("flow", tmp_path / "whole")
    told = []

    def give_way(done, of):
        told.append(done)
        if len(told) in {1, 3}:
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            _train("flow", tmp_path / "cut", saved=give_way)
    _train("flow", tmp_path / "cut", saved=give_way)
    assert told == sorted(set(told)), "no step was repeated"
    assert told[-1] == SHOWN
    assert _same(_snapshots(tmp_path / "whole"), _snapshots(tmp_path / "cut"))


@pytest.mark.parametrize("backend", GENERATORS)
def test_snapshots_are_evenly_spaced_and_the_last_is_the_end(backend, tmp_path):
    reports = []
    _train(
        backend,
        tmp_path,
        images_shown=100,
        snapshots=2,
        progress=lambda *report: reports.append(report),
    )
    names = sorted(_snapshots(tmp_path))
    assert len(names) == 2
    assert names[-1] == "00000100.safetensors"
    assert 48 <= int(names[0].split(".")[0]) <= 64
    done, of, losses = reports[-1]
    assert (done, of) == (100, 100)
    assert all(isinstance(value, float) for value in losses.values())
    assert json.loads((tmp_path / "generator.json").read_text())["generator"] == backend


@pytest.mark.parametrize("backend", GENERATORS)
def test_an_image_depends_on_the_seed_and_its_number_alone(backend, tmp_path):
    _train(backend, tmp_path, images_shown=32, snapshots=1)

    def draw(start, count, seed=3, **changes):
        settings = {"device": "cpu", "precision": "bf16", **changes}
        parts = generators.sample(
            tmp_path, "00000032", start=start, count=count, seed=seed, **settings
        )
        return np.concatenate(list(parts))

    whole = draw(0, 20)
    assert whole.shape == (20, 2, 21, 19)
    assert whole.dtype == np.float32
    assert np.abs(whole).max() <= 1
    np.testing.assert_array_equal(whole, np.concatenate([draw(0, 10), draw(10, 10)]))
    np.testing.assert_array_equal(whole[17:19], draw(17, 2))
    assert np.abs(whole[0] - whole[1]).max() > 0
    assert np.abs(whole - draw(0, 20, seed=4)).max() > 0
    exact = draw(0, 20, precision="fp32")
    np.testing.assert_allclose(exact, draw(0, 20, precision="fp32", batch_size=5), atol=1e-4)
    assert np.abs(exact - whole).mean() < 0.02


@pytest.mark.parametrize("backend", GENERATORS)
def test_fewer_images_than_a_batch_are_enough(backend, tmp_path):
    _train(backend, tmp_path, images=_images(3), images_shown=32, precision="fp32")


def test_another_training_in_the_folder_is_not_overwritten(tmp_path):
    _train("flow", tmp_path, images_shown=32)
    with refuses("generator.other-settings", str(tmp_path)):
        _train("flow", tmp_path, images_shown=32, seed=8)


def test_a_finished_training_is_not_repeated(tmp_path):
    _train("flow", tmp_path, images_shown=64)
    reports = []
    _train("flow", tmp_path, images_shown=64, progress=lambda *report: reports.append(report))
    assert reports == []


@pytest.mark.parametrize(
    ("change", "code", "name"),
    [
        ({"images": _images().astype(np.float64)}, "generator.bad-images", "float64"),
        ({"images": _images(size=(19, 21))}, "generator.bad-images", "19, 21"),
        ({"images": _images()[:0]}, "generator.bad-images", "(0, "),
        ({"images": np.where(_images() > 0.9, np.nan, _images())}, "generator.bad-images", "NaN"),
        ({"images": _images() * 3}, "generator.bad-images", "[-1, 1]"),
        ({"precision": "fp8"}, "device.unknown-precision", "'fp8'"),
        ({"device": "abacus"}, "device.unknown", "'abacus'"),
        ({"images_shown": 0}, "generator.bad-plan", "0 images"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_a_reason(tmp_path, change, code, name):
    with refuses(code, name):
        _train("flow", tmp_path, **change)


def test_a_generator_of_before_is_refused_in_one_line(tmp_path):
    _train("flow", tmp_path, images_shown=32)
    (tmp_path / "generator.json").write_text(json.dumps({"backend": "flow", "plan": {}}))
    with refuses("generator.other-version", str(tmp_path)):
        list(
            generators.sample(
                tmp_path, "00000032", start=0, count=1, seed=0, device="cpu", precision="fp32"
            )
        )


@pytest.mark.parametrize("backend", GENERATORS)
def test_a_folder_holds_the_settings_and_the_plan_of_its_own_generator(backend, tmp_path):
    plan = _train(backend, tmp_path, images_shown=32)
    generator, config, read = generators.trained(tmp_path)
    assert (generator.name, config, read) == (backend, tiny_config(backend), plan)
    text = (tmp_path / "generator.json").read_text()
    assert not any(name in text for name in GENERATORS if name != backend)


def test_an_unknown_backend_or_snapshot_is_refused(tmp_path):
    with refuses("name.unknown", "'gan'", "stylegan2"):
        _train("gan", tmp_path)
    with refuses("generator.no-snapshot"):
        list(
            generators.sample(
                tmp_path, "x", start=0, count=1, seed=0, device="cpu", precision="fp32"
            )
        )


@pytest.mark.parametrize("mirror", [True, False])
def test_images_are_mirrored_only_where_that_is_allowed(mirror):
    from hyfree_ray.generators.loop import Settings, _Batches

    settings = Settings(
        images_shown=1, seed=0, device="cpu", precision="fp32", mirror=mirror, snapshots=1
    )
    images = torch.from_numpy(_images())
    batches = _Batches(images, 8, settings)
    random = torch.Generator().manual_seed(0)
    shown = torch.cat([batches(step, random) for step in range(10)])
    falling = shown[:, 0, 0, 0] > shown[:, 0, 0, -1]
    assert bool(falling.any()) is mirror
    assert not falling.all()


def test_every_image_is_shown_once_before_any_is_shown_again():
    from hyfree_ray.generators.loop import Settings, _Batches

    settings = Settings(
        images_shown=1, seed=0, device="cpu", precision="fp32", mirror=False, snapshots=1
    )
    numbers = torch.arange(21.0).view(21, 1, 1, 1)
    random = torch.Generator()
    batches = _Batches(numbers, 7, settings)
    order = [torch.cat([batches(3 * r + s, random) for s in range(3)]).flatten() for r in (0, 1)]
    for one_round in order:
        assert torch.equal(one_round.sort().values, torch.arange(21.0))
    assert not torch.equal(order[0], order[1])
    # A batch does not depend on those drawn before it.
    assert torch.equal(_Batches(numbers, 7, settings)(5, random), batches(5, random))


def test_the_discriminator_sees_the_generators_images_and_does_not_move_it(monkeypatch):
    """As new ones would cost a pass; both are augmented on their own."""
    learner = StyleGan2Learner(
        tiny_stylegan2(2, (21, 19)), compute_of("cpu", "fp32"), images_shown=SHOWN
    )
    seen = {}

    def spy(player):
        loss = getattr(learner, f"_{player}_loss")

        def keep(*arguments):
            seen[player] = arguments[-2]
            return loss(*arguments)

        monkeypatch.setattr(learner, f"_{player}_loss", keep)

    spy("generator")
    spy("discriminator")
    learner.step(torch.rand(8, 2, 21, 19) * 2 - 1, 1, torch.Generator().manual_seed(0))
    assert torch.equal(seen["generator"], seen["discriminator"])
    assert seen["generator"].requires_grad
    assert not seen["discriminator"].requires_grad
