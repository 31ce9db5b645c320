"""What a user asks for, resolved to numbers before anything is hashed or run.

`Experiment` is what changes results: its fields enter keys, each only where it is read.
`Runtime` is where and how: it never enters a key.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from hyfree_ray.border.gate import Gate
from hyfree_ray.cohorts.label_sets import LabelEncoding
from hyfree_ray.config.budget import BUDGETS, Budget, budget_values
from hyfree_ray.config.loading import parse_yaml, read_yaml
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.core.precision import PrecisionChoice
from hyfree_ray.core.registry import OWN_PACKAGE, Origin, Registry
from hyfree_ray.evaluation import regimes
from hyfree_ray.evaluation.metrics import METRICS
from hyfree_ray.generators import GENERATORS
from hyfree_ray.segmenters import NNUNET, SEGMENTERS


def _as_tuple(asked: Any) -> Any:
    return tuple(asked) if isinstance(asked, list) else asked


def _in_order(asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return settings as a set: in one order, each once."""
    return regimes.in_order(asked)


def _setting(name: str) -> str:
    if not regimes.is_setting(name):
        raise _unknown(regimes.setting_names())
    return name


def _labeller(name: str) -> str:
    if name not in regimes.of_own_images():
        raise _unknown(regimes.of_own_images())
    return name


def _unknown(names: tuple[str, ...]) -> PydanticCustomError:
    return PydanticCustomError(
        "unknown_regime", "there is no such name; there are: {names}", {"names": names}
    )


class GeneratorChoice(BaseModel):
    """The generator, with settings that are its own: no other's are in an experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    """One of `GENERATORS`."""
    config: Mapping[str, Any]
    """All its settings by value, as its record has checked them."""


def _generator_choice(name: str, budget: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a generator with its settings at a budget, but for those that are given.

    Raises:
        HyfreeError: no such generator, one that makes no release alone, or settings that do not
            fit.
    """
    generator = GENERATORS[name]
    if generator.emits == "mask" or generator.given == "mask":
        what = "masks alone" if generator.emits == "mask" else "images for given masks alone"
        raise HyfreeError(
            "generator.incomplete",
            f"the generator {name!r} draws {what}, which is not enough for a release; use one that "
            "draws images, or images with masks",
        )
    config = generator.configured({**generator.at(budget).model_dump(mode="json"), **given})
    return {"name": name, "config": config.model_dump(mode="json")}


def _known_segmenter(name: str) -> str:
    SEGMENTERS.origin(name)  # raises where there is none; torch is not imported
    return name


def _further_metrics(names: Any) -> Any:
    """Metrics as a set, without the project's own, which are always measured."""
    if not isinstance(names, (list, tuple)):
        return names
    own = {metric.name for metric in METRICS.built_in()}
    return tuple(sorted({METRICS[str(name)].name for name in names} - own))


