"""Studies of a file: every combination of a grid, and what is to be read from it.

The files in `shipped/` are found by name: the experiments of papers, which run on any data.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hyfree_ray.config.experiment import Runtime
from hyfree_ray.config.loading import as_override, parse_yaml, read_yaml
from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.keys import digest_of
from hyfree_ray.evaluation.regimes import in_order, is_setting, protocol
from hyfree_ray.runners.resolve import SimulationOptions
from hyfree_ray.scheduling.resources import Execution, read_resources
from hyfree_ray.studies.designs import Resolver
from hyfree_ray.studies.trials import Trial

log = logging.getLogger("hyfree_ray")

SHIPPED = Path(__file__).parent / "shipped"

SIMULATE_OPTIONS = (
    "sites",
    "data",
    "phantom",
    "partition",
    "config",
    "budget",
    "generator",
    "pairing",
    "segmenter",
    "precision",
    "settings",
)
"""Options of `simulate` that a study's file may name for all of its trials."""
_VARIED = ("sites", "data", "phantom", "budget", "generator", "pairing", "segmenter")
"""Those that may be in its grid, beside fields of the experiment."""
_QUOTA = "budget.synthesis.per_real"
_MOST = "budget.synthesis.max_images"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is to be read from a study's runs beside its contrasts: regimes by name."""

    table: tuple[str, ...] = ()
    """Dice by label, a line each, as Akbar et al. (2024) have it."""
    mixing: tuple[str, ...] = ()
    """Points of a curve over the share of synthetic images."""
    ranks: tuple[str, ...] = ()
    """Ranked over data sets, as Vu et al. (2025) do."""
    kid: str = ""
    """The regime whose Dice is set beside KID."""

    @property
    def regimes(self) -> tuple[str, ...]:
        """All that must be trained for it, each once."""
        named = {*self.table, *self.mixing, *self.ranks, *filter(None, [self.kid])}
        return in_order(named)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study's file, with what the command line says in place of it."""

    name: str
    """Of its folder in the store."""
    path: Path
    simulate: Mapping[str, Any]
    grid: Mapping[str, list[Any]]
    reading: Reading = Reading()
    overrides: tuple[str, ...] = ()
    """`key=value` of all trials."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What the command line says of a study in place of its file."""

    simulate: Mapping[str, Any] = field(default_factory=dict)
    """Options of `simulate`; paths are absolute."""
    grid: tuple[str, ...] = ()
    """Each `key=value,...`."""
    overrides: tuple[str, ...] = ()
    """Each `key=value`, of all trials."""

    def __bool__(self) -> bool:
        return bool(self.simulate or self.grid or self.overrides)


def shipped_names() -> tuple[str, ...]:
    """List the studies that come with the package."""
    return tuple(sorted(file.stem for file in SHIPPED.glob("*.yaml")))


def find_study(named: str) -> Path:
    """Return the file of a study: one that comes with the package, or a path.

    Raises:
        HyfreeError: it is neither.
    """
    if named in shipped_names():
        return SHIPPED / f"{named}.yaml"
    path = Path(named)
    if not path.is_file():
        raise HyfreeError(
            "study.not-found",
            f"{named}: no such file, and no study that comes with hyfree-ray; these are: "
            f"{', '.join(shipped_names())}; see hyfree-ray study --help",
        )
    return path


def read_study(named: str, changes: Changes = Changes()) -> Study:
    """Read a study, with the changes to it.

    The file is YAML: `simulate`, options that all trials share; `grid`, fields of the experiment
    (with dots) and some options, each with a list of values; and `report`, what is to be read from
    the runs. Paths are from its folder.

    Raises:
        HyfreeError: a key that is not known, or a value that does not fit.
    """
    path = find_study(named)
    written = read_yaml(path)
    for name in written:
        if name not in {"simulate", "grid", "report"}:
            raise HyfreeError(
                "study.unknown-key",
                f"{path}: unknown key {name!r}; a study has 'simulate', 'grid' and 'report'",
            )
    shared, grid = written.get("simulate") or {}, written.get("grid")
    if not isinstance(shared, dict) or not isinstance(grid, dict) or not grid:
        raise HyfreeError(
            "study.bad-value",
            f"{path}: 'grid' must map fields to lists of values, and 'simulate' be a mapping",
        )
    _check_shared(path, shared)
    _check_grid(f"{path}: grid", grid)
    reading = _reading(path, written.get("report"))
    shared, grid = _changed(shared, grid, changes)
    if reading.regimes:
        asked = [name for name in reading.regimes if name not in protocol()]
        shared.setdefault("settings", asked)
    return Study(
        name=f"{path.stem}-{digest_of(repr(changes))[:8]}" if changes else path.stem,
        path=path,
        simulate=shared,
        grid=grid,
        reading=reading,
        overrides=_not_in_grid(changes.overrides, grid),
    )


def _check_shared(path: Path, shared: Mapping[str, Any]) -> None:
    for name, value in shared.items():
        if name not in SIMULATE_OPTIONS:
            known = ", ".join(SIMULATE_OPTIONS)
            raise HyfreeError(
                "study.unknown-key",
                f"{path}: simulate: unknown option {name!r}; there are: {known}",
            )
        if value is None:
            raise HyfreeError(
                "study.bad-value",
                f"{path}: simulate: {name}: has no value; give one or leave it out",
            )


def _check_grid(where: str, grid: Mapping[str, Any]) -> None:
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise HyfreeError("study.bad-value", f"{where}: {name}: not a list of values")
        if name == "embedder_weights" and len(values) > 1:
            raise HyfreeError(
                "study.bad-value",
                f"{where}: {name}: runs that differ only in it are the same run in a store; "
                "give each weights file its own study and store",
            )
        for place, value in enumerate(values):
            if value in values[:place]:
                raise HyfreeError("study.bad-value", f"{where}: {name}: {value!r} is listed twice")


