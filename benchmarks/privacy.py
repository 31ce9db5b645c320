"""What the memorisation filter stops: copies, altered in many ways, and honest images.

    python benchmarks/privacy.py [--data DIR ...] [--sides 64,256] [--folds 0,1] [--images 12]
        [--sites NAME,...] [--out found.jsonl]
    python benchmarks/privacy.py --memory 10000
    python benchmarks/privacy.py --time

Without data, of the phantom's first two hospitals; else of each site of nnU-Net raw data sets with
`sites.csv`. The filter is calibrated on a fold's training images, without an embedder. Stopped is
the share of training images, altered, that it rejects: pasted into and blended with images of
patients who were held out (of the first fold). False alarms are held-out images, by patient, pooled
over folds.

Alterations below the line were not looked at while the filter was built. A line of `--out` is a
site, side and fold; what stands there is not computed again.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates, median_filter

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.cohorts.phantom import draw_phantom_site
from hyfree_ray.federation.hospital import Site
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.generators.view import GeneratorView, RawSlice, write_view
from hyfree_ray.privacy.alterations import (
    Alter,
    bent,
    blended,
    cropped,
    cut_out,
    jpeg,
    noisy,
    posed,
    relit,
    shifted,
    turned_by_90,
    with_half,
    with_middle,
)
from hyfree_ray.privacy.detectors import Registration
from hyfree_ray.privacy.memorization import MemorisationFilter
from hyfree_ray.privacy.sampling import quantise, restore
from hyfree_ray.segmenters.nnunet.reading import cut_slices, read_image

PHANTOM_SITES = (1, 2)

EIGHTH = 1 / 8


def _off_centre(images: np.ndarray, share: float) -> np.ndarray:
    """Crop at a corner."""
    return shifted(cropped(images, share), -share / 2, share / 2)


def _turned_back(images: np.ndarray) -> np.ndarray:
    """Turn by 90 degrees in proportion: what does not fit is cropped, and edges are repeated."""
    height, width = images.shape[2:]
    side = max(height, width)
    room = ((side - height) // 2, (side - width) // 2)
    ends = (side - height - room[0], side - width - room[1])
    square = np.pad(images, ((0, 0), (0, 0), (room[0], ends[0]), (room[1], ends[1])), mode="edge")
    turned = np.rot90(square, 1, (2, 3))
    rows, columns = slice(room[0], room[0] + height), slice(room[1], room[1] + width)
    return np.ascontiguousarray(turned[..., rows, columns])


PROMISED: Mapping[str, Alter] = {
    "none": lambda x, o, r: x,
    "mirrored": lambda x, o, r: x[..., ::-1],
    "upside down": lambda x, o, r: x[..., ::-1, :],
    "turned by 90 degrees": lambda x, o, r: turned_by_90(x),
    "turned by 90 degrees, in proportion": lambda x, o, r: _turned_back(x),
    "turned by 5 degrees": lambda x, o, r: posed(x, degrees=5),
    "turned by 10 degrees": lambda x, o, r: posed(x, degrees=-10),
    "cropped by a tenth": lambda x, o, r: cropped(x, 0.1),
    "cropped by a fifth": lambda x, o, r: cropped(x, 0.2),
    "cropped by a fifth at a corner": lambda x, o, r: _off_centre(x, 0.2),
    "scaled to 90 %": lambda x, o, r: posed(x, zoom=0.9),
    "scaled to 110 %": lambda x, o, r: posed(x, zoom=1.1),
    "shifted by a thirteenth": lambda x, o, r: shifted(x, -1 / 13, 1 / 13),
    "shifted by an eighth": lambda x, o, r: shifted(x, EIGHTH, -EIGHTH),
    "elastic, 2": lambda x, o, r: bent(x, 2, r),
    "elastic, 4": lambda x, o, r: bent(x, 4, r),
    "gamma 2": lambda x, o, r: relit(x, 2),
    "inverted": lambda x, o, r: -x,
    "noise of 5 %": lambda x, o, r: noisy(x, 0.05, r),
    "half on another": lambda x, o, r: with_half(x, o),
    "middle on another": lambda x, o, r: with_middle(x, o),
    "a quarter cut out": lambda x, o, r: cut_out(x, r),
    "blended 60:40": lambda x, o, r: blended(x, o, 0.6),
    "turned by 5, cropped by a tenth": lambda x, o, r: cropped(posed(x, degrees=5), 0.1),
    "turned by 10, cropped by a fifth": lambda x, o, r: cropped(posed(x, degrees=10), 0.2),
    "shifted by an eighth, turned by 10": lambda x, o, r: posed(
        shifted(x, -EIGHTH, EIGHTH), degrees=-10
    ),
    "elastic 2, cropped by a tenth": lambda x, o, r: cropped(bent(x, 2, r), 0.1),
    "cropped by a fifth, noise": lambda x, o, r: noisy(cropped(x, 0.2), 0.05, r),
    "shifted by an eighth, gamma 2": lambda x, o, r: relit(shifted(x, EIGHTH, EIGHTH), 2),
    "inverted, cropped by a tenth": lambda x, o, r: -cropped(x, 0.1),
}
"""What at least 95 % are to be stopped of."""


def _swirled(images: np.ndarray) -> np.ndarray:
    """Turn by 40 degrees at the centre and by nothing at the edge."""
    height, width = images.shape[2:]
    rows, columns = np.mgrid[:height, :width]
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    turn = np.deg2rad(40) * np.clip(1 - np.hypot(y / height, x / width) * 2, 0, 1)
    places = (
        np.cos(turn) * y - np.sin(turn) * x + (height - 1) / 2,
        np.sin(turn) * y + np.cos(turn) * x + (width - 1) / 2,
    )
    return _each_channel(images, lambda one: map_coordinates(one, places, order=1, mode="nearest"))


def _in_perspective(images: np.ndarray) -> np.ndarray:
    """Narrow the upper edge to four fifths."""
    height, width = images.shape[2:]
    rows, columns = np.mgrid[:height, :width].astype(float)
    scale = 1 + 0.25 * (1 - rows / (height - 1))
    places = (rows, (columns - (width - 1) / 2) * scale + (width - 1) / 2)
    return _each_channel(images, lambda one: map_coordinates(one, places, order=1, mode="nearest"))


def _each_channel(images: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.stack([[change(channel) for channel in image] for image in images])


def _exchanged(images: np.ndarray) -> np.ndarray:
    """Exchange the quarters crosswise."""
    height, width = images.shape[2:]
    return np.roll(images, (height // 2, width // 2), (2, 3))


def _shaded(images: np.ndarray) -> np.ndarray:
    """Darken towards the right."""
    return (images + 1) * np.linspace(1, 0.2, images.shape[3]) - 1


def _checkered(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Take every other sixteenth of the picture from another patient."""
    height, width = images.shape[2:]
    rows, columns = np.mgrid[:height, :width]
    mine = (rows * 4 // height + columns * 4 // width) % 2 == 0
    return np.where(mine, images, others)


def _pixelated(images: np.ndarray) -> np.ndarray:
    """Show every other pixel of a 64th of the side, twice as large."""
    step = 2 * max(1, max(images.shape[2:]) // 64)
    coarse = images[..., ::step, ::step].repeat(step, axis=2).repeat(step, axis=3)
    return coarse[..., : images.shape[2], : images.shape[3]]


UNSEEN: Mapping[str, Alter] = {
    "sheared by a fifth": lambda x, o, r: posed(x, shear=0.2),
    "turned by 20 degrees": lambda x, o, r: posed(x, degrees=20),
    "cropped by a third": lambda x, o, r: cropped(x, 1 / 3),
    "shifted by a fifth": lambda x, o, r: shifted(x, 0.2, 0.2),
    "in perspective": lambda x, o, r: _in_perspective(x),
    "swirled by 40 degrees": lambda x, o, r: _swirled(x),
    "blurred": lambda x, o, r: gaussian_filter(x, (0, 0, *[max(x.shape[2:]) / 50] * 2)),
    "sharpened": lambda x, o, r: x + 2 * (x - gaussian_filter(x, (0, 0, 1, 1))),
    "median of 3 x 3": lambda x, o, r: median_filter(x, (1, 1, 3, 3)),
    "pixelated": lambda x, o, r: _pixelated(x),
    "8 grey levels": lambda x, o, r: np.round(x * 3.5) / 3.5,
    "JPEG quality 50": lambda x, o, r: jpeg(x),
    "salt and pepper, 10 %": lambda x, o, r: np.where(
        r.random(x.shape) < 0.1, r.choice((-1.0, 1.0), x.shape), x
    ),
    "noise of 15 %": lambda x, o, r: noisy(x, 0.15, r),
    "shaded": lambda x, o, r: _shaded(x),
    "gamma 4": lambda x, o, r: relit(x, 4),
    "quarters exchanged": lambda x, o, r: _exchanged(x),
    "every other square from another": lambda x, o, r: _checkered(x, o),
    "blended 50:50": lambda x, o, r: blended(x, o, 0.5),
    "blended 40:60": lambda x, o, r: blended(x, o, 0.4),
    "elastic, 6": lambda x, o, r: bent(x, 6, r),
    "mirrored, turned by 10, cropped by a fifth, gamma 2": lambda x, o, r: relit(
        cropped(posed(x[..., ::-1], degrees=10), 0.2), 2
    ),
    "half on another, turned by 10": lambda x, o, r: posed(with_half(x, o), degrees=10),
}
"""What nothing is promised of."""


def sites(folders: list[Path], fold: int, scratch: Path) -> Iterator[Site]:
    """The sites of the data sets, or the phantom's."""
    for index in () if folders else PHANTOM_SITES:
        drawn = scratch / f"phantom-{index}"
        if not drawn.is_dir():
            draw_phantom_site(index, 0, drawn)
        yield from sites_of(read_cohort(drawn), fold).values()
    for folder in folders:
        yield from sites_of(read_cohort(folder), fold).values()


def view_of(site: Site, side: int, scratch: Path) -> GeneratorView:
    """A site's images, the median of their longer sides scaled to `side` pixels."""
    assert site.folder is not None
    slices, sizes = [], []
    for case in site.cases:
        image, spacing = read_image([site.folder / name for name in case["images"]], site.dataset)
        cut, in_plane = cut_slices(image, spacing, case.get("slice_axis", 0))
        sizes += [np.array(one.shape[1:]) * in_plane for one in cut]
        slices += [
            RawSlice(
                image_CHW=one,
                spacing=in_plane,
                patient=case["patient"],
                training=case["part"] == "train",
            )
            for one in cut
        ]
    size = np.median(sizes, axis=0)
    target = float(size.max() / side)
    height, width = (int(round(length / target / 4) * 4) for length in size)
    path = scratch / "view.npz"
    write_view(path, slices, patch=(height, width), target_spacing=(target,) * 2, site=site.name)
    return GeneratorView.load(path)


def measure(view: GeneratorView, images: int) -> dict[str, Any]:
    """Calibrate the filter, and count what it stops of copies and of held-out images."""
    real, patients = view.images_NCHW[view.training_N], view.patients_N[view.training_N]
    held_out, strangers = view.images_NCHW[~view.training_N], view.patients_N[~view.training_N]
    rule = MemorisationFilter.calibrate(real, patients, [Registration()], percentile=5)
    alarms = rule.judge(restore(quantise(held_out))).copied_N
    rng, altered = np.random.default_rng(0), []
    alterations = PROMISED | UNSEEN if images else {}
    for alter in alterations.values():
        copied = real[rng.permutation(len(real))[:images]]
        others = held_out[rng.integers(len(held_out), size=len(copied))]
        altered.append(np.clip(alter(copied, others, rng), -1, 1).astype(np.float32))
    stopped: dict[str, list[bool]] = {}
    if altered:
        judged = rule.judge(restore(quantise(np.concatenate(altered)))).copied_N
        parts = judged.reshape(len(alterations), -1).tolist()
        stopped = dict(zip(alterations, parts, strict=True))
    return {
        "shape": list(real.shape),
        "patients": len(np.unique(patients)),
        "alarms": [float(alarms[strangers == one].mean()) for one in np.unique(strangers)],
        "stopped": stopped,
    }


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines: an alteration each, with what is stopped of it by site and side."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        column = f"{row['site']}, {row['side']}"
        found["false alarms"][column] += row["alarms"]
        for name, stopped in row["stopped"].items():
            found[name][column] += stopped
    columns = list(found["false alarms"])
    yield " | ".join(("", "alteration", *columns, ""))
    yield "|---" * (len(columns) + 1) + "|"
    for name in ("false alarms", *PROMISED, *UNSEEN):
        if name == next(iter(UNSEEN)):
            yield "| *not looked at while it was built* |"
        shares = (100 * np.mean(found[name][column]) for column in columns)
        yield " | ".join(("", name, *(f"{share:.0f} %" for share in shares), "")).strip()


def memory(count: int) -> str:
    """Peak memory of a filter of so many slices, beyond what the images and libraries take."""
    rng = np.random.default_rng(0)
    real = np.clip(gaussian_filter(rng.normal(size=(count, 1, 64, 64)), (0, 0, 2, 2)) * 5, -1, 1)
    real = real.astype(np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Registration().fit(real, np.arange(count)).nearest(real[:16])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (found.index_ND[:, 0] == np.arange(16)).all()
    return (
        f"{count} slices of 64 x 64: {after / 2**20:.2f} GiB at most, "
        f"{before / 2**20:.2f} GiB of them before the filter was made"
    )


def seconds() -> str:
    """CPU time for 300 samples of 100 images."""
    rng = np.random.default_rng(0)
    images = np.clip(gaussian_filter(rng.normal(size=(400, 1, 56, 64)), (0, 0, 2, 2)) * 5, -1, 1)
    images = images.astype(np.float32)
    started = time.process_time()
    rule = MemorisationFilter.calibrate(
        images[:100], np.arange(100) // 2, [Registration()], percentile=5
    )
    calibrated = time.process_time()
    rule.judge(images[100:])
    judged = time.process_time()
    return f"calibrated in {calibrated - started:.1f} s, judged in {judged - calibrated:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--sides", default="64,256")
    parser.add_argument("--folds", default="0,1")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--sites")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", type=int)
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory or options.time:
        print(memory(options.memory) if options.memory else seconds())
        return
    rows: list[dict[str, Any]] = []
    if options.out and options.out.is_file():
        rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    done = {(row["site"], row["side"], row["fold"]) for row in rows}
    with tempfile.TemporaryDirectory() as scratch:
        for side in map(int, options.sides.split(",")):
            folds = [int(fold) for fold in options.folds.split(",")]
            for fold in folds:
                for site in sites(options.data, fold, Path(scratch)):
                    wanted = options.sites is None or site.name in options.sites.split(",")
                    if not wanted or (site.name, side, fold) in done:
                        continue
                    images = options.images if fold == folds[0] else 0
                    found = measure(view_of(site, side, Path(scratch)), images)
                    rows.append({"site": site.name, "side": side, "fold": fold, **found})
                    if options.out:
                        with options.out.open("a") as lines:
                            lines.write(json.dumps(rows[-1]) + "\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
