"""From what a user asks for to numbers."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import hyfree_ray
from hyfree_ray.config.budget import BUDGETS
from hyfree_ray.config.experiment import Experiment, check_embedder
from hyfree_ray.config.loading import read_yaml
from hyfree_ray.config.resolution import resolve_experiment
from hyfree_ray.core.precision import PrecisionChoice
from hyfree_ray.generators import GENERATORS
from hyfree_ray.generators.flow.config import FlowConfig
from hyfree_ray.generators.stylegan2 import STYLEGAN2
from hyfree_ray.generators.stylegan2.config import StyleGan2Config
from tests.refusals import refuses

NO_VALUES = (
    "2020-99-99", '!!int "abc"', '!!int ""', '!!float "abc"', '!!timestamp "abc"', '!!bool "abc"',
    "0x_", ".inf", "-.inf", ".nan", "1.0e+999", "9" * 5000, "0x" + "f" * 5000,
    r'"\uD800"',
)  # fmt: skip
"""YAML that is well formed and that no value can be made of."""


def resolve(*overrides: str, **options: object) -> Experiment:
    arguments = {"budget": "small", "generator": None, "device": "cpu", **options}
    return resolve_experiment(overrides=overrides, **arguments)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_budget_is_whole(budget: str) -> None:
    assert resolve(budget=budget).budget.unet.epochs >= 1


def test_the_paper_budget_caps_nothing_of_nnunet() -> None:
    plan, unet = resolve(budget="paper").budget.plan, resolve(budget="paper").budget.unet
    assert set(plan.model_dump().values()) == {None}
    assert (unet.epochs, unet.iterations, unet.finetune_epochs) == (1000, 250, 1000)


def test_auto_takes_stylegan2_for_the_paper_and_flow_for_minutes_of_cpu_and_says_why() -> None:
    assert resolve(budget="paper").generator.name == "stylegan2"
    experiment, reasons = resolve_experiment(budget="small", generator="auto", device="cpu")
    assert experiment.generator.name == "flow"
    assert any("flow" in reason and "CPU" in reason for reason in reasons)


def test_openclip_is_taken_where_its_weights_are_named_and_only_there() -> None:
    assert resolve("embedder_weights=weights.bin").embedder == "openclip"
    assert resolve().embedder == "nnunet"
    assert resolve("embedder_weights=weights.bin", "embedder=nnunet").embedder == "nnunet"


def test_an_embedder_that_could_not_be_loaded_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.bin"
    weights.touch()
    here, gone = f"embedder_weights={weights}", "embedder_weights=/nowhere/weights.bin"
    monkeypatch.setitem(sys.modules, "open_clip", None)  # as where it is not installed
    for settings, code, name in (
        (["embedder=openclip"], "embedder.no-weights", "embedder_weights"),
        (["embedder=openclip", gone], "embedder.no-weights", "/nowhere/weights.bin"),
        ([gone], "embedder.no-weights", "/nowhere/weights.bin"),  # not silently another embedder
        ([f"embedder_weights={tmp_path}"], "embedder.no-weights", str(tmp_path)),
        ([here], "embedder.not-installed", "hyfree-ray[openclip]"),
    ):
        with refuses(code, name):
            check_embedder(resolve(*settings))
    check_embedder(resolve())
    check_embedder(resolve(gone, "embedder=nnunet"))
    (tmp_path / "open_clip.py").write_text("raise AssertionError('it was imported')")
    monkeypatch.delitem(sys.modules, "open_clip")
    monkeypatch.syspath_prepend(tmp_path)
    check_embedder(resolve(here))


def test_the_embedders_weights_are_looked_for_beside_the_file_that_names_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.yaml").write_text("embedder_weights: w/g.bin\n")
    experiment, _ = resolve_experiment(
        budget=None, generator=None, device="cpu", file=tmp_path / "c.yaml"
    )
    assert experiment.embedder_weights == str(tmp_path / "w" / "g.bin")
    assert experiment.embedder == "openclip"


def test_precision_is_measured_on_a_cpu_where_nobody_names_it(tmp_path: Path) -> None:
    asked = []

    def measured() -> PrecisionChoice:
        asked.append(1)
        return PrecisionChoice(precision="bf16", machines=())

    def of(*overrides: str, **options: object) -> str:
        return resolve(*overrides, cpu_precision=measured, **options).precision

    file = tmp_path / "study.yaml"
    file.write_text("precision: fp32\n")
    named = (of(precision="fp32"), of("precision=fp32"), of(file=file))
    assert named == ("fp32", "fp32", "fp32")
    assert of(device="cuda") == "bf16"
    assert not asked
    assert (of(), of("precision=auto"), of(precision="auto", file=file)) == ("bf16",) * 3
    assert len(asked) == 3
    assert of(precision="bf16", file=file) == "bf16"
    assert of("precision=fp32", precision="bf16") == "fp32"
    assert resolve().precision == "fp32"  # where there is nothing to measure for


def test_the_reasons_say_which_precision_and_why() -> None:
    def reason(**options: object) -> str:
        resolved = resolve_experiment(budget="small", generator=None, **options)  # type: ignore[arg-type]
        return next(line for line in resolved[1] if line.startswith("precision "))

    assert reason(device="cuda") == "precision bf16: the GPU's tensor cores"
    assert reason(device="cpu", precision="fp32") == "precision fp32: as requested"
    assert reason(device="cpu") == "precision fp32: nothing was measured"


def test_the_budget_follows_the_device_where_none_is_named() -> None:
    assert resolve(budget=None, device="cuda").budget == resolve(budget="paper").budget
    assert resolve(budget=None).budget == resolve(budget="small").budget


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("budget: smoke\nseed: 3\nmirror: true\nthreshold_percentile: 2.5\n")
    experiment = resolve("seed=7", budget=None, file=file)
    assert experiment.seed == 7
    assert experiment.mirror
    assert experiment.threshold_percentile == 2.5
    assert experiment.budget == resolve(budget="smoke").budget


def test_settings_are_a_set_in_one_order() -> None:
    asked = resolve("settings=[fedavg, personalised, fedavg]").settings
    assert asked == ("personalised", "fedavg")
    assert resolve().settings == ("personalised", "real-all")


def test_set_reaches_nested_values() -> None:
    assert resolve("budget.unet.epochs=41").budget.unet.epochs == 41


@pytest.mark.parametrize(
    ("override", "code", "names"),
    [
        ("budget.unet.epoch=4", "config.unknown-key", ("'budget.unet.epochs'",)),
        ("sede=4", "config.unknown-key", ("'sede'", "'seed'")),
        ("seed", "option.malformed", ("--set seed", "key=value")),
        ("seed=[1", "config.bad-yaml", ("--set seed=[1",)),
        ("fold=9", "config.bad-value", ("fold: ", " 4 ", "9")),
        ("mirror=perhaps", "config.bad-value", ("mirror: ", "'perhaps'")),
        ("settings=[magic]", "config.bad-value", ("settings.0: ", "'personalised'", "'magic'")),
        ("generator.config.width=9", "config.bad-value", ("config.width", "flow", "max_channels")),
        ("generator.config.max_channels=9.5", "config.bad-value", ("config.max_channels", "9.5")),
        (
            "budget.generator.flow_max_channels=9",
            "config.unknown-key",
            ("'generator.config.max_channels'",),
        ),
        ("segmenter=magic", "name.unknown", ("'magic'", "nnunet")),
        ("metrics=[magic]", "name.unknown", ("'magic'", "hd95")),
        ("generator=magic", "name.unknown", ("'magic'", "flow", "stylegan2")),
    ],
)
def test_a_wrong_setting_is_one_line_that_says_how_to_mend_it(
    override: str, code: str, names: tuple[str, ...]
) -> None:
    with refuses(code, *names):
        resolve(override)


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("gate=hello", "gate.max_rejection_rate, gate.min_recall_exact, "),
        ("budget.unet=3", "budget.unet.iterations, "),
        ("resources.default.gpus=2", "--config"),
        ("resources=2", "--config"),
    ],
)
def test_a_section_and_what_stands_in_a_file_alone_are_not_taken_for_a_typing_error(
    override: str, names: str
) -> None:
    with refuses("config.unknown-key", names) as caught:
        resolve(override)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_that_is_given_as_a_configuration_is_told_what_it_is(budget: str) -> None:
    file = Path(hyfree_ray.__file__).parent / "config" / "presets" / f"{budget}.yaml"
    with refuses("config.unknown-key", "`budget:`", "--budget"):
        resolve(file=file)


@pytest.mark.parametrize(
    ("text", "code", "name"),
    [
        ("!!python/object/apply:os.system ['true']", "config.bad-yaml", ""),
        ("a: &x [1]\nb: *x\n", "config.bad-yaml", ""),
        ("- 1\n- 2\n", "config.bad-yaml", ""),
        ("seed: 1\nseeds: 2\n", "config.unknown-key", "'seed'"),
        ("#" * 70_000, "config.unreadable", ""),
        *((f"seed: {value}\n", "config.bad-yaml", "line 1") for value in NO_VALUES),
        ("resources: {default: {memory_gib: .nan}}\n", "config.bad-yaml", ""),
        ("[" * 5000, "config.bad-yaml", ""),
        (r'seed: "\UFFFFFFFF"', "config.bad-yaml", ""),
        (r'seed: "\U00110000"', "config.bad-yaml", ""),
    ],
)
def test_a_hostile_or_broken_file_is_refused(
    tmp_path: Path, text: str, code: str, name: str
) -> None:
    """Case 68."""
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with refuses(code, "c.yaml: ", name):
        resolve(file=file)


@pytest.mark.parametrize("value", [*NO_VALUES, "&x [*x]", "[" * 5000])
def test_a_setting_that_is_no_value_is_one_line(value: str) -> None:
    with refuses("config.bad-yaml", "--set seed="):
        resolve(f"seed={value}")


def test_a_configuration_is_an_ordinary_file(tmp_path: Path) -> None:
    """A device would be read until the memory is full, a pipe waited for without end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (Path("/dev/zero"), pipe, tmp_path):
        with refuses("config.unreadable", str(path)):
            read_yaml(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with refuses("config.unreadable", "none.yaml"):
        read_yaml(tmp_path / "none.yaml")


def test_the_key_follows_settings_and_data_but_not_the_order_of_sites() -> None:
    experiment = resolve()
    key = experiment.key("lung", {"A": "1", "B": "2"})
    assert key == experiment.key("lung", {"B": "2", "A": "1"})
    assert key != experiment.key("lung", {"A": "1", "B": "3"})
    assert key != resolve("seed=1").key("lung", {"A": "1", "B": "2"})


def test_a_release_is_made_for_the_task_whoever_takes_part() -> None:
    dataset = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "organ": 1}}
    shorter = resolve("budget.unet.epochs=2")
    assert resolve().task("p", dataset) == shorter.task("p", dataset)
    other = {**dataset, "labels": {"background": 0, "lesion": 1}}
    assert resolve().task("p", dataset) != resolve().task("p", other)


