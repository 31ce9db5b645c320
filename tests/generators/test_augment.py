from __future__ import annotations

import torch

from hyfree_ray.generators.adversarial import augment as module
from hyfree_ray.generators.adversarial.augment import augment


def _many(image: torch.Tensor, count: int = 400) -> torch.Tensor:
    return augment(image.expand(count, -1, -1, -1), torch.Generator().manual_seed(0))


def test_a_seed_fixes_the_changes():
    images = torch.rand(4, 3, 12, 18)
    first = augment(images, torch.Generator().manual_seed(5))
    assert torch.equal(first, augment(images, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, augment(images, torch.Generator().manual_seed(6)))


def test_cutout_and_shift_have_the_papers_reach(monkeypatch):
    monkeypatch.setattr(module, "BRIGHTNESS", 0.0)
    monkeypatch.setattr(module, "CONTRAST", (1.0, 1.0))
    ramp = torch.arange(1.0, 32 * 24 + 1).view(1, 1, 32, 24)
    changed = _many(ramp)
    share = (changed != 0).float().mean()
    # A quarter at most is cut, less where it hangs over; a shift loses some more.
    assert 0.6 < share < 0.95
    for image in changed[:50, 0]:
        rows, columns = torch.nonzero(image, as_tuple=True)
        source = image[rows, columns].long() - 1
        down, right = rows - source // 24, columns - source % 24
        assert down.unique().numel() == right.unique().numel() == 1
        assert abs(int(down[0])) <= 4
        assert abs(int(right[0])) <= 3


def test_colour_changes_keep_within_their_ranges(monkeypatch):
    monkeypatch.setattr(module, "SHIFT", 0.0)
    monkeypatch.setattr(module, "CUTOUT", 0.0)
    image = torch.rand(1, 3, 8, 6) - 0.5
    changed = _many(image)
    shift = changed.mean((1, 2, 3)) - image.mean()
    assert shift.abs().max() <= 0.5 + 1e-5
    assert shift.min() < -0.4
    assert shift.max() > 0.4
    contrast = changed.mean(1).std((1, 2)) / image.mean(1).std()
    assert contrast.min() >= 0.5 - 1e-4
    assert contrast.max() <= 1.5 + 1e-4
    grey = (changed - changed.mean(1, keepdim=True)).std((1, 2, 3)) / contrast
    grey = grey / (image - image.mean(1, keepdim=True)).std()
    assert grey.max() <= 2 + 1e-3
    assert grey.min() < 0.1


def test_a_single_channel_has_no_saturation(monkeypatch):
    monkeypatch.setattr(module, "BRIGHTNESS", 0.0)
    monkeypatch.setattr(module, "CONTRAST", (1.0, 1.0))
    monkeypatch.setattr(module, "SHIFT", 0.0)
    monkeypatch.setattr(module, "CUTOUT", 0.0)
    image = torch.rand(1, 1, 8, 6)
    torch.testing.assert_close(_many(image, 5), image.expand(5, -1, -1, -1))


def test_gradients_pass():
    images = torch.rand(2, 4, 10, 7, requires_grad=True)
    augment(images, torch.Generator().manual_seed(0)).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
