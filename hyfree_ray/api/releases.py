"""Releases, as arrays and as a data set of PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hyfree_ray.border.gate import card_of
from hyfree_ray.border.opening import open_release
from hyfree_ray.border.privacy_card import PrivacyCard
from hyfree_ray.border.release import Release, ReleaseMetadata
from hyfree_ray.border.release_arrow import Pixels
from hyfree_ray.federation.trust import read_public_key

if TYPE_CHECKING:
    from hyfree_ray.api.datasets import ReleaseDataset


class LoadedRelease:
    """The synthetic images and labels that a site has released. N images, C channels, H, W.

    Args:
        release: it has passed every check.
        card: its privacy card.
    """

    def __init__(self, release: Release, card: PrivacyCard) -> None:
        self._release = release
        self.card = card

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"<release of {self.metadata.site!a}: {len(self)} images>"

    @property
    def images(self) -> Pixels:
        """The stored pixels, (N, C, H, W), uint8 or uint16."""
        return self._release.images_NCHW

    @property
    def labels(self) -> npt.NDArray[np.uint8]:
        """The masks, (N, H, W): values of `metadata.label_names`."""
        return self._release.labels_NHW

    @property
    def metadata(self) -> ReleaseMetadata:
        """Site, names of channels and labels, spacing, and the map to physical units."""
        return self._release.metadata

    def physical(self) -> npt.NDArray[np.float32]:
        """Return the images in the site's own units, (N, C, H, W)."""
        return self._release.physical()

    def dataset(self) -> ReleaseDataset:
        """Return pairs of an image in the site's units (float32, C, H, W) and its mask (int64, H,
        W), as a `torch.utils.data.Dataset`."""
        from hyfree_ray.api.datasets import ReleaseDataset

        return ReleaseDataset(self._release)


def load_release(path: str | Path, *, key: str | Path | None = None) -> LoadedRelease:
    """Load a release, checked as hostile input in a process of its own, as `release check` does.

    Whether its privacy card passes a gate is left to who uses it: see `card`.

    Example:
        >>> release = load_release("inbox/site-1", key="keys/site-1.key")  # doctest: +SKIP
        >>> release.images.shape, release.metadata.label_names  # doctest: +SKIP

    Args:
        path: the `release.arrow` with its manifest beside it, or the folder of both.
        key: the site's public key, whose signature is checked first; None: not looked at.

    Raises:
        HyfreeError: there is none, or the key is none.
        ReleaseError: it is refused; `rule` says by which rule.
    """
    file = Path(path)
    release = open_release(file, None if key is None else read_public_key(Path(key), "key"))
    return LoadedRelease(release, card_of(release))