@pytest.mark.parametrize(
    "signed",
    [
        "generator=stylegan2", "generator.config.max_channels=12", "mirror=true",
        "threshold_percentile=1.0", "labeller=local",
        "gate.max_rejection_rate=0.9", "gate.max_attack_auc=0.7", "budget.unet.epochs=2",
        "budget.generator.min_images_shown=9", "budget.synthesis.per_real=3.0",
        "budget.plan.working_size=48",
    ],
)  # fmt: skip
def test_a_release_is_signed_for_every_setting_that_it_is_made_by(signed: str) -> None:
    """Case 37: one that was made otherwise is refused, however well it is signed."""
    assert resolve(signed).recipe([1, 2]) != resolve().recipe([1, 2])
    assert resolve().recipe([1, 3]) != resolve().recipe([1, 2])


@pytest.mark.parametrize(
    "free",
    [
        "precision=bf16", "embedder=openclip", "warmup=0.5", "settings=[syn]", "replay_share=0.2",
        "budget.unet.finetune_epochs=2", "budget.phantom_sites=9", "general_workers=2", "seed=4",
        "min_label_agreement=0.5", "metrics=[dice]",
    ],
)  # fmt: skip
def test_what_makes_no_release_or_is_a_machines_own_is_not_signed(free: str) -> None:
    local = "labeller=local"
    assert resolve(local, free).recipe([1]) == resolve(local).recipe([1])
    steps = [resolve("labeller=local2x", f"budget.unet.finetune_epochs={n}") for n in (2, 3)]
    assert steps[0].recipe([1]) != steps[1].recipe([1])