class Experiment(BaseModel):
    """Everything that changes a result, by value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seed: int = Field(default=0, ge=0)
    fold: int = Field(default=0, ge=0, le=4)
    """The test fold; validation is the next one, training the other three."""
    generator: GeneratorChoice
    segmenter: Annotated[str, AfterValidator(_known_segmenter)] = NNUNET
    """The architecture that all parties train inside nnU-Net, one of `SEGMENTERS`."""
    precision: Literal["fp32", "bf16"]
    """Of the generators, and of nnU-Net's trainings on a CPU; on a GPU nnU-Net has its own."""
    mirror: bool = False
    """Whether a mirrored image is as good as the original. Anatomy is rarely symmetric."""
    embedder: Literal["nnunet", "openclip"]
    """What images are compared by: the site's own nnU-Net, or OpenCLIP as in the paper."""
    embedder_weights: str | None = None
    """File with OpenCLIP's weights."""
    threshold_percentile: float = Field(default=5.0, gt=0, lt=100)
    """Of the distances between patients: nearer to a training image is memorised."""
    gate: Gate = Gate()
    """What a release's privacy card has to say, at its site and at the pool."""
    labeller: Annotated[str, AfterValidator(_labeller)] = "local"
    """Which of its own networks a site labels its release with; the paper: `local`."""
    replay_share: float = Field(default=0.25, gt=0, lt=1)
    """Of what `personalised` is fine-tuned on, the share of synthetic images; the rest is real."""
    min_label_agreement: float = Field(default=0.0, ge=0, le=1)
    """Dice of a release's labels with a model trained on the other releases; one below it is not
    replayed. 0 asks for none; above it the pool trains one more model a site."""
    general_workers: int = Field(default=1, ge=1)
    """Processes that share the general model's batches. More than one changes its result."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of fine-tuning's epochs in which the rate grows."""
    settings: Annotated[
        tuple[Annotated[str, AfterValidator(_setting)], ...],
        BeforeValidator(_as_tuple),
        AfterValidator(_in_order),
    ] = Field(default_factory=lambda: regimes.settings(default=True))
    """What is trained beside the paper's protocol, for comparison."""
    metrics: Annotated[tuple[str, ...], BeforeValidator(_further_metrics)] = ()
    """What is measured beside the project's own metrics, of `METRICS`."""
    budget: Budget

    def extensions(self) -> dict[str, Origin]:
        """Find what comes from other packages, in words, with its package; nothing is imported."""
        named: list[tuple[Registry[Any], str]] = [
            (GENERATORS, self.generator.name),
            (SEGMENTERS, self.segmenter),
            *((METRICS, name) for name in self.metrics),
        ]
        found = {f"{table.concept} {name}": table.origin(name) for table, name in named}
        return {what: origin for what, origin in found.items() if origin.package != OWN_PACKAGE}

    def task(self, cohort: str, dataset: Mapping[str, Any]) -> str:
        """The joint task, whoever takes part in it: the first half of what releases are made for.

        Labels are known by their names: sites may number them each in its own way, and leave
        pixels out by `ignore` or not.
        """
        labels = LabelEncoding.of(dataset).numbered_by_name()
        task = {"channels": dataset["channel_names"], "labels": labels}
        return digest_of(["federation", cohort, task, self.seed, self.fold])[:32]

    def recipe(self, versions: Sequence[int]) -> str:
        """How releases are made: the second half. All that changes one is in it, and is signed.

        Not what a hospital's own machine decides: the precision, and the embedder that it has
        weights for, which stands on the privacy card.

        Args:
            versions: of the stages that make a release.
        """
        settings = self.model_dump(mode="json", exclude=_NOT_IN_A_RECIPE)
        if self.labeller == regimes.CONTROL:
            settings["labeller_epochs"] = self.budget.unet.epochs + self.budget.unet.finetune_epochs
        return digest_of(["recipe", settings, list(versions)])[:32]

    def key(self, cohort: str, site_keys: Mapping[str, str]) -> str:
        """Identity of the experiment: settings and the data of all sites."""
        settings = self.model_dump(mode="json", exclude=_NOT_SETTINGS)
        return digest_of([settings, cohort, dict(sorted(site_keys.items()))])


_NOT_SETTINGS: dict[str, Any] = {
    "embedder_weights": True,
    "budget": {"generator_backend", "generator_reason", "phantom_sites"},
}
"""What `auto` was resolved by, and a path: the resolved values are in the key."""

_NOT_IN_A_RECIPE: dict[str, Any] = {
    **dict.fromkeys(("seed", "fold"), True),  # of the task
    **dict.fromkeys(("precision", "embedder", "embedder_weights"), True),  # of a machine
    # Of what comes after the releases.
    **dict.fromkeys(("settings", "metrics", "warmup", "replay_share"), True),
    **dict.fromkeys(("min_label_agreement", "general_workers"), True),
    "budget": {
        "generator_backend": True,
        "generator_reason": True,
        "phantom_sites": True,
        "unet": {"finetune_epochs"},
    },
}


