"""Options that several commands share."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.files import try_to_write, writing_to
from hyfree_ray.core.log import set_verbosity
from hyfree_ray.core.store_root import DEFAULT_STORE, STORE_VARIABLE
from hyfree_ray.evaluation import regimes
from hyfree_ray.generators.pairing import Pairing

if TYPE_CHECKING:
    from hyfree_ray.config.experiment import Experiment
    from hyfree_ray.core.precision import PrecisionChoice
    from hyfree_ray.core.registry import Registry
    from hyfree_ray.runners.resolve import SimulationOptions

log = logging.getLogger("hyfree_ray")

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_CODES = """\b
Exit codes: 0 success; 1 failure; 2 invalid input, described in one line;
3 too few sites; 130 interrupted; 143 terminated.
Run the same command again to resume."""

STORE = click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=DEFAULT_STORE,
    show_default=True,
    envvar=STORE_VARIABLE,
    help="Folder for everything that is computed.",
)

FORMAT = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True
)

LOG_FORMAT = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    show_default="as --format",
    help="Format of the log and of errors, on standard error.",
)


DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where trainings run; auto: on a GPU where there is one.",
)

RAY = click.option(
    "--ray", default="local", show_default=True, help="local, off, or the ADDRESS of a cluster."
)


class _RecordName(click.ParamType):  # type: ignore[type-arg]  # click 8.1 takes none
    """The name of a record; other packages' are looked up only where they are asked for."""

    name = "name"

    def __init__(self, table: Callable[[], Registry[Any]], *also: str) -> None:
        self._table, self._also = table, also

    def get_metavar(self, *_: Any, **__: Any) -> str:
        return f"[{'|'.join((*self._also, *self._table().names()))}]"

    def convert(self, value: str, *_: Any) -> str:
        if value not in self._also:
            self._table().origin(value)  # raises where there is none
        return value


def _phantoms() -> Registry[Any]:
    from hyfree_ray.cohorts.phantom_record import PHANTOMS

    return PHANTOMS


def _generators() -> Registry[Any]:
    from hyfree_ray.generators import GENERATORS

    return GENERATORS


def _segmenters() -> Registry[Any]:
    from hyfree_ray.segmenters import SEGMENTERS

    return SEGMENTERS


DATA = click.option(
    "--data",
    type=click.Path(path_type=Path),
    show_default="phantom sites",
    help="An nnU-Net raw data set with a sites.csv (case,site,patient).",
)

PHANTOM = click.option(
    "--phantom",
    type=_RecordName(_phantoms),
    show_default="abdomen",
    help="Which phantom to draw without --data: abdomen (slices of one sequence, 5 hospitals) or "
    "brain (volumes of four sequences with nested tumour labels, 6 hospitals).",
)

PARTITION = click.option(
    "--partition",
    metavar="HOW",
    default="natural",
    show_default=True,
    help="natural (sites.csv), random, size-skew, dirichlet or column:NAME, always by patient. The "
    "number of sites is that of --sites, or the largest of them.",
)

CONFIG = click.option(
    "--config", type=click.Path(path_type=Path), help="YAML file with fields of the experiment."
)

BUDGET = click.option(
    "--budget",
    type=click.Choice(["smoke", "small", "paper"]),
    show_default="small on a CPU, paper on a GPU",
    help="How much to compute.",
)


GENERATOR = click.option(
    "--generator",
    type=_RecordName(_generators, "auto"),
    show_default="auto, by the budget and the device",
    help="What draws synthetic images.",
)

PAIRING = click.option(
    "--pairing",
    type=click.Choice(get_args(Pairing)),
    show_default="labelled, where the generator can",
    help="How images come by masks: labelled afterwards by the hospital's own network, drawn "
    "jointly, or drawn for masks that are drawn before (conditional).",
)

SEGMENTER = click.option(
    "--segmenter",
    type=_RecordName(_segmenters),
    show_default="nnunet",
    help="Architecture inside nnU-Net.",
)

PRECISION = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    show_default="auto",
    help="Of trainings; auto: bf16 on a GPU, on a CPU what was measured once for the store (bf16 "
    "where convolutions are clearly faster in it).",
)


def _metrics(_context: object, _parameter: object, text: str | None) -> tuple[str, ...] | None:
    """`a,b` as a tuple of known metrics; None where the option was not given."""
    from hyfree_ray.evaluation.metrics import METRICS as TABLE

    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        TABLE.origin(name)  # raises where there is none
    return names


METRICS = click.option(
    "--metrics",
    metavar="NAME,...",
    callback=_metrics,
    help="What to measure beside Dice, HD95, NSD and volume error, of other packages.",
)


