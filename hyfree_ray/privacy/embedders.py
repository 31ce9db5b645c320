"""Embedders for comparing images: OpenCLIP if its weights are on disk, else the site's nnU-Net.

Shapes: N images, C channels, H height, W width, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hyfree_ray.core.errors import HyfreeError
from hyfree_ray.core.stage import Folder
from hyfree_ray.generators.view import GeneratorView

Embed = Callable[[np.ndarray], np.ndarray]

OPENCLIP_MODEL = "ViT-g-14"
"""The paper's embedder, with the weights `laion2b_s12b_b42k`: 1024 features."""


def load_embedder(
    name: str,
    *,
    model: Path,
    weights: Folder | None,
    view: GeneratorView,
    device: str,
) -> Embed:
    """Load the embedder: images_NCHW in [-1, 1] to features_NF, float32, of length 1.

    Args:
        name: "nnunet" or "openclip".
        model: folder of the site's own nnU-Net.
        weights: file with OpenCLIP's weights.
        view: the site's, whose intensities are what -1 and 1 mean. nnU-Net is shown the physical
            ones; OpenCLIP the view's lowest as black and its highest as white.
        device: "cpu" or "cuda".

    Raises:
        HyfreeError: OpenCLIP is not installed, or its weights are not there.
    """
    if name == "nnunet":
        from hyfree_ray.segmenters.nnunet.model import Model

        network = Model(model, device)
        return lambda images_NCHW: network.embed(view.physical(images_NCHW))
    shown = _openclip(None if weights is None else Path(weights), (view.low_C, view.high_C), device)
    return lambda images_NCHW: shown(view.physical(images_NCHW))


def _openclip(weights: Path | None, window_C: tuple[np.ndarray, np.ndarray], device: str) -> Embed:
    if weights is None or not weights.is_file():
        raise HyfreeError(
            "embedder.no-weights",
            f"embedder 'openclip': no weights at {weights}; set embedder_weights to the file of "
            f"{OPENCLIP_MODEL}, or use --set embedder=nnunet",
        )
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError beside CPU torch
        raise HyfreeError(
            "embedder.not-installed",
            f"embedder 'openclip' cannot be imported ({error}); install hyfree-ray[openclip] with "
            "a matching torchvision, or use --set embedder=nnunet",
        ) from error
    import torch

    network, _, _ = open_clip.create_model_and_transforms(OPENCLIP_MODEL, pretrained=str(weights))
    network = network.to(device).eval()
    side = network.visual.image_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    mean = torch.tensor(network.visual.image_mean).view(1, 3, 1, 1)
    std = torch.tensor(network.visual.image_std).view(1, 3, 1, 1)

    @torch.inference_mode()
    def embed(images_NCHW: np.ndarray, batch_size: int = 32) -> np.ndarray:
        low, high = (bound.reshape(1, -1, 1, 1) for bound in window_C)
        parts = []
        for start in range(0, len(images_NCHW), batch_size):
            batch = torch.from_numpy((images_NCHW[start : start + batch_size] - low) / (high - low))
            # CLIP takes three channels; any other number is averaged and repeated three times.
            rgb = (
                batch if batch.shape[1] == 3 else batch.mean(1, keepdim=True).expand(-1, 3, -1, -1)
            )
            resized = torch.nn.functional.interpolate(
                rgb.float(), size=size, mode="bicubic", antialias=True
            )
            features_NF = network.encode_image(((resized - mean) / std).to(device)).float()
            parts.append(torch.nn.functional.normalize(features_NF, dim=1).cpu().numpy())
        return np.concatenate(parts)

    return embed
