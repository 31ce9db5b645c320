"""How an image comes by its mask: labelled afterwards, drawn with it or for it; torch is not
imported.

HyFree-S3 lets a site's own network label what its generator has drawn (Chebykin et al. 2024). Akbar
et al. (2024, arXiv 2306.02986) let the generator draw the mask as a further channel. Vu et al.
(2025, arXiv 2503.00962) also draw a mask first, and then an image for it.

Shapes: N images, C image channels, K mask channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from hyfree_ray.core.errors import HyfreeError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Pairing = Literal["labelled", "joint", "conditional"]
"""labelled: the site's own network labels the images. joint: image and mask are drawn together.
conditional: a mask is drawn, then an image for it."""

Encoding = Literal["one-hot", "grey"]
"""A mask's channels: one for each label, or a single one of grey values in the labels' order."""


def draws_masks(pairing: str) -> bool:
    """Return whether a generator learns masks with this pairing, and draws them."""
    return pairing != "labelled"


def check_masks(images_NCHW: np.ndarray, masks_NHW: np.ndarray | None) -> np.ndarray:
    """Return masks that fit their images.

    Raises:
        HyfreeError: there are none, or of another shape or type.
    """
    expected = (len(images_NCHW), *images_NCHW.shape[2:])
    if masks_NHW is None or masks_NHW.shape != expected or masks_NHW.dtype != "uint8":
        given = "none" if masks_NHW is None else f"{masks_NHW.dtype} {masks_NHW.shape}"
        raise HyfreeError(
            "generator.bad-images",
            f"generator: it learns masks, uint8 {expected}, with the images; given: {given}",
        )
    return masks_NHW


@dataclass(frozen=True, kw_only=True)
class MaskEncoding:
    """Masks as channels beside the image's, in [-1, 1], and back."""

    kind: Encoding
    values: tuple[int, ...]
    """Label values, rising, background first."""

    @classmethod
    def of(cls, kind: Encoding, masks_NHW: np.ndarray) -> MaskEncoding:
        """Return the encoding of the values that masks have; background is one in any case."""
        import numpy as np

        return cls(kind=kind, values=tuple(sorted({0, *np.unique(masks_NHW).tolist()})))

    @property
    def channels(self) -> int:
        """K: a channel for each value, or one."""
        return len(self.values) if self.kind == "one-hot" else 1

    @property
    def _greys(self) -> list[float]:
        """The grey of each value: value / (highest + 1), which for the labels 0, 1, 2 and 4 of
        BraTS are 0, 51, 102 and 204 of 255, as Akbar et al. have them."""
        return [2 * value / (max(self.values) + 1) - 1 for value in self.values]

    def encode(self, masks_NHW: np.ndarray) -> np.ndarray:
        """Return masks as channels_NKHW, float32: 1 and -1, or greys."""
        import numpy as np

        values_K = np.array(self.values)
        if self.kind == "one-hot":
            here_NKHW = masks_NHW[:, None] == values_K[None, :, None, None]
            return np.where(here_NKHW, 1, -1).astype(np.float32)
        greys_K = np.array(self._greys, np.float32)
        greys_NHW: np.ndarray = greys_K[np.searchsorted(values_K, masks_NHW)]
        return greys_NHW[:, None]

    def with_masks(self, images_NCHW: np.ndarray, masks_NHW: np.ndarray) -> np.ndarray:
        """Return images with their masks as further channels."""
        import numpy as np

        return np.concatenate([images_NCHW, self.encode(masks_NHW)], axis=1)

    def decode(self, channels_NKHW: Tensor) -> Tensor:
        """Return the masks_NHW that channels stand for: the highest one, or the nearest grey.

        Between two greys the threshold lies in the middle, so that an edge between the outer two of
        three labels passes through the one between them: a rim that nobody has drawn.
        """
        import torch

        values_K = torch.tensor(self.values, device=channels_NKHW.device)
        if self.kind == "one-hot":
            place_NHW = channels_NKHW.argmax(dim=1)
        else:
            greys = torch.tensor(self._greys, device=channels_NKHW.device)
            limits = (greys[1:] + greys[:-1]) / 2
            place_NHW = torch.bucketize(channels_NKHW[:, 0].float().contiguous(), limits)
        return values_K[place_NHW]

    def described(self) -> dict[str, Any]:
        """Return JSON."""
        return asdict(self)

    @classmethod
    def read(cls, described: dict[str, Any]) -> MaskEncoding:
        """Read what `described` returned."""
        return cls(kind=described["kind"], values=tuple(described["values"]))
