from __future__ import annotations

import subprocess
import sys

import pytest

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.generators.plan import GeneratorPlan, channels_at
from tests.generators.plans import HALVINGS, unet_plan

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
    plan = GeneratorPlan.derive(unet_plan(patch, channels=channels, strides=strides))
    assert plan.base_size == base
    assert plan.padded_size == padded
    assert plan.level_sizes[0] == padded
    assert plan.level_sizes[-1] == base
    assert plan.level_channels == widths
    assert plan.channels == channels
    assert plan.latent_size == 512


def test_the_base_times_the_strides_covers_the_patch_by_less_than_one_base_pixel():
    for height in range(17, 60, 7):
        plan = GeneratorPlan.derive(
            unet_plan((height, 41), strides=((1, 1), (2, 1), (2, 2), (1, 2)))
        )
        assert 0 <= plan.padded_size[0] - height < 4
        assert plan.padded_size[1] == 44
        assert plan.margin[0] == (plan.padded_size[0] - height) // 2


def test_channels_follow_the_papers_formula():
    assert channels_at((96, 64), 512) == 32768 // 78
    assert channels_at((96, 64), 64) == 64
    assert channels_at((512, 300), 512) == 83


def test_a_stem_with_a_stride_gets_a_level_of_its_own():
    plan = GeneratorPlan.derive(
        unet_plan((48, 32), strides=((2, 2), (2, 2)), kernels=((3, 3), (1, 3)))
    )
    assert plan.level_sizes == ((48, 32), (24, 16), (12, 8))
    assert plan.kernel_sizes == ((3, 3), (3, 3), (1, 3))


def test_a_u_net_without_levels_gives_a_generator_without_levels():
    plan = GeneratorPlan.derive(unet_plan((7, 5), strides=((1, 1),)), max_channels=8)
    assert plan.level_sizes == ((7, 5),)
    assert plan.flow_features == (8,)


def test_pixels_are_unshuffled_only_where_the_first_stride_is_two_by_two():
    halved = GeneratorPlan.derive(unet_plan((96, 64)), max_channels=64)
    assert halved.flow_unshuffle == (2, 2)
    assert len(halved.flow_features) == 4
    assert len(halved.flow_strides) == 3
    uneven = GeneratorPlan.derive(
        unet_plan((96, 64), strides=((1, 1), (2, 1), (2, 2))), max_channels=64
    )
    assert uneven.flow_unshuffle == (1, 1)
    assert uneven.flow_strides == ((2, 1), (2, 2))
    assert len(uneven.flow_kernels) == 3


def test_a_width_cap_narrows_both_generators_and_is_said():
    plan = GeneratorPlan.derive(unet_plan((96, 64)), max_channels=32)
    assert set(plan.level_channels) == {32}
    assert plan.latent_size == 128
    assert max(plan.flow_features) == 32
    assert any("the paper's cap is 512" in step for step in plan.steps)


def test_steps_are_numbered_and_fit_a_line_each():
    plan = GeneratorPlan.derive(unet_plan((100, 75)))
    assert [step.split(".")[0] for step in plan.steps] == [
        str(number) for number in range(1, len(plan.steps) + 1)
    ]
    assert not any("\n" in step for step in plan.steps)
    assert any("112x80 is cut to its centre" in step for step in plan.steps)


def test_json_brings_back_the_same_plan():
    plan = GeneratorPlan.derive(unet_plan((100, 75), channels=4))
    assert GeneratorPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("plan", "width", "message"),
    [
        (unet_plan((32, 24)), 4, "at least 8"),
        (unet_plan((32, 24), kernels=((3, 3),)), 512, "one of each"),
        (unet_plan((32, 24), kernels=((2, 3),) * 5), 512, "even kernel"),
        (unet_plan((0, 24)), 512, "at least 1"),
    ],
)
def test_plans_that_cannot_be_built_are_refused_with_a_reason(plan, width, message):
    with pytest.raises(HyfreeError, match=message):
        GeneratorPlan.derive(plan, max_channels=width)


def test_planning_and_looking_backends_up_does_not_import_torch():
    code = (
        "import sys, hyfree_ray.generators.plan, hyfree_ray.generators;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
