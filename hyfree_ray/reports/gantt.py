"""The figure of a run's stages over time."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hyfree_ray.reports.figures import Theme, new_figure, shorten
from hyfree_ray.results.timeline import Event

_KINDS = (
    (
        "generator",
        ("train_generator", "choose_snapshot", "overtrain_generator", "training_samples"),
    ),
    (
        "release",
        (
            "synthesise",
            "pixel_correlation",
            "audit_labels",
            "audit",
            "label",
            "quality_card",
            "release",
            "check_release",
        ),
    ),
    ("plans and data", ("prepare", "pool_releases", "draw_phantom")),
    ("scoring", ("score",)),
)
_KIND_COLOURS = ("#cc79a7", "#e69f00", "#9aa5b1", "#56b4e9")


def kind_of(name: str) -> str:
    """Return what a stage is for: all that is nothing else trains a segmenter."""
    for kind, starts in _KINDS:
        if name.startswith(starts):
            return kind
    return "nnU-Net"


def gantt(theme: Theme, events: Sequence[Event], path: Sequence[Event]) -> Figure:
    """Draw stages over time, a band a party; the critical path is framed."""
    colours = {"nnU-Net": "#0072b2"} | dict(
        zip((kind for kind, _ in _KINDS), _KIND_COLOURS, strict=True)
    )
    parties = list(dict.fromkeys(event.party for event in sorted(events, key=_by_party)))
    begun = min(event.start for event in events)
    lanes: list[tuple[str, float]] = []
    placed: list[tuple[Event, int]] = []
    for party in parties:
        first = len(lanes)
        for event in (e for e in events if e.party == party):
            free = (k for k in range(first, len(lanes)) if lanes[k][1] <= event.start)
            lane = next(free, len(lanes))
            lanes[lane : lane + 1] = [(party, event.end)]
            placed.append((event, lane))
    figure = new_figure(0.9 + 0.2 * len(lanes))
    axis = figure.subplots()
    for event, lane in placed:
        critical = event in path
        axis.barh(
            lane,
            event.seconds / 60,
            left=(event.start - begun) / 60,
            height=0.8,
            color=colours[kind_of(event.name)],
            edgecolor=theme.text if critical else "none",
            linewidth=1.6 if critical else 0.0,
        )
    owners = [owner for owner, _ in lanes]
    axis.set_yticks(
        [owners.index(party) for party in parties], [shorten(party) for party in parties]
    )
    for party in parties[1:]:
        axis.axhline(owners.index(party) - 0.5, color=theme.faint, linewidth=0.5)
    axis.set_ylim(len(lanes) - 0.4, -0.6)
    axis.set_xlabel("minutes")
    handles = [Patch(facecolor=colour, label=kind) for kind, colour in colours.items()]
    handles.append(Patch(facecolor="none", edgecolor=theme.text, label="critical path"))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    return figure


def _by_party(event: Event) -> tuple[bool, str]:
    return (event.party in {"pool", "oracle"}, event.party)
