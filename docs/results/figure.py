"""Draw docs/figures/findings.png from the scores in this folder: what replay gains.

python docs/results/figure.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from tables import COHORTS, contrasts, folds_of

mpl.use("agg")
from matplotlib import pyplot as plt

OUT = Path(__file__).resolve().parents[1] / "figures" / "findings.png"
PARTS = (("own", "own patients", "#7a5b0e"), ("foreign", "other hospitals' patients", "#1c5a53"))


def main() -> None:
    """Draw one line a data set and seed: difference and simultaneous interval."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    labels = []
    for name, words in COHORTS:
        for seed in range(3):
            if not (folds := folds_of(name, seed)):
                continue
            found = contrasts((f"{name}-seed{seed}-fold{k}" for k in folds), ("personalised",))
            for ax, (tested, _, colour) in zip(axes, PARTS, strict=True):
                (one,) = (one for one in found if one.tested == tested)
                row = len(labels)
                ax.plot([one.low, one.high], [row, row], color=colour, linewidth=2)
                ax.plot(one.difference, row, "o", color=colour)
            labels.append(f"{words}, seed {seed}")
    for ax, (_, title, _) in zip(axes, PARTS, strict=True):
        ax.axvline(0, color="0.4", linewidth=0.8)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("Dice, personalised minus local2x")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].invert_yaxis()
    OUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUT, dpi=150)


if __name__ == "__main__":
    main()