def _reading(path: Path, written: Any) -> Reading:
    """Read what a study's file says under `report`."""
    if written is None:
        return Reading()
    known = [one.name for one in fields(Reading)]
    if not isinstance(written, dict) or not set(written) <= set(known):
        raise HyfreeError(
            "study.unknown-key", f"{path}: report: is to map some of {', '.join(known)} to regimes"
        )
    for name, value in written.items():
        listed = [value] if name == "kid" else value
        if not isinstance(listed, list) or not listed:
            raise HyfreeError("study.bad-value", f"{path}: report: {name}: not a list of regimes")
        for regime in listed:
            if not isinstance(regime, str) or not (regime in protocol() or is_setting(regime)):
                raise HyfreeError(
                    "option.unknown-setting", f"{path}: report: {name}: no regime {regime!r}"
                )
    lists = {name: tuple(value) for name, value in written.items() if name != "kid"}
    return Reading(**lists, kid=written.get("kid", ""))


def _changed(
    shared: Mapping[str, Any], grid: Mapping[str, list[Any]], changes: Changes
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return what all trials share, and the grid, as the command line changes them.

    Where it names other data, the file's word on its own data is dropped.
    """
    lists = dict(_grid_list(text) for text in changes.grid)
    _check_grid("--grid", lists)
    given = {*changes.simulate, *lists}
    for name in sorted(set(changes.simulate) & set(lists)):
        raise HyfreeError(
            "option.conflict", f"--{name}: already varied by --grid {name}; leave one of them out"
        )
    dropped = given | ({"phantom", "sites"} if "data" in given else set())
    dropped |= {"data", "partition"} if "phantom" in given else set()
    left = {name: value for name, value in shared.items() if name not in dropped}
    varied = {name: values for name, values in grid.items() if name not in dropped - set(lists)}
    return {**left, **changes.simulate}, {**varied, **lists}


def _grid_list(text: str) -> tuple[str, list[Any]]:
    """Read `key=value,...` as a list of the grid.

    Raises:
        HyfreeError: it is none.
    """
    name, equals, values = text.partition("=")
    if not equals or not name.strip() or not values.strip():
        raise HyfreeError(
            "option.malformed", f"--grid {text}: not a list; write it as KEY=VALUE,..."
        )
    found = [parse_yaml(value, f"--grid {text}") for value in values.split(",")]
    if name.strip() == "data":
        found = [str(Path(str(value)).absolute()) for value in found]
    return name.strip(), found


def _not_in_grid(overrides: Sequence[str], grid: Mapping[str, Any]) -> tuple[str, ...]:
    for override in overrides:
        name = override.partition("=")[0].strip()
        if name in grid:
            raise HyfreeError(
                "option.conflict",
                f"--set {override}: the study's grid varies it; use --grid {override}",
            )
    return tuple(overrides)


def grid_trials(study: Study, runtime: Runtime) -> list[Trial]:
    """Make the trials of a study: every combination of its grid.

    Raises:
        HyfreeError: a key that is not known, a value that does not fit; before anything runs.
    """
    grid, path = study.grid, study.path
    combinations = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    asked = [_options_of(study, values) for values in combinations]
    experiments = [options.experiment(runtime.device)[0] for options in asked]  # before data
    most = [experiment.budget.synthesis.max_images for experiment in experiments]
    if len(grid.get(_QUOTA, ())) > 1 and all(most):
        log.warning(
            f"{path}: {_QUOTA}: a site releases at most {max(filter(None, most))} images, however "
            f"many are requested per real one; to lift the cap, set '{_MOST}: [null]' in the grid"
        )
    resolve = Resolver(runtime)
    return [
        Trial(
            name=f"trial-{draw:03d}",
            simulation=resolve(options),
            execution=Execution(resources=read_resources(options.config)),
            draw=draw,
            values=values,
        )
        for draw, (options, values) in enumerate(zip(asked, combinations, strict=True))
    ]


def _options_of(study: Study, values: Mapping[str, Any]) -> SimulationOptions:
    """Take the options of one trial from what all share and its values."""
    path, shared = study.path, study.simulate
    inside = {name: value for name, value in values.items() if name not in _VARIED}
    named = {**shared, **{name: values[name] for name in _VARIED if name in values}}
    folder = path.absolute().parent
    if isinstance(weights := inside.get("embedder_weights"), str):
        inside["embedder_weights"] = str(folder / weights)
    if isinstance(settings := named.get("settings"), str):
        named["settings"] = [name.strip() for name in settings.split(",") if name.strip()]
    for name in named.get("settings", ()):
        if not isinstance(name, str):
            raise HyfreeError(
                "option.unknown-setting", f"{path}: settings: {name!r} is not a setting's name"
            )
    if "settings" in named:
        named["settings"] = tuple(named["settings"])
    for name in ("config", "data"):
        if name in named:
            named[name] = folder / str(named[name])
    for name in ("budget", "phantom", "pairing", "segmenter"):
        if not isinstance(named.get(name), str | None):
            raise HyfreeError(
                "study.bad-value", f"{path}: {name}: {named[name]!r} is not the name of one"
            )
    sites = named.get("sites")
    if not isinstance(sites, int | None) or isinstance(sites, bool):
        raise HyfreeError("study.bad-value", f"{path}: sites: {sites!r} is not a number")
    overrides = (*(as_override(name, value) for name, value in inside.items()), *study.overrides)
    return SimulationOptions(**named, overrides=overrides)
