"""Pictures to look at: images with the outlines of their labels, and pairs of images.

Shapes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hyfree_ray.core.files import replacing

MAX_IMAGES = 24
_INCHES_ACROSS = 11.0
_DPI = 110
_PERCENTILES = (0.5, 99.5)
# Okabe and Ito's palette without black: apart for colour-blind eyes too, and visible on grey.
_COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#0072b2")

_Images = npt.NDArray[Any]


def contact_sheet(
    path: Path,
    images_NCHW: _Images,
    labels_NHW: npt.NDArray[np.uint8] | None,
    title: str,
    columns: int = 8,
    label_names: dict[str, int] | None = None,
    marks: Mapping[str, str] | None = None,
) -> None:
    """Write a PNG of the first images, at most `MAX_IMAGES`, with their labels' outlines.

    Args:
        path: the PNG to write.
        images_NCHW: any number of channels: one is shown grey, three as RGB, of any other number
            the first, which the title then says. Integers and floats alike: what is shown lies
            between two percentiles, one window a channel for all images.
        labels_NHW: label values, 0 is background; None for no outlines.
        title: one line.
        columns: images side by side.
        label_names: names to values, for the legend.
        marks: text fields of the file, as that its images are synthetic.
    """
    images_NCHW = images_NCHW[:MAX_IMAGES]
    shown_NHWC, note = _displayed(images_NCHW, [images_NCHW])
    columns = max(1, min(columns, len(shown_NHWC)))
    rows = math.ceil(len(shown_NHWC) / columns)
    figure, axes = _grid(rows, columns, shown_NHWC.shape[1:3], f"{title}{note}")
    for k, axis in enumerate(axes):
        axis.axis("off")
        if k < len(shown_NHWC):
            _show(axis, shown_NHWC[k])
            if labels_NHW is not None:
                _outline(axis, labels_NHW[k])
    if labels_NHW is not None and label_names is not None:
        _legend(figure, label_names)
    _save(figure, path, marks)


def strip(path: Path, images_NCHW: _Images) -> None:
    """Write images side by side as a PNG without any text, one pixel a pixel.

    Args:
        path: the PNG to write.
        images_NCHW: in [-1, 1]; three channels are shown as RGB, of any other number the first.
    """
    from PIL import Image

    kept = 3 if images_NCHW.shape[1] == 3 else 1
    shown_NHWC = np.moveaxis(np.clip((images_NCHW[:, :kept] + 1) / 2, 0, 1), 1, -1)
    framed_NHWC = np.pad(shown_NHWC, ((0, 0), (0, 0), (0, 2), (0, 0)), constant_values=1.0)
    row_HWC = (np.concatenate(list(framed_NHWC), axis=1)[:, :-2] * 255).round().astype(np.uint8)
    with replacing(path) as file:
        Image.fromarray(row_HWC[..., 0] if kept == 1 else row_HWC).save(file, format="png")


def real_beside_synthetic(
    path: Path,
    real: tuple[_Images, npt.NDArray[np.uint8]],
    synthetic: tuple[_Images, npt.NDArray[np.uint8]],
    label_names: dict[str, int],
    columns: int = 5,
    rows: int = 4,
) -> None:
    """Write a PNG of real images on the left and synthetic ones on the right, with their labels.

    Each channel of an image has a row of its own, three channels of a photograph excepted, and all
    are shown in the real ones' window. It shows real images: it stays at the site.

    Args:
        path: the PNG to write.
        real: images_NCHW and labels_NHW; of each, some that lie evenly over all are shown.
        synthetic: the same of the synthetic ones.
        label_names: names to values, for the legend.
        columns: images side by side, of either kind.
        rows: of images, where an image has one row.
    """
    channels = real[0].shape[1]
    bands = 1 if channels in (1, 3) else channels
    rows = max(1, rows // bands)
    sides = [_evenly(one, rows * columns) for one in (real, synthetic)]
    size = sides[0][0].shape[2:]
    title = "Real images (left) and synthetic ones (right), with their labels"
    figure, axes = _grid(rows * bands, 2 * columns, size, title)
    for axis in axes:
        axis.axis("off")
    for side, (images_NCHW, labels_NHW) in enumerate(sides):
        for band in range(bands):
            chosen = slice(None) if bands == 1 else slice(band, band + 1)
            shown_NHWC, _ = _displayed(images_NCHW[:, chosen], [sides[0][0][:, chosen]])
            for k, (image_HWC, label_HW) in enumerate(zip(shown_NHWC, labels_NHW, strict=True)):
                down, right = divmod(k, columns)
                axis = axes[(down * bands + band) * 2 * columns + side * columns + right]
                _show(axis, image_HWC)
                _outline(axis, label_HW)
    _legend(figure, label_names)
    _save(figure, path)


def _evenly(
    labelled: tuple[_Images, npt.NDArray[np.uint8]], count: int
) -> tuple[_Images, npt.NDArray[np.uint8]]:
    images_NCHW, labels_NHW = labelled
    chosen_N = np.linspace(0, len(images_NCHW) - 1, min(count, len(images_NCHW))).astype(int)
    return images_NCHW[chosen_N], labels_NHW[chosen_N]


def nearest_pairs(
    path: Path,
    synthetic_NCHW: _Images,
    real_NCHW: _Images,
    distances: Sequence[float] | npt.NDArray[Any],
) -> None:
    """Write a PNG of synthetic images above the real images nearest to them.

    It shows real images: it stays at the site.

    Args:
        distances: of each pair, over the filter's threshold; written under it.
    """
    both = [synthetic_NCHW[:MAX_IMAGES], real_NCHW[:MAX_IMAGES]]
    upper_NHWC, note = _displayed(both[0], both)
    lower_NHWC, _ = _displayed(both[1], both)
    columns = max(1, len(upper_NHWC))
    title = f"Synthetic images (above) and the nearest real images (below){note}"
    figure, axes = _grid(2, columns, upper_NHWC.shape[1:3], title)
    for k in range(len(upper_NHWC)):
        _show(axes[k], upper_NHWC[k])
        _show(axes[columns + k], lower_NHWC[k])
        axes[columns + k].set_xlabel(f"{float(distances[k]):.3g}", fontsize=8)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    _save(figure, path)


def distance_histogram(
    path: Path,
    released_N: npt.NDArray[Any],
    held_out_M: npt.NDArray[Any],
    threshold: float,
) -> None:
    """Write a PNG of distances to the nearest training image: released and held-out images.

    Where nothing is memorised the two lie alike. Distances tell membership: it stays at the site.

    Args:
        released_N: of the synthetic images, in features.
        held_out_M: of real images of other patients; may be empty.
        threshold: the paper's, below which an image counts as memorised.
    """
    figure = Figure(figsize=(7.0, 3.2), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    both = np.concatenate([released_N, held_out_M, [threshold]])
    edges = np.linspace(both.min(), both.max() + 1e-9, 41).tolist()
    shown = (
        (released_N, _COLOURS[0], f"{len(released_N)} synthetic images"),
        (held_out_M, _COLOURS[1], f"{len(held_out_M)} held-out real images"),
    )
    for values, colour, label in shown:
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            axis.hist(values, edges, weights=weights, color=colour, alpha=0.6, label=label)
    axis.axvline(threshold, color="black", linewidth=1.0, label="the paper's threshold")
    axis.set_xlabel("distance to the nearest training image, in features")
    axis.set_ylabel("share of the images")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    _save(figure, path)


def correlation_scatter(
    path: Path,
    samples: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    real: tuple[npt.NDArray[Any], npt.NDArray[Any]],
) -> None:
    """Write a PNG of highest correlations with a training image: full grid and foreground.

    A point is an image; copies lie above and to the right of all real ones. It stays at the site.

    Args:
        path: the PNG to write.
        samples: of synthetic images, on the full grid and inside the foreground.
        real: the same of training images, with images of other patients.
    """
    figure = Figure(figsize=(5.6, 5.2), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    shown = (
        (real, _COLOURS[1], "o", "real, with other patients' images"),
        (samples, _COLOURS[0], "x", "synthetic, with training images"),
    )
    for (full_N, foreground_N), colour, marker, label in shown:
        axis.scatter(
            full_N,
            foreground_N,
            s=14,
            c=colour,
            marker=marker,
            linewidths=0.8,
            alpha=0.7,
            label=f"{len(full_N)} {label}",
        )
    axis.set_xlabel("highest correlation, full grid")
    axis.set_ylabel("highest correlation, inside the foreground")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside upper center")
    _save(figure, path)


def _displayed(images_NCHW: _Images, window_of: Sequence[_Images]) -> tuple[_Images, str]:
    """Return images as NHWC in [0, 1], of one or three channels, and a note for the title.

    The window is taken from all images of `window_of`, so that what is compared is comparable;
    percentiles, because one hot pixel would turn everything else black.
    """
    channels = images_NCHW.shape[1]
    kept = 3 if channels == 3 else 1
    values_CK = np.concatenate(
        [np.moveaxis(images[:, :kept], 1, 0).reshape(kept, -1) for images in window_of], axis=1
    )
    low_C, high_C = np.percentile(values_CK, _PERCENTILES, axis=1)
    if channels == 3:
        low_C, high_C = low_C.min(keepdims=True), high_C.max(keepdims=True)  # keeps the hue
    width_C = np.maximum(high_C - low_C, np.finfo(np.float32).tiny)
    shown_NCHW = (images_NCHW[:, :kept] - low_C[:, None, None]) / width_C[:, None, None]
    note = "" if channels in (1, 3) else f" (channel 1 of {channels})"
    return np.moveaxis(np.clip(shown_NCHW, 0.0, 1.0), 1, -1), note


def _grid(rows: int, columns: int, size: tuple[int, int], title: str) -> tuple[Figure, list[Any]]:
    """Make a figure of cells that have the images' own proportions."""
    height, width = size
    across = min(_INCHES_ACROSS, 1.6 * columns)
    cell = across / columns
    down = max(1, rows) * (cell * height / width + 0.06)
    figure = Figure(figsize=(max(across, 5.0), down + 0.75), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    # parse_math off: a name with dollars in it is a name.
    figure.suptitle(title, fontsize=10, parse_math=False, wrap=True)
    axes = figure.subplots(max(1, rows), columns, squeeze=False)
    return figure, list(axes.ravel())


def _show(axis: Any, image_HWC: _Images) -> None:
    grey = image_HWC.shape[-1] == 1
    axis.imshow(
        image_HWC[..., 0] if grey else image_HWC,
        cmap="gray",
        vmin=0.0,
        vmax=1.0,
        interpolation="nearest",
    )


def _outline(axis: Any, label_HW: npt.NDArray[np.uint8]) -> None:
    # A background all around, so that outlines close at the image's border.
    padded_HW = np.pad(label_HW, 1)
    down, right = (np.arange(-1, n + 1) for n in label_HW.shape)
    for value in np.unique(label_HW[label_HW > 0]):
        axis.contour(
            right,
            down,
            (padded_HW == value).astype(np.float32),
            levels=[0.5],
            colors=[_COLOURS[(int(value) - 1) % len(_COLOURS)]],
            linewidths=1.0,
        )
    axis.set_xlim(-0.5, label_HW.shape[1] - 0.5)
    axis.set_ylim(label_HW.shape[0] - 0.5, -0.5)


def _legend(figure: Figure, label_names: dict[str, int]) -> None:
    from matplotlib.lines import Line2D

    named = sorted((value, name) for name, value in label_names.items() if value > 0)
    handles = [
        Line2D([], [], color=_COLOURS[(value - 1) % len(_COLOURS)], label=name)
        for value, name in named
    ]
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=8
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _save(figure: Figure, path: Path, marks: Mapping[str, str] | None = None) -> None:
    # Without the program's version in it, equal pictures have equal bytes.
    with replacing(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None, **(marks or {})})
