"""How a file, the command line and `--set` become one experiment, checked, by value."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hyfree_ray.config.budget import BUDGETS, budget_values
from hyfree_ray.config.experiment import Experiment
from hyfree_ray.config.loading import parse_yaml, read_yaml
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.precision import PrecisionChoice
from hyfree_ray.core.registry import OWN_PACKAGE
from hyfree_ray.generators import GENERATORS
from hyfree_ray.segmenters import SEGMENTERS


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
    pairing: str | None = None,
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
        pairing: how images come by masks; None: the file's, else the generator's usual one.
        fields: top-level fields that the command line names; None: not named.

    Returns:
        The experiment, and one line of reason for each number that was derived.

    Raises:
        HyfreeError: an unknown key (with the nearest known one), a value that does not fit, or an
            architecture whose library is not installed.
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
    for key, value in (("name", generator), ("pairing", pairing)):
        if value is not None:
            values.setdefault("generator", {})[key] = value
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
    values["generator"] = _generator_choice(chosen, budget)
    reasons += _resolve_quality_gate(values, budget)
    if values.setdefault("labeller", values["budget"]["labeller"]) != "local":
        reasons.append(
            f"labels by {values['labeller']}: so short a training as local's misses structures"
        )
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
    if SEGMENTERS.origin(experiment.segmenter).package == OWN_PACKAGE:  # others bring their own
        SEGMENTERS[experiment.segmenter].check_installed()
    others = [f"{what}: of {origin}" for what, origin in experiment.extensions().items()]
    return experiment, reasons + others


def _generator_choice(chosen: Mapping[str, Any], budget: str) -> dict[str, Any]:
    """Return a generator with its settings at a budget, but for those that are given.

    Raises:
        HyfreeError: no such generator, one that makes no release alone, settings that do not fit,
            or a pairing that it cannot do.
    """
    name = chosen["name"]
    generator = GENERATORS[name]
    if generator.emits == "mask" or generator.given == "mask":
        what = "masks alone" if generator.emits == "mask" else "images for given masks alone"
        raise HyfreeError(
            "generator.incomplete",
            f"the generator {name!r} draws {what}, which is not enough for a release; use one that "
            "draws images, or images with masks",
        )
    usual = generator.at(budget).model_dump(mode="json")
    config = generator.configured({**usual, **chosen["config"]})
    pairing = chosen.get("pairing") or generator.pairings[0]
    generator.check_pairing(pairing, config)
    found = {"name": name, "config": config.model_dump(mode="json"), "pairing": pairing}
    return {**chosen, **found}


def _resolve_quality_gate(values: dict[str, Any], budget: str) -> list[str]:
    """Take the budget's word on whether the quality gate is enforced, unless it is said.

    Returns:
        A line of reason where it is off.
    """
    gate = values.setdefault("gate", {}).setdefault("quality", {})
    asked = "enforced" in gate
    if gate.setdefault("enforced", values["budget"]["quality_gate"]):
        return []
    why = "as requested" if asked else f"at budget {budget} networks are too short to teach"
    return [f"quality gate off: {why}; releases that teach nothing are sent, too"]


def _changed_by(file: Path | None, overrides: Sequence[str]) -> str:
    changes = ([] if file is None else [str(file)]) + (["--set"] if overrides else [])
    return f"changes by {' and '.join(changes)}"


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
    known = known_keys()
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


def known_keys(model: type[BaseModel] = Experiment, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg'].lower()} (given: {problem['input']!r})"
