"""The flow's network: a U-Net that draws the image that it believes to be behind a noisy one.

The velocity leads from here to there (Li & He 2025, arXiv 2511.13720). To predict the velocity
itself, or the noise, a network has to pass all of the noise on, and a narrow one cannot, where a
place holds many numbers of it (channels times unshuffled pixels). N images, C channels, H, W, A
numbers of an augmentation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyfree_ray.generators.denoising.unet import UNet


class Denoiser(UNet):
    """Draws the image that it believes to be behind a noisy, padded one."""

    def forward(
        self,
        x_NCHW: Tensor,
        time_N: Tensor,
        told_NA: Tensor | None = None,
        given_NKHW: Tensor | None = None,
    ) -> Tensor:
        """The image behind a noisy one, float32.

        Args:
            x_NCHW: padded noisy images, float32.
            time_N: float32 in [0, 1]; 0 is noise, 1 an image.
            told_NA: how the images were augmented; None: not at all.
            given_NKHW: the mask that the image is for, padded; None: the plan has none.
        """
        time_N111 = time_N[:, None, None, None]
        # What the network sees has unit variance at all times (Karras et al. 2022, section 5).
        scale_N111 = torch.rsqrt((time_N111 * self.spread) ** 2 + (1 - time_N111) ** 2)
        seen_NCHW = scale_N111 * (x_NCHW - time_N111 * self.centre)
        if given_NKHW is not None:
            seen_NCHW = torch.cat([seen_NCHW, given_NKHW], 1)
        return self.centre + self.spread * self.transform(seen_NCHW, time_N, told_NA)