class Runtime(BaseModel):
    """Where and how a run is executed. Not part of any key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    store: Path
    ray: str = "local"
    """"local", "off" (this process, one stage after the other) or a cluster's address."""
    device: Literal["cpu", "cuda"]


def not_measured() -> PrecisionChoice:
    """Return what `auto` is where no store is asked: fp32."""
    return PrecisionChoice.of([])


def resolve_experiment(
    *,
    budget: str | None,
    generator: str | None,
    device: str,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    cpu_precision: Callable[[], PrecisionChoice] = not_measured,
    **fields: Any,
) -> tuple[Experiment, list[str]]:
    """Resolve a configuration: the file, then the command line's fields, then `--set`.

    Args:
        budget: name of the budget whose values are the start; None: the file's, else `small` on
            a CPU and `paper` on a GPU.
        generator: "auto" or one of `GENERATORS`; None: the file's, else "auto". Its settings are
            those of its record at this budget, but for what file and overrides say of
            `generator.config`.
        device: what the trainings will run on.
        file: YAML with any of `Experiment`'s fields; its paths are from its folder.
        overrides: `key=value` with dots, e.g. `budget.unet.epochs=10`; paths are from the
            folder that this process is in.
        cpu_precision: what `auto` is on a CPU, asked only where it is needed; by default fp32.
        fields: top-level fields that the command line names; None: not named.

    Returns:
        The experiment, and one line of reason for each number that was derived.

    Raises:
        HyfreeError: an unknown key (with the nearest known one) or a value that does not fit.
    """
    written = {} if file is None else read_yaml(file)
    written.pop("resources", None)  # how a run is executed: resources.py reads it
    named = written.pop("budget") if isinstance(written.get("budget"), str) else None
    budget = budget or named or ("paper" if device == "cuda" else "small")
    values: dict[str, Any] = {"budget": budget_values(budget)}
    if file is not None and isinstance(path := written.get("embedder_weights"), str):
        written["embedder_weights"] = str(file.absolute().parent / path)
    _merge(values, written, str(file))
    values.update({name: value for name, value in fields.items() if value is not None})
    if generator is not None:
        values.setdefault("generator", {})["name"] = generator
    for override in overrides:
        _set(values, override)
    if isinstance(path := values.get("embedder_weights"), str):
        values["embedder_weights"] = str(Path(path).absolute())  # stages run in other folders
    own = values.get("generator", {}).get("config")
    changed = values["budget"] != budget_values(budget) or own
    reasons = [
        f"budget {budget}: "
        + ("as in the paper" if budget == "paper" else "shorter and narrower, same rules")
        + (f", except for {_changed_by(file, overrides)}" if changed else "")
    ]
    chosen = {"name": "auto", "config": {}} | values.get("generator", {})
    if chosen["name"] == "auto":
        chosen["name"] = values["budget"]["generator_backend"]
        reasons.append(f"generator {chosen['name']}: {values['budget']['generator_reason']}")
    values["generator"] = _generator_choice(chosen["name"], budget, chosen["config"])
    if values.setdefault("embedder", "auto") == "auto":
        named_weights = values.get("embedder_weights") is not None
        values["embedder"] = "openclip" if named_weights else "nnunet"
        why = "embedder_weights is set" if named_weights else "embedder_weights is not set"
        reasons.append(f"embedder {values['embedder']}: {why}")
    if values.setdefault("precision", "auto") != "auto":
        why = "as requested"
    elif device == "cuda":
        values["precision"], why = "bf16", "the GPU's tensor cores"
    else:
        choice = cpu_precision()
        values["precision"], why = choice.precision, choice.reason
    reasons.append(f"precision {values['precision']}: {why}")
    try:
        experiment = Experiment.model_validate(values)
    except ValidationError as error:
        raise HyfreeError("config.bad-value", _first_problem(error)) from error
    others = [f"{what}: of {origin}" for what, origin in experiment.extensions().items()]
    return experiment, reasons + others


