"""What the memorisation filter does to honest images and to planted copies, at sites of any size.

    python benchmarks/filter.py STORE [--patients 9,16,20,36] [--draws 60] [--site NAME]

For each site of the runs in a store, by the networks and images that are there: of all its images
those of so many patients are taken for training ones, again and again, the filter is calibrated on
them, and the share of the other patients' images that it rejects is counted, which is to be 5 %.
Then its training images, as they were, are handed in altered: recall by detector and of all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy.detectors import Correlation, Detector, Features, Measure, Structure
from hyfree_ray.privacy.embedders import load_embedder
from hyfree_ray.privacy.memorization import MemorisationFilter, shared_thresholds
from hyfree_ray.privacy.self_test import self_test

SHARE = 0.05


def sites(store: Path, name: str | None) -> Iterator[tuple[str, GeneratorView, list[Measure]]]:
    """Each site's newest images with the detectors' measures."""
    newest = {}
    records = store.glob("**/stages/synthesise-*/record.json")
    for file in sorted(records, key=lambda file: file.stat().st_mtime):
        record = json.loads(file.read_text())
        if name in {None, record["owner"]}:
            newest[record["owner"]] = file.parents[1], record["inputs"]
    for owner, (stages, inputs) in sorted(newest.items()):
        (prepared,) = stages.glob(f"prepare-{inputs['prepared'][:20]}")
        (model,) = stages.glob(f"train_segmenter-{inputs['segmenter'][:20]}/model")
        view = GeneratorView.load(prepared / "view.npz")
        yield owner, view, measures_of(view, model)


def measures_of(view: GeneratorView, model: Path) -> list[Measure]:
    """As `synthesise` has them."""
    embed = load_embedder("nnunet", model=model, weights=None, view=view, device="cpu")
    return [Features(embed=embed), Correlation(), Structure()]


def rejected(
    distances_DNN: np.ndarray, patients_N: np.ndarray, patients: int, draws: int
) -> np.ndarray:
    """Share of the other patients' images that is rejected, by draw."""
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        mine_N = np.isin(patients_N, rng.permutation(np.unique(patients_N))[:patients])
        known_DMM = distances_DNN[:, mine_N][:, :, mine_N]
        same_MM = patients_N[mine_N][:, None] == patients_N[mine_N]
        nearest_DM = np.where(same_MM, np.inf, known_DMM).min(axis=2)
        thresholds_D = shared_thresholds(nearest_DM, patients_N[mine_N], SHARE)
        new_DN = distances_DNN[:, ~mine_N][:, :, mine_N].min(axis=2)
        found.append((new_DN < thresholds_D[:, None]).any(axis=0).mean())
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--site")
    parser.add_argument("--patients", default="9,16,20,36")
    parser.add_argument("--draws", type=int, default=60)
    options = parser.parse_args()
    for owner, view, measures in sites(options.store, options.site):
        images_NCHW, patients_N = view.images_NCHW, view.patients_N
        total = len(np.unique(patients_N))
        print(f"{owner}: {len(images_NCHW)} images of {total} patients")
        distances_DNN = np.stack(
            [Detector.fit(one, images_NCHW).distances(images_NCHW) for one in measures]
        )
        for patients in (int(number) for number in options.patients.split(",")):
            if patients < 0.8 * total:
                shares = rejected(distances_DNN, patients_N, patients, options.draws)
                print(
                    f"  {patients} training patients: {shares.mean():.1%} of new patients' images "
                    f"are rejected, {np.percentile(shares, 90):.1%} in a tenth of the draws",
                    flush=True,
                )
        real_NCHW, whose_N = images_NCHW[view.training_N], patients_N[view.training_N]
        rule = MemorisationFilter.calibrate(real_NCHW, whose_N, measures, percentile=100 * SHARE)
        for alteration, recall in self_test(rule, real_NCHW, seed=0).items():
            told = ", ".join(f"{detector} {share:.1%}" for detector, share in recall.items())
            print(f"  {alteration}: {told}", flush=True)


if __name__ == "__main__":
    main()
