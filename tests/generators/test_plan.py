from __future__ import annotations

import subprocess
import sys

import pytest

from hyfree_ray.generators import GENERATORS
from hyfree_ray.generators.adversarial.plan import channels_at
from hyfree_ray.generators.denoising import plan as denoising
from hyfree_ray.generators.flow import plan as flow
from hyfree_ray.generators.flow.config import FlowConfig
from hyfree_ray.generators.plan import GeneratorPlan
from hyfree_ray.generators.stylegan2 import plan as stylegan2
from hyfree_ray.generators.stylegan2.config import StyleGan2Config
from tests.generators.plans import HALVINGS, unet_plan
from tests.refusals import refuses

SIX = (*HALVINGS, (2, 2))


@pytest.mark.parametrize(
    ("patch", "channels", "strides", "base", "padded", "widths"),
    [
        ((224, 224), 1, SIX, (7, 7), (224, 224), (146, 292, 512, 512, 512, 512)),
        ((96, 64), 1, HALVINGS, (6, 4), (96, 64), (420, 512, 512, 512, 512)),
        ((384, 288), 3, SIX, (12, 9), (384, 288), (98, 197, 394, 512, 512, 512)),
        (
            (320, 256),
            4,
            (*SIX, (2, 1), (1, 2)),
            (5, 4),
            (320, 256),
            (114, 229, 461, 512, 512, 512, 512, 512),
        ),
        ((100, 75), 5, HALVINGS, (7, 5), (112, 80), (348, 512, 512, 512, 512)),
    ],
)
def test_plans_of_real_u_nets_have_the_papers_shapes(
    patch, channels, strides, base, padded, widths
):
    unet = unet_plan(patch, channels=channels, strides=strides)
    plan = stylegan2.derive(unet, StyleGan2Config())
    assert plan.base_size == base
    assert plan.padded_size == padded
    assert plan.level_sizes[0] == padded
    assert plan.level_sizes[-1] == base
    assert plan.level_channels == widths
    assert plan.channels == channels
    assert plan.latent_size == 512


def test_the_base_times_the_strides_covers_the_patch_by_less_than_one_base_pixel():
    for height in range(17, 60, 7):
        plan = GeneratorPlan.of(unet_plan((height, 41), strides=((1, 1), (2, 1), (2, 2), (1, 2))))
        assert 0 <= plan.padded_size[0] - height < 4
        assert plan.padded_size[1] == 44
        assert plan.margin[0] == (plan.padded_size[0] - height) // 2


def test_channels_follow_the_papers_formula():
    assert channels_at((96, 64), 512) == 32768 // 78
    assert channels_at((96, 64), 64) == 64
    assert channels_at((512, 300), 512) == 83


def test_a_stem_with_a_stride_gets_a_level_of_its_own():
    plan = GeneratorPlan.of(unet_plan((48, 32), strides=((2, 2), (2, 2)), kernels=((3, 3), (1, 3))))
    assert plan.level_sizes == ((48, 32), (24, 16), (12, 8))
    assert plan.kernel_sizes == ((3, 3), (3, 3), (1, 3))


def test_a_u_net_without_levels_gives_a_generator_without_levels():
    plan = flow.derive(unet_plan((7, 5), strides=((1, 1),)), FlowConfig(max_channels=8))
    assert plan.level_sizes == ((7, 5),)
    assert plan.features == (8,)


def test_pixels_are_unshuffled_only_where_the_first_stride_is_two_by_two():
    config = FlowConfig(max_channels=64)
    halved = flow.derive(unet_plan((96, 64)), config)
    assert halved.unshuffle == (2, 2)
    assert len(halved.features) == 4
    assert len(halved.feature_strides) == 3
    uneven = flow.derive(unet_plan((96, 64), strides=((1, 1), (2, 1), (2, 2))), config)
    assert uneven.unshuffle == (1, 1)
    assert uneven.feature_strides == ((2, 1), (2, 2))
    assert len(uneven.feature_kernels) == 3


