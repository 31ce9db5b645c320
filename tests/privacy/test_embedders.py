"""What images are compared by: OpenCLIP's own loading code, on a tiny model of its kind."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from hyfree_ray.generators.view import GeneratorView
from hyfree_ray.privacy import embedders
from hyfree_ray.privacy.embedders import Embed, load_embedder
from tests.privacy.test_memorization import images
from tests.refusals import refuses

LOW, HIGH = -400.0, 1600.0
WIDTH = 24
TINY = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def view(channels: int) -> GeneratorView:
    return GeneratorView(
        images_NCHW=images(2, 0, channels),
        patients_N=np.arange(2),
        training_N=np.ones(2, bool),
        low_C=np.full(channels, LOW, np.float32),
        high_C=np.full(channels, HIGH, np.float32),
        spacing=(1.0, 1.5),
    )


def embedder(weights: Path | None, channels: int) -> Embed:
    return load_embedder(
        "openclip", model=Path("nowhere"), weights=weights, view=view(channels), device="cpu"
    )


@pytest.fixture(scope="module")
def open_clip() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own and of torchvision's imports
        try:
            import open_clip
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"open_clip cannot be imported ({error}); install hyfree-ray[openclip]")
    return open_clip


@pytest.fixture
def weights(open_clip: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights of a model small enough for a test; its name stands for the paper's."""
    (tmp_path / "tiny-hyfree.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "tiny-hyfree.json")
    torch.manual_seed(5)
    model = open_clip.create_model("tiny-hyfree")
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    monkeypatch.setattr(embedders, "OPENCLIP_MODEL", "tiny-hyfree")
    return tmp_path / "tiny.pt"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_openclips_features_have_length_1_for_any_channels_and_proportions(
    weights: Path, channels: int
) -> None:
    embed, shown = embedder(weights, channels), images(40, 1, channels)
    assert shown.shape[2] != shown.shape[3]
    features_NF = embed(shown)
    assert features_NF.shape == (40, WIDTH)
    assert features_NF.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features_NF, axis=1), 1, atol=1e-5)
    assert np.abs(features_NF[0] - features_NF[1]).max() > 1e-3
    np.testing.assert_allclose(embed(shown[33:34]), features_NF[33:34], atol=1e-5)


def test_openclip_is_shown_what_its_own_preprocessing_would_show_it(
    open_clip: ModuleType, weights: Path
) -> None:
    """The view's lowest intensity as black, its highest as white, in the model's own statistics."""
    levels_NHWC = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    model, _, preprocess = open_clip.create_model_and_transforms(
        "tiny-hyfree", pretrained=str(weights)
    )
    with torch.inference_mode():
        batch = torch.stack([preprocess(Image.fromarray(one)) for one in levels_NHWC])
        theirs = torch.nn.functional.normalize(model.eval().encode_image(batch), dim=1).numpy()
    images_NCHW = levels_NHWC.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(embedder(weights, 3)(images_NCHW), theirs, atol=1e-4)


def test_weights_of_another_model_are_not_taken(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    torch.save({name: value for name, value in state.items() if "visual" not in name}, weights)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\)"):
        embedder(weights, 1)


@pytest.mark.parametrize("given", [None, Path("nowhere") / "weights.pt"])
def test_openclip_without_weights_is_one_line_that_says_what_to_set(given: Path | None) -> None:
    with refuses("embedder.no-weights", "embedder_weights", "ViT-g-14"):
        embedder(given, 1)