def _changed_by(file: Path | None, overrides: Sequence[str]) -> str:
    changes = ([] if file is None else [str(file)]) + (["--set"] if overrides else [])
    return f"changes by {' and '.join(changes)}"


def check_embedder(experiment: Experiment) -> None:
    """Refuse an embedder that could not be loaded, before anything is trained for it.

    Nothing is imported. For who compares images: the pool does not.

    Raises:
        HyfreeError: its weights, or OpenCLIP itself, are not there.
    """
    if experiment.embedder != "openclip":
        return
    given = experiment.embedder_weights
    if given is None:
        raise HyfreeError(
            "embedder.no-weights",
            "embedder 'openclip': has no weights; set embedder_weights to their file, or use "
            "--set embedder=nnunet",
        )
    if not (Path(given).is_file() and os.access(given, os.R_OK)):
        raise HyfreeError(
            "embedder.no-weights",
            f"embedder_weights: {given} is not a readable file; name the file of OpenCLIP's "
            "weights, or use --set embedder=nnunet",
        )
    if importlib.util.find_spec("open_clip") is None:
        raise HyfreeError(
            "embedder.not-installed",
            "embedder 'openclip' is not installed; install hyfree-ray[openclip] with a matching "
            "torchvision, or use --set embedder=nnunet",
        )


def find_device() -> Literal["cpu", "cuda"]:
    """Whether this machine has a GPU that may be used, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return "cpu"
    return "cuda" if Path("/dev/nvidia0").exists() and _torch_has_cuda() else "cpu"


def _torch_has_cuda() -> bool:
    """Whether the installed torch is a CUDA build, from its version file as text."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = (Path(spec.origin).parent / "version.py").read_text()
    found = re.search(r"^cuda\b[^=]*=\s*(\S+)", text, re.MULTILINE)
    return found is not None and found.group(1) != "None"


def _set(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise HyfreeError(
            "option.malformed", f"--set {override}: not key=value, e.g. budget.unet.epochs=10"
        )
    value = parse_yaml(text, f"--set {override}")
    nested: Any = value
    for part in reversed(name.split(".")):
        nested = {part: nested}
    _merge(values, nested, f"--set {name}")


_GENERATORS_OWN = "generator.config."
"""How the keys begin that are a generator's own: its record checks them."""


def _merge(values: dict[str, Any], more: Mapping[str, Any], where: str) -> None:
    known = _known_keys()
    for path, value in _leaves(more):
        path = "generator.name" if path == "generator" else path
        if path not in known and not path.startswith(_GENERATORS_OWN):
            raise HyfreeError("config.unknown-key", f"{where}: {_not_a_key(path, known, where)}")
        target = values
        *parents, last = path.split(".")
        for part in parents:
            target = target.setdefault(part, {})
        target[last] = value


def _not_a_key(path: str, known: Sequence[str], where: str) -> str:
    """What is wrong with a key that there is not, and what was meant by it."""
    if path.split(".")[0] == "resources":  # a file's are taken out before
        return "resources can only be set in a --config file, as `resources: {default: {gpus: 2}}`"
    if inside := [key for key in known if key.startswith(f"{path}.")]:
        more = ", ..." if len(inside) > 5 else ""
        return f"{path!r} is a section: {', '.join(inside[:5])}{more}"
    if f"budget.{path}" in known and not where.startswith("--set"):
        return (
            f"{path!r} belongs to a budget: put it under `budget:`, or choose one of the budgets "
            f"{', '.join(BUDGETS)} with --budget"
        )
    own = {field for generator in GENERATORS.built_in() for field in generator.config.model_fields}
    known = [*known, *(f"{_GENERATORS_OWN}{field}" for field in sorted(own))]
    close = difflib.get_close_matches(path, known, n=1, cutoff=0.0)
    return f"unknown key {path!r}; did you mean {close[0]!r}?"


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found += _leaves(value, f"{path}.")
        else:
            found.append((path, value))
    return found


def _known_keys(model: type[BaseModel] = Experiment, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg'].lower()} (given: {problem['input']!r})"
