"""The figures of a report, drawn from rows and records alone: nothing in them is an image.

Every function returns a figure of the current theme; `drawn` gives its files.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hyfree_ray.results.contrasts import Contrast
from hyfree_ray.results.summary import ALL_SITES

_DPI = 144
_LONGEST_NAME = 16
_WIDTH = 9.0  # inches, of all figures: they are shown below each other


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours on a light or on a dark page. Series are Okabe and Ito's, apart for all eyes."""

    text: str
    faint: str
    own: str
    foreign: str
    good: str
    bad: str
    page: str
    ramp: tuple[str, str]
    """Of a matrix, from low to high."""


LIGHT = Theme(
    text="#1c2530",
    faint="#c3cad3",
    own="#0072b2",
    foreign="#e69f00",
    good="#00795a",
    bad="#c2410c",
    page="#ffffff",
    ramp=("#f4f8fb", "#08519c"),
)
DARK = Theme(
    text="#e4e9ef",
    faint="#47515e",
    own="#56b4e9",
    foreign="#f0b64a",
    good="#3cc79c",
    bad="#f58a5b",
    page="#12171e",
    ramp=("#1b2430", "#6fc3ff"),
)
THEMES: Mapping[Literal["light", "dark"], Theme] = {"light": LIGHT, "dark": DARK}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure in the forms that a report needs."""

    name: str
    light_svg: bytes
    dark_svg: bytes
    png: bytes


def drawn(name: str, draw: Callable[[Theme], Figure]) -> Drawn:
    """Draw in both themes. Equal figures have equal bytes."""
    svg: dict[str, bytes] = {}
    png = b""
    for mode, theme in THEMES.items():
        with _styled(theme):
            figure = draw(theme)
            svg[mode] = _saved(figure, "svg")
            if mode == "light":
                png = _saved(figure, "png")
    return Drawn(name=name, light_svg=svg["light"], dark_svg=svg["dark"], png=png)


@contextmanager
def _styled(theme: Theme) -> Iterator[None]:
    with mpl.rc_context(
        {
            "text.parse_math": False,  # a site's name with dollars in it is a name
            "svg.hashsalt": "hyfree-ray",
            "font.size": 9,
            "axes.titlesize": 9.5,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "legend.frameon": False,
            "text.color": theme.text,
            "axes.labelcolor": theme.text,
            "axes.edgecolor": theme.faint,
            "axes.titlecolor": theme.text,
            "xtick.color": theme.text,
            "ytick.color": theme.text,
            "grid.color": theme.faint,
            "grid.linewidth": 0.5,
        }
    ):
        yield


def _saved(figure: Figure, form: Literal["svg", "png"]) -> bytes:
    stream = io.BytesIO()
    if form == "svg":
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    else:
        figure.savefig(
            stream, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None}
        )
    return stream.getvalue()


def new_figure(height: float) -> Figure:
    """Return an empty figure of the common width; height in inches."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def shorten(name: str) -> str:
    """Shorten a name that leaves no room for the figure; tables have it in full."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def box_plots(
    theme: Theme,
    values: Mapping[tuple[str, str, str], Sequence[float]],
    regimes: Sequence[str],
    sites: Sequence[str],
) -> Figure:
    """Draw Dice of patients by regime, a panel a test site: its own model, and the other sites'.

    Args:
        values: (regime, test site, "own" or "foreign") to one number a patient.
    """
    columns = min(3, len(sites))
    rows = -(-len(sites) // columns)
    figure = new_figure(rows * (0.9 + 0.36 * len(regimes)) + 0.35)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis, site in zip(axes.ravel(), sites, strict=False):
        axis.set_title(f"tested on {shorten(site)}")
        for side, (tested, colour) in enumerate((("own", theme.own), ("foreign", theme.foreign))):
            for place, regime in enumerate(regimes):
                found = values.get((regime, site, tested))
                if found:
                    _box(axis, theme, found, place + (side - 0.5) * 0.36, colour)
        axis.set_yticks(range(len(regimes)), regimes)
        axis.set_ylim(len(regimes) - 0.4, -0.6)
        axis.grid(axis="x")
        axis.set_axisbelow(True)
    for axis in axes.ravel()[len(sites) :]:
        axis.set_visible(False)
    for axis in axes.ravel()[max(0, len(sites) - columns) : len(sites)]:
        axis.set_xlabel("Dice")
        axis.tick_params(labelbottom=True)
    handles = [
        Patch(facecolor=theme.own, label="the site's own model, or the one of all sites"),
        Patch(facecolor=theme.foreign, label="models of the other sites"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


def _box(axis: Any, theme: Theme, values: Sequence[float], place: float, colour: str) -> None:
    line = {"color": colour, "linewidth": 1.1}
    axis.boxplot(
        [list(values)],
        positions=[place],
        orientation="horizontal",
        widths=0.27,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": colour, "edgecolor": colour, "alpha": 0.55},
        medianprops={"color": theme.text, "linewidth": 1.4},
        whiskerprops=line,
        capprops=line,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": colour},
    )


def matrices(
    theme: Theme,
    values: Mapping[tuple[str, str, str], float],
    regimes: Sequence[str],
    sites: Sequence[str],
) -> Figure:
    """Draw mean Dice, a matrix a regime: rows are whose model, columns where it was tested.

    Args:
        values: (regime, train site, test site) to a mean.
    """
    owners = {
        regime: [*(s for s in sites if any((regime, s, t) in values for t in sites))]
        or sorted({train for name, train, _ in values if name == regime})
        for regime in regimes
    }
    max_columns = 4 if len(sites) < 5 else 3
    columns = 2 if len(regimes) == max_columns + 1 == 4 else min(max_columns, len(regimes))
    rows = -(-len(regimes) // columns)
    cell = _WIDTH / columns / (len(sites) + 2.4)
    height = rows * (cell * max(2.0, max(len(o) for o in owners.values())) * 0.8 + 1.0)
    figure = new_figure(height)
    axes = figure.subplots(rows, columns, squeeze=False)
    low, high = min(values.values()), max(values.values())
    ramp = LinearSegmentedColormap.from_list("ramp", theme.ramp)
    for axis, regime in zip(axes.ravel(), regimes, strict=False):
        grid = np.array(
            [[values.get((regime, o, t), np.nan) for t in sites] for o in owners[regime]]
        )
        axis.imshow(grid, cmap=ramp, vmin=low, vmax=high, aspect="auto")
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                near = theme.ramp[1 if value < (low + high) / 2 else 0]
                text = f"{value:.2f}".removeprefix("0")
                axis.text(column, row, text, ha="center", va="center", color=_readable(near, theme))
        axis.set_title(regime)
        across, down = ([shorten(name) for name in names] for names in (sites, owners[regime]))
        axis.set_xticks(range(len(sites)), across, rotation=35, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(down)), down)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    for axis in axes.ravel()[len(regimes) :]:
        axis.set_visible(False)
    figure.supxlabel("tested on", fontsize=9)
    figure.supylabel("trained at", fontsize=9)
    return figure


def _readable(colour: str, theme: Theme) -> str:
    """Return the colour of text: the far end of the ramp on the near one."""
    return theme.text if colour == theme.ramp[1] else theme.page


def forest(theme: Theme, contrasts: Sequence[Contrast]) -> Figure:
    """Draw differences with their intervals, a panel a pair of regimes and tested side."""
    pairs = list(dict.fromkeys((one.first, one.second) for one in contrasts))
    names = list(dict.fromkeys(ALL_SITES if c.site is None else c.site for c in contrasts))
    figure = new_figure(len(pairs) * (0.75 + 0.27 * len(names)) + 0.3)
    axes = figure.subplots(len(pairs), 2, sharey=True, sharex=True, squeeze=False)
    for row, (first, second) in enumerate(pairs):
        for column, (tested, where) in enumerate((("own", "own"), ("foreign", "the others'"))):
            axis = axes[row][column]
            axis.axvline(0.0, color=theme.text, linewidth=0.8)
            for one in contrasts:
                if (one.first, one.second, one.tested) == (first, second, tested):
                    place = names.index(ALL_SITES if one.site is None else one.site)
                    _interval(axis, theme, one, place)
            axis.set_title(f"{first} minus {second}, {where} test cases")
            axis.set_yticks(range(len(names)), [shorten(name) for name in names])
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.grid(axis="x")
            axis.set_axisbelow(True)
    for axis in axes.ravel():
        axis.locator_params(axis="x", nbins=5)
        axis.tick_params(labelbottom=True)
    for axis in axes[-1]:
        axis.set_xlabel("difference of Dice, 95 % interval")
    return figure


def _interval(axis: Any, theme: Theme, one: Contrast, place: int) -> None:
    if one.difference is None:
        return
    colour = {"helped": theme.good, "worse": theme.bad}.get(one.verdict, theme.text)
    weight = 2.4 if one.site is None else 1.5
    if one.low is not None and one.high is not None:
        axis.plot([one.low, one.high], [place, place], color=colour, linewidth=weight)
    filled = colour if one.low is not None else "none"
    axis.plot(one.difference, place, "o", color=colour, markerfacecolor=filled, markersize=5)


def curve(
    theme: Theme,
    series: Mapping[str, Sequence[tuple[int, float, float | None, float | None]]],
    label: str,
) -> Figure:
    """Draw how something grows with the number of sites.

    Args:
        series: by name, `WHAT, own` or `WHAT, others`: number of sites, value, and its interval
            where there is one.
        label: what the values are.
    """
    figure = new_figure(3.6)
    parts = [name.rpartition(", ") for name in series]
    sides, names = ([*dict.fromkeys(part[k] for part in parts)] for k in (2, 0))
    sizes = sorted({point[0] for points in series.values() for point in points})
    axes = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    for axis, side in zip(axes, sides, strict=True):
        axis.axhline(0.0, color=theme.text, linewidth=0.8)
        for k, name in enumerate(names):
            found = series.get(f"{name}, {side}" if name else side, ())
            _line(axis, theme, found, (k, len(names)), name or side)
        axis.set_title(_TESTED_ON.get(side, ""))
        axis.set_xticks(sizes)
        axis.set_xlabel("sites whose releases are pooled")
        axis.grid(axis="y")
        axis.set_axisbelow(True)
    axes[0].set_ylabel(label)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
    return figure


_TESTED_ON = {"own": "tested at home", "others": "tested at the other sites"}


def _line(
    axis: Any,
    theme: Theme,
    points: Sequence[tuple[int, float, float | None, float | None]],
    place: tuple[int, int],
    name: str,
) -> None:
    """Draw a line of a curve; `place`: which of how many it is, their intervals stand apart."""
    which, among = place
    colours = (theme.own, theme.foreign, theme.good, theme.bad)
    colour = colours[which % len(colours)]
    shifted = [point[0] + (which - (among - 1) / 2) * 0.06 for point in points]
    axis.plot(shifted, [point[1] for point in points], "o-", color=colour, label=name)
    for middle, (_, _, low, high) in zip(shifted, points, strict=True):
        if low is not None and high is not None:
            axis.plot([middle, middle], [low, high], color=colour, linewidth=1.2)