@pytest.mark.parametrize("images", [20, 40, 93, 145, 400])
@pytest.mark.parametrize("times", [100, 1000])
def test_a_flow_has_enough_updates_or_the_smallest_batch_and_its_rate_follows(images, times):
    plan = flow.derive(unet_plan((96, 64), channels=4), FlowConfig())
    found = flow.schedule(plan, FlowConfig(), images=images, images_shown=times * images)
    updates = times * images // found.batch_size
    smaller = [batch for batch in denoising.COSTS if batch < found.batch_size]
    assert updates >= denoising.MIN_UPDATES or not smaller
    larger = [batch for batch in denoising.COSTS if batch > found.batch_size]
    assert all(times * images < denoising.MIN_UPDATES * batch for batch in larger)
    assert found.learning_rate == pytest.approx(
        denoising.MAX_RATE * (found.batch_size / denoising.MAX_BATCH) ** 0.5
    )
    numbers = [step.split(".")[0] for step in found.steps]
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]
    assert any(f"batches of {found.batch_size}, " in step for step in found.steps)
    assert flow.FlowPlan.from_json(found.to_json()) == found


def test_a_flow_of_the_papers_length_keeps_the_largest_batch_and_is_augmented():
    plan = flow.derive(unet_plan((96, 64)), FlowConfig())
    long = flow.schedule(plan, FlowConfig(), images=40, images_shown=40_000)
    assert (long.batch_size, long.augmented) == (16, True)
    assert not flow.schedule(plan, FlowConfig(), images=40, images_shown=4_000).augmented
    private = FlowConfig(epsilon=5.0)
    assert not flow.schedule(plan, private, images=40, images_shown=40_000).augmented


def test_a_batch_and_a_rate_that_are_set_are_taken_as_they_are():
    config = FlowConfig(batch_size=3, learning_rate=0.01)
    plan = flow.schedule(
        flow.derive(unet_plan((96, 64)), config), config, images=50, images_shown=5000
    )
    assert (plan.batch_size, plan.learning_rate) == (3, 0.01)
    assert sum("as set" in step for step in plan.steps) == 2


def test_a_width_cap_narrows_each_generator_and_is_said():
    plan = stylegan2.derive(unet_plan((96, 64)), StyleGan2Config(max_channels=32))
    assert set(plan.level_channels) == {32}
    assert plan.latent_size == 128
    assert any("the paper's cap is 512" in step for step in plan.steps)
    narrow = flow.derive(unet_plan((96, 64)), FlowConfig(max_channels=32))
    assert max(narrow.features) == 32
    assert any("at most 32" in step for step in narrow.steps)


@pytest.mark.parametrize("generator", GENERATORS.built_in(), ids=lambda one: one.name)
def test_each_generator_has_a_plan_of_its_own_in_numbered_steps(generator):
    plan = generator.derive(unet_plan((100, 75), channels=4), generator.config())
    assert isinstance(plan, generator.plan)
    assert [step.split(".")[0] for step in plan.steps] == [
        str(number) for number in range(1, len(plan.steps) + 1)
    ]
    assert not any("\n" in step for step in plan.steps)
    assert any("112x80 is cut to its centre" in step for step in plan.steps)
    assert generator.plan.from_json(plan.to_json()) == plan
    others = [other.name for other in GENERATORS.built_in() if other.name != generator.name]
    assert not any(name in step for step in plan.steps for name in others)


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        (unet_plan((32, 24), kernels=((3, 3),)), "1 kernel"),
        (unet_plan((32, 24), kernels=((2, 3),) * 5), "(2, 3)"),
        (unet_plan((0, 24)), "(0, 24)"),
    ],
)
def test_plans_that_cannot_be_built_are_refused_with_a_reason(plan, name):
    with refuses("generator.bad-plan", name):
        GeneratorPlan.of(plan)


@pytest.mark.parametrize("generator", GENERATORS.built_in(), ids=lambda one: one.name)
def test_settings_that_do_not_fit_are_one_line_that_names_those_there_are(generator):
    with refuses("config.bad-value", "config.max_channels: ", " 8 ", "4"):
        generator.configured({"max_channels": 4})
    with refuses("config.bad-value", "config.wide: ", generator.name, "max_channels"):
        generator.configured({"wide": True})
    assert generator.configured({}) == generator.at("paper") == generator.config()
    assert generator.at("smoke") != generator.at("paper")


def test_records_and_plans_do_not_import_torch():
    code = (
        "import sys; from hyfree_ray.generators import GENERATORS; GENERATORS.built_in();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