def test_an_experiment_holds_its_own_generators_settings_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sites whose versions differ in a generator that nobody uses work together."""
    data = {"A": "1"}
    flow, other = resolve("generator=flow"), resolve("generator=stylegan2")
    assert flow.generator.name == "flow"
    assert flow.generator.config == FlowConfig(max_channels=64).model_dump()
    assert other.generator.config == {"max_channels": 32}

    class Wider(StyleGan2Config):
        attention: bool = True

    changed = replace(STYLEGAN2, config=Wider, budgets={"small": Wider(max_channels=128)})
    monkeypatch.setitem(GENERATORS._records, "stylegan2", changed)
    again = resolve("generator=flow")
    assert (again.key("lung", data), again.recipe([1])) == (
        flow.key("lung", data),
        flow.recipe([1]),
    )
    changed_too = resolve("generator=stylegan2")
    assert changed_too.key("lung", data) != other.key("lung", data)
    assert changed_too.recipe([1]) != other.recipe([1])


def test_settings_of_a_generator_are_its_budgets_but_for_what_is_given(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "budget: smoke\ngenerator: {name: stylegan2, config: {max_channels: 12}}\n"
    )
    own = resolve(budget=None, file=tmp_path / "own.yaml").generator
    assert (own.name, own.config) == ("stylegan2", {"max_channels": 12})
    flow = resolve(budget="smoke", generator="flow").generator
    assert (flow.config["max_channels"], flow.config["evaluations"]) == (16, 10)
    with refuses("config.bad-value", "config.evaluations", "stylegan2 has max_channels"):
        resolve("generator.config.evaluations=4", generator="stylegan2")
    _, reasons = resolve_experiment(
        budget="smoke", generator="flow", device="cpu", overrides=["generator.config.evaluations=4"]
    )
    assert "--set" in reasons[0]


def test_an_experiment_written_out_is_the_same_experiment(tmp_path: Path) -> None:
    experiment = resolve("generator=stylegan2", "generator.config.max_channels=12", "fold=2")
    described = experiment.model_dump(mode="json", exclude={"embedder_weights"})
    (tmp_path / "written.yaml").write_text(yaml.safe_dump(described))
    assert resolve(budget="paper", file=tmp_path / "written.yaml") == experiment


def test_resolving_does_not_import_torch() -> None:
    import subprocess

    code = (
        "import sys; from hyfree_ray.config.resolution import resolve_experiment as r; "
        "r(budget='small', generator='auto', device='cpu'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
