"""Memory and time that a cohort's preparation takes, over how many slices it has.

    python benchmarks/preparation.py --slices 2500,10000
    python benchmarks/preparation.py --slices 2500,10000 --volumes

Draws a cohort of three uneven hospitals in a temporary folder: grey PNGs of 96x64 pixels, or
volumes of 40 such slices in Hounsfield units. A process of its own then does what a hospital does
before it trains, by the stages themselves: reads and checks the cohort, plans and preprocesses
each site's training and validation cases and writes the generator's view, and prepares the largest
site again for a general model's plan. Printed is the most memory that this process and its
children held at once (resident, summed over them every 20 ms), over the limit of 2 GiB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from hyfree_ray.cohorts.cohort import read_cohort
from hyfree_ray.config.budget import budget_values
from hyfree_ray.core.artifacts import RAW_DATA, Artifact
from hyfree_ray.core.store_root import open_root
from hyfree_ray.federation.party import Party
from hyfree_ray.federation.simulation import sites_of
from hyfree_ray.runners.local import LocalRunner
from hyfree_ray.stages.data import prepare, prepare_for_general

LIMIT_MIB = 2048
SHARES = {"large": 0.7, "middle": 0.2, "small": 0.1}
HEIGHT, WIDTH, DEPTH = 96, 64, 40
SLICES_A_PATIENT = 4
"""Of the images."""


def draw(root: Path, slices: int, *, volumes: bool) -> None:
    """A raw data set of a bright organ on a darker body, with `sites.csv`."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    ending = ".nii.gz" if volumes else ".png"
    a_case = DEPTH if volumes else 1
    lines = ["case,site,patient"]
    for site, share in SHARES.items():
        for index in range(max(5, round(slices * share / a_case))):
            name = f"{site}{index:05d}"
            _write_case(root, name, ending, a_case, seed=len(lines))
            patient = index if volumes else index // SLICES_A_PATIENT
            lines.append(f"{name},{site},{site}{patient}")
    (root / "sites.csv").write_text("\n".join(lines))
    dataset = {
        "channel_names": {"0": "CT" if volumes else "Xray"},
        "labels": {"background": 0, "organ": 1},
        "file_ending": ending,
        "name": "Preparation",
    }
    (root / "dataset.json").write_text(json.dumps(dataset))


def _write_case(root: Path, name: str, ending: str, slices: int, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows_HW, columns_HW = np.mgrid[:HEIGHT, :WIDTH]
    middle = (HEIGHT / 2 + rng.uniform(-9, 9), WIDTH / 2 + rng.uniform(-6, 6))
    label_HW = np.hypot(rows_HW - middle[0], columns_HW - middle[1]) < rng.uniform(9, 18)
    label_ZHW = np.repeat(label_HW[None], slices, axis=0).astype(np.uint8)
    pixels_ZHW = 60 + 90.0 * label_ZHW + rng.normal(0, 12, label_ZHW.shape)
    if ending == ".png":
        pixels, label = pixels_ZHW[0].clip(0, 255).astype(np.uint8), label_ZHW[0]
    else:
        pixels, label = (pixels_ZHW - 100).astype(np.int16), label_ZHW
    for path, array in (
        (root / "imagesTr" / f"{name}_0000{ending}", pixels),
        (root / "labelsTr" / f"{name}{ending}", label),
    ):
        image: Any = sitk.GetImageFromArray(array)
        if slices > 1:
            image.SetSpacing((1.0, 1.0, 5.0))
        sitk.WriteImage(image, str(path))


def work(root: Path, store: Path) -> None:
    """What a hospital does before it trains, for each of the sites."""
    asyncio.run(_work(root, store))


async def _work(root: Path, store: Path) -> None:
    caps = budget_values("paper")["plan"]
    runner = LocalRunner("cpu")
    for name, site in sites_of(read_cohort(root, digest_cache=store / "digests.json"), 0).items():
        party = Party(name, store / "sites" / name, runner, {})
        data = Artifact(stage=RAW_DATA, key=site.key, path=root)
        given = {"data": data, "cases": site.part("train", "val"), "dataset": site.dataset}
        prepared = await party.run(prepare, **given, caps=caps)
        found = prepared.result
        slices = found["training_images"] + found["validation_images"]
        print(f"  {name}: {slices} slices prepared, patch {found['patch_size']}", flush=True)
        if name == "large":
            # All that preparing for a general model reads of it is its plan.
            general = Artifact(stage="train_general", key="plan", path=_as_general(prepared.path))
            await party.run(prepare_for_general, **given, general=general, caps=caps)


def _as_general(prepared: Path) -> Path:
    folder = prepared.parent / "general"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "plans.json").write_bytes((prepared / "plans.json").read_bytes())
    return folder


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def resident_mib(pid: int) -> float:
    """Resident memory of a process and all below it; pages that they share count for each."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
    return total / 1024


def measure(slices: int, *, volumes: bool) -> tuple[float, float]:
    """Peak MiB and seconds of the preparation of a cohort of so many slices."""
    with tempfile.TemporaryDirectory() as folder:
        root, store = Path(folder) / "data", Path(folder) / "store"
        draw(root, slices, volumes=volumes)
        process = multiprocessing.get_context("spawn").Process(
            target=work, args=(root, open_root(store))
        )
        begun, peak = time.monotonic(), 0.0
        process.start()
        while process.is_alive():
            assert process.pid is not None
            peak = max(peak, resident_mib(process.pid))
            time.sleep(0.02)
        assert process.exitcode == 0, "the preparation failed"
        return peak, time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", default="2500,10000", help="One number or several, by commas.")
    parser.add_argument("--volumes", action="store_true", help=f"Volumes of {DEPTH} slices.")
    arguments = parser.parse_args()
    for slices in map(int, arguments.slices.split(",")):
        peak, seconds = measure(slices, volumes=arguments.volumes)
        print(
            f"{slices} slices: peak {peak:.0f} MiB of {LIMIT_MIB} MiB "
            f"({peak / LIMIT_MIB:.2f} of the limit), {seconds:.0f} s",
            flush=True,
        )
        if peak > LIMIT_MIB:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