def _settings(_context: object, _parameter: object, text: str | None) -> tuple[str, ...] | None:
    """`a,b` as a tuple of known settings; None where the option was not given."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not regimes.is_setting(name):
            known = regimes.setting_names()
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise HyfreeError(
                "option.unknown-setting",
                f"--settings {name}: no such setting; did you mean {nearest!r}?",
            )
    return names


SETTINGS = click.option(
    "--settings",
    metavar="NAME,...",
    callback=_settings,
    show_default=",".join(regimes.settings(default=True)),
    help="What to train for comparison, besides the protocol; '' for nothing: "
    f"{', '.join(regimes.setting_names())}.",
)

FOLD = click.option("--fold", type=click.IntRange(0, 4), show_default="0", help="Test fold.")

SEED = click.option("--seed", type=click.IntRange(0), show_default="0", help="Random seed.")

SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a field of the experiment, e.g. budget.unet.epochs=40.",
)


def in_a_folder(_context: object, parameter: click.Parameter, path: Path) -> Path:
    """A file's path, where its folder is there and can be written to: found out before anything is
    computed.

    Raises:
        HyfreeError: it is not, or cannot.
    """
    option, folder = max(parameter.opts, key=len), path.absolute().parent
    if not folder.is_dir():
        raise HyfreeError(
            "output.not-writable",
            f"{option} {path}: {path.parent} is not a folder; create it first",
        )
    with writing_to(path, option):
        try_to_write(folder)
    return path


def all_of(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Options as one decorator, shown by `--help` in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _set_verbosity(_context: object, parameter: click.Parameter, given: bool) -> None:
    if given:
        set_verbosity(parameter.name or "")


_IS_SET: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _set_verbosity}

VERBOSITY = all_of(
    click.option("-q", "--quiet", help="Print the answer, warnings and errors alone.", **_IS_SET),
    click.option(
        "-v",
        "--verbose",
        help="Also print all tables, what was derived from what, and the time that each task took.",
        **_IS_SET,
    ),
)

experiment_options = all_of(
    CONFIG, BUDGET, GENERATOR, PAIRING, SEGMENTER, METRICS, PRECISION, FOLD, SEED, SET
)
"""The options that resolve to an `Experiment`: the same at all parties of a federation, but for the
precision, which is each party's own."""

simulated_options = all_of(
    DATA,
    PHANTOM,
    PARTITION,
    CONFIG,
    BUDGET,
    GENERATOR,
    PAIRING,
    SEGMENTER,
    PRECISION,
    SETTINGS,
    METRICS,
    SET,
)
"""What is simulated, but for the number of sites, the folds and the seeds."""

runtime_options = all_of(STORE, RAY, DEVICE)
"""Where it is kept and where it runs: in no result."""


def simulation_options(options: Mapping[str, Any]) -> SimulationOptions:
    """Take from a command's options those that say what is simulated."""
    from hyfree_ray.runners.resolve import SimulationOptions

    names = [field.name for field in dataclasses.fields(SimulationOptions)]
    return SimulationOptions(**{name: options[name] for name in names if name in options})


def parse_numbers(text: str, option: str, *, least: int, most: int) -> tuple[int, ...]:
    """Parse `0-4` or `0,2,3` as sorted numbers.

    Raises:
        HyfreeError: something else, or a number out of bounds.
    """
    ends = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            ends.append((int(first), int(last if dash else first)))
    except ValueError as error:
        raise HyfreeError(
            "option.malformed", f"{option} {text}: not numbers; write them as 0-4 or 0,2"
        ) from error
    if any(first > last or first < least or last > most for first, last in ends):
        raise HyfreeError(
            "option.out-of-range",
            f"{option} {text}: out of range; give numbers from {least} to {most}",
        )
    return tuple(sorted({number for first, last in ends for number in range(first, last + 1)}))


def refuse_overrides(overrides: Sequence[str], names: Sequence[str], by: str) -> None:
    """Refuse `--set` of what other options give each simulation its own value of.

    Args:
        overrides: each `KEY=VALUE`.
        names: the keys that are refused.
        by: the options that say them.

    Raises:
        HyfreeError: it names the override.
    """
    for override in overrides:
        if override.partition("=")[0].strip() in names:
            raise HyfreeError(
                "option.conflict", f"--set {override}: already set by {by}; leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What the options of a party of a federation by files mean."""

    experiment: Experiment
    reasons: tuple[str, ...]
    """One line for each number that was derived."""
    device: str
    measured: PrecisionChoice | None
    """What the precision was chosen by, for the store to keep once it is open."""


def resolved(*, store: Path, device: str, **given: Any) -> Resolved:
    """Resolve `experiment_options`, `STORE` and `DEVICE`, and log which precision it is and why.

    Each party measures for its own store: a release's recipe leaves the precision out.
    """
    from hyfree_ray.config.device import find_device
    from hyfree_ray.config.resolution import resolve_experiment
    from hyfree_ray.core.log import set_up_logging
    from hyfree_ray.core.precision import StorePrecision

    set_up_logging("text")
    found, precision = find_device() if device == "auto" else device, StorePrecision(store)
    file, overrides = given.pop("config"), given.pop("overrides")
    experiment, reasons = resolve_experiment(
        device=found, file=file, overrides=overrides, cpu_precision=precision, **given
    )
    log.info(next(reason for reason in reasons if reason.startswith("precision ")))
    return Resolved(
        experiment=experiment,
        reasons=tuple(reasons),
        device=found,
        measured=precision.measured,
    )
