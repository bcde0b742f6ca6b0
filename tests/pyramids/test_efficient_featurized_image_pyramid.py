"""Laws of the efficient featurized image pyramid."""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.pyramids import EfficientFeaturizedImagePyramid

CHANNELS = [8, 12, 8, 4]


def given(device: str, height: int = 128, width: int = 150) -> tuple[list[Tensor], Tensor]:
    """An image, and levels of the sizes that halving it three times and more gives."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(3, 7)]
    levels = [torch.randn(2, c, *size, generator=generator, dtype=torch.float64) for c, size in zip(CHANNELS, sizes, strict=True)]
    return [x.to(device) for x in levels], image.to(device)


def pyramid(device: str) -> EfficientFeaturizedImagePyramid:
    torch.manual_seed(0)
    module = EfficientFeaturizedImagePyramid(CHANNELS).double().to(device).eval()
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(parameter, 0.1, 1.0)
    return module


def test_the_sizes_of_ssd300(device: str) -> None:
    """A 300 x 300 image has light features of exactly the sizes of SSD's levels: 38, 19, 10 and 5."""
    seen: list[Tensor] = []
    module = EfficientFeaturizedImagePyramid([4, 4, 4, 4]).to(device)
    for light in module.light:
        light.register_forward_hook(lambda _, __, output: seen.append(output))
    module([torch.zeros(1, 4, n, n, device=device) for n in (38, 19, 10, 5)], torch.zeros(1, 3, 300, 300, device=device))
    assert [x.shape[-1] for x in seen] == [38, 19, 10, 5]


def test_information_goes_up(device: str) -> None:
    """A change of a level reaches its own output and all coarser ones, and no finer one; the image reaches all."""
    levels, image = given(device)
    module = pyramid(device)
    before = module(levels, image)
    assert [x.shape for x in before] == [x.shape for x in levels]
    for i in range(4):
        after = module([x + (j == i) for j, x in enumerate(levels)], image)
        assert [a.equal(b) for a, b in zip(before, after, strict=True)] == [j < i for j in range(4)]
    assert not any(a.equal(b) for a, b in zip(before, module(levels, image + image.square()), strict=True))


def test_without_light_features_a_level_is_lost(device: str) -> None:
    """They are a factor: where they are zero, what remains is the finer level alone, and nothing of the first."""
    levels, image = given(device)
    module = pyramid(device)
    for light in module.light:
        light.register_forward_hook(lambda _, __, output: 0 * output)
    found = module(levels, image)
    assert found[0].std((0, 2, 3)).max() == 0
    for a, b in zip(found, module([2 * x for x in levels], image), strict=True):
        torch.testing.assert_close(a, b)


def test_images_of_any_size(device: str) -> None:
    levels, _ = given(device)
    image = torch.zeros(2, 3, 101, 97, dtype=torch.float64, device=device)
    assert [x.shape for x in pyramid(device)(levels, image)] == [x.shape for x in levels]


def test_it_learns(device: str) -> None:
    """It can be taught to find in the second level what only the image shows."""
    levels, image = given(device, 64, 80)
    module = pyramid(device).train()
    levels = [torch.ones_like(x) for x in levels]
    levels[0].normal_(generator=torch.Generator(device).manual_seed(1))
    target = (torch.nn.functional.max_pool2d(image, 16).amax(1, keepdim=True) > 3).double()
    optimiser = torch.optim.Adam(module.parameters(), lr=0.03)
    losses = []
    for _ in range(40):
        loss = mse_loss(module(levels, image)[1][:, :1], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
