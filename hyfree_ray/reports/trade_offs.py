"""Figures of what is paid for Dice, in bytes, hours and leakage, and of how trainings went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from hyfree_ray.reports.figures import Theme, new_figure, shorten
from hyfree_ray.results.curves import LearningCurve


@dataclass(frozen=True, kw_only=True)
class Paid:
    """Dice and its price: of a regime, or of a hospital's release."""

    name: str
    price: float
    own: float | None
    elsewhere: float | None


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """A panel: Dice against one price."""

    price: str
    """What it is, with its unit."""
    value: str
    """What the Dice is."""
    points: tuple[Paid, ...]


def frontier(theme: Theme, panels: Sequence[TradeOff]) -> Figure:
    """Draw Dice against its prices, a panel each; what nothing beats at its price is joined."""
    figure = new_figure(3.6)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for tested, colour, marker in (("own", theme.own, "o"), ("elsewhere", theme.foreign, "s")):
            found = [(one.price, getattr(one, tested), one.name) for one in panel.points]
            known = sorted((price, dice, name) for price, dice, name in found if dice is not None)
            axis.plot(
                [price for price, _, _ in known],
                [dice for _, dice, _ in known],
                marker,
                color=colour,
                markersize=5,
                label=f"{tested} test patients",
            )
            best = undominated([(price, dice) for price, dice, _ in known])
            axis.plot(
                [price for price, _ in best],
                [dice for _, dice in best],
                color=colour,
                linewidth=1.1,
                drawstyle="steps-post",
            )
            if tested == "elsewhere":
                for price, dice, name in known:
                    axis.annotate(
                        shorten(name),
                        (price, dice),
                        textcoords="offset points",
                        xytext=(4, 4),
                        fontsize=7,
                    )
        axis.set_xlabel(panel.price)
        axis.set_ylabel(panel.value)
        axis.margins(x=0.18, y=0.15)
        axis.grid()
        axis.set_axisbelow(True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (price, value) that no other beats at its price or less, by price."""
    best: list[tuple[float, float]] = []
    for price, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or value > best[-1][1]:
            best.append((price, value))
    return best


def learning_curves(theme: Theme, panels: Sequence[tuple[str, Sequence[LearningCurve]]]) -> Figure:
    """Draw how trainings went, a panel a kind, a line a party.

    Args:
        panels: what was trained, and its curves.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(rows * 2.5 + 0.4)
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    colours = (theme.own, theme.foreign, theme.good, theme.bad, theme.text)
    owners = list(dict.fromkeys(one.owner for _, curves in panels for one in curves))
    styles = ("-", "--", ":")
    for axis, (title, curves) in zip(axes.ravel(), panels, strict=False):
        for one in curves:
            which = owners.index(one.owner)
            axis.plot(
                [100 * share for share, _ in one.points],
                [value for _, value in one.points],
                styles[which // len(colours) % len(styles)],
                color=colours[which % len(colours)],
                linewidth=1.2,
                label=shorten(one.owner),
            )
        axis.set_title(title)
        axis.set_ylabel(curves[0].metric.replace("_", " "))
        axis.set_xlabel("% of its training")
        axis.tick_params(labelbottom=True)
        axis.grid(axis="y")
        axis.set_axisbelow(True)
        axis.legend(fontsize=7, ncols=2)
    for axis in axes.ravel()[len(panels) :]:
        axis.set_visible(False)
    return figure
