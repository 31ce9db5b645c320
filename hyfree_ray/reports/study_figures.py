"""The figures of a study: a mixing curve, a critical-difference diagram, KID beside Dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from hyfree_ray.reports.figures import Theme, new_figure
from hyfree_ray.results.ranks import ALPHA, Ranks

_MARKERS = "osD^vPX<>"


def mixing(
    theme: Theme, series: Mapping[str, Sequence[tuple[float, float, float | None]]]
) -> Figure:
    """Draw Dice by the share of synthetic images in a set of constant size.

    Args:
        series: by generator: share, Dice, and its standard deviation over runs, where there is one.
    """
    figure = new_figure(3.8)
    axis = figure.subplots()
    for k, (name, points) in enumerate(series.items()):
        colour = _colour(theme, k)
        shares = [100 * share + (k - (len(series) - 1) / 2) * 0.5 for share, _, _ in points]
        means = [dice for _, dice, _ in points]
        axis.plot(shares, means, "-", marker=_marker(k), color=colour, markersize=4.5, label=name)
        for share, (_, dice, deviation) in zip(shares, points, strict=True):
            if deviation is not None:
                ends = [dice - deviation, dice + deviation]
                axis.plot([share, share], ends, color=colour, linewidth=1)
    axis.set_xticks(sorted({100 * share for points in series.values() for share, _, _ in points}))
    axis.set_xlabel("share of synthetic images, %, in a set of constant size")
    axis.set_ylabel("Dice on real test patients")
    axis.grid(axis="y")
    axis.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _colour(theme: Theme, k: int) -> str:
    """Return one of four colours; the shapes of markers go on where these begin again."""
    return (theme.own, theme.foreign, theme.good, theme.bad)[k % 4]


def _marker(k: int) -> str:
    return _MARKERS[k % len(_MARKERS)]


def critical_differences(theme: Theme, ranks: Ranks) -> Figure:
    """Draw mean ranks on a line, best left; bars join what Nemenyi's test does not tell apart.

    Labels go to the side on which the rank lies, the outermost lowest, so that no two cross.
    """
    count = len(ranks.methods)
    left = -(-count // 2)
    cliques = ranks.cliques()
    depth = 0.6 + 0.28 * len(cliques)
    figure = new_figure(1.0 + 0.26 * (left + 1) + 0.2 * len(cliques))
    axis = figure.subplots()
    axis.set_axis_off()
    axis.set_xlim(1 - 0.55 * (count - 1), count + 0.55 * (count - 1))
    axis.set_ylim(depth + 0.8 * left + 0.2, -2.4)
    axis.plot([1, count], [0, 0], color=theme.text, linewidth=1)
    for rank in range(1, count + 1):
        axis.plot([rank, rank], [-0.25, 0], color=theme.text, linewidth=1)
        axis.text(rank, -0.4, str(rank), ha="center", va="bottom", fontsize=8)
    for place, (name, mean) in enumerate(zip(ranks.methods, ranks.means, strict=True)):
        on_left = place < left
        row = depth + 0.8 * (place if on_left else count - 1 - place)
        end = 1 - 0.04 * (count - 1) if on_left else count + 0.04 * (count - 1)
        axis.plot([mean, mean, end], [0, row, row], color=theme.own, linewidth=0.9)
        text = f"{name}  {mean:.2f}" if on_left else f"{mean:.2f}  {name}"
        gap = -0.01 * count if on_left else 0.01 * count
        axis.text(end + gap, row, text, ha="right" if on_left else "left", va="center")
    for k, (first, last) in enumerate(cliques):
        height = 0.3 + 0.28 * k
        ends = [ranks.means[first] - 0.05, ranks.means[last] + 0.05]
        axis.plot(ends, [height, height], color=theme.text, linewidth=3, solid_capstyle="butt")
    width = ranks.critical_difference
    axis.plot([1, 1 + width], [-1.5, -1.5], "|-", color=theme.bad, linewidth=1.4, markersize=8)
    text = (
        f"critical difference {width:.2f} ranks (Nemenyi, {ALPHA:g}; {ranks.data_sets} data sets)"
    )
    axis.text(1, -1.75, text, va="bottom", color=theme.bad, fontsize=8.5)
    return figure


def kid_beside_dice(theme: Theme, points: Sequence[tuple[str, float, float]]) -> Figure:
    """Draw the Dice of a training on each generator's images against their KID.

    Args:
        points: name, KID (on a logarithmic axis where it spans decades) and Dice.
    """
    figure = new_figure(3.4)
    axis = figure.subplots()
    for k, (name, kid, dice) in enumerate(points):
        axis.plot(1000 * kid, dice, _marker(k), color=_colour(theme, k), markersize=7, label=name)
    kids = [kid for _, kid, _ in points]
    if min(kids) > 0 and max(kids) > 10 * min(kids):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # powers are mathematics
        axis.xaxis.set_minor_formatter(lambda *_: "")
    axis.set_xlabel("KID x 1000, to held-out real images: lower is nearer")
    axis.set_ylabel("Dice on real test patients")
    axis.grid()
    axis.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=3)
    return figure
