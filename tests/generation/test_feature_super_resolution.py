"""Laws of feature super-resolution: matched receptive fields, and a game on real pairs of features."""

import pytest
import torch
from torch import Tensor, nn

from reference_impl.generation import (
    FeatureDiscriminator,
    FeatureSuperResolution,
    TargetExtractor,
    choose_predictor,
    feature_discriminator_loss,
    feature_generator_loss,
    receptive_field_mismatch,
)
from reference_impl.ops.roi_align import roi_align


class Residual(nn.Module):
    """A block as backbones have them, with a way around its layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = (x + self.norm(self.layer(x))).relu()
        return found


def backbone(device: str, channels: int = 4) -> nn.Sequential:
    """Stride 4: two poolings of different size, and a residual block between."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Residual(channels),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
    )
    return layers.double().to(device).eval()


def image(device: str, height: int = 64, width: int = 48) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)


def test_a_target_is_what_the_backbone_sees_at_half_size(device: str) -> None:
    """Every second cell of the target is a cell of the backbone's features of every second pixel, at the borders, too."""
    layers, x = backbone(device), image(device)
    target = TargetExtractor(layers)(x)
    assert target.shape == layers(x).shape
    torch.testing.assert_close(target[..., ::2, ::2], layers(x[..., ::2, ::2]))
    assert not torch.allclose(target[..., ::2, ::2], layers(x)[..., ::2, ::2])


def reach(network: nn.Module, x: Tensor) -> int:
    """From the first to the last column that the cell in the middle sees."""
    centre = network(x)[0, :, 8, 8]
    columns = [torch.tensor([i], device=x.device) for i in range(64)]
    seen = [i for i, column in enumerate(columns) if (network(x.index_fill(-1, column, 9.0))[0, :, 8, 8] != centre).any()]
    return seen[-1] - seen[0] + 1


def test_it_reaches_twice_as_far(device: str) -> None:
    """One cell of the backbone sees R columns; the dilated one sees as many, every second one of 2 R - 1."""
    layers, x = backbone(device), image(device, 64, 64)
    positive = nn.Sequential(*(module for module in layers if not isinstance(module, nn.ReLU)))
    for parameter in positive.parameters():
        nn.init.constant_(parameter, 0.1)
    near, far = reach(positive, x.abs()), reach(TargetExtractor(positive), x.abs())
    assert near == 1 + 2 + 1 + 2 * 2 + 2 * 2 + 4 * 2
    assert far == 2 * near - 1


def test_it_follows_the_backbone(device: str) -> None:
    """The parameters are the backbone's own, and it hands none of them a gradient."""
    layers, x = backbone(device), image(device)
    extractor = TargetExtractor(layers)
    assert all(a is b for a, b in zip(layers.parameters(), extractor.parameters(), strict=True))
    before = extractor(x)
    assert not before.requires_grad
    with torch.no_grad():
        layers[0].weight.mul_(2)
    assert not extractor(x).equal(before)
    assert layers[0].dilation == (1, 1)


@pytest.mark.parametrize("height", [64, 63])
def test_a_stride_becomes_pooling(device: str, height: int) -> None:
    """As many rows and columns as the backbone gives, from a convolution of all pixels."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 2, 7, stride=2, padding=3).double().to(device)
    x = image(device, height)
    found = TargetExtractor(nn.Sequential(layer))(x)
    assert found.shape == layer(x).shape
    every = nn.functional.conv2d(x, layer.weight, layer.bias, padding=6, dilation=2)
    expected = nn.functional.max_pool2d(every, 2, ceil_mode=True)
    torch.testing.assert_close(found, expected)


def test_a_layer_that_cannot_be_dilated_is_named() -> None:
    with pytest.raises(TypeError, match="the backbone has AvgPool2d"):
        TargetExtractor(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.AvgPool2d(2)))
    with pytest.raises(TypeError, match="expected convolutions that pad with zeros"):
        TargetExtractor(nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect"))


def test_the_mismatch_is_a_matter_of_small_regions(device: str) -> None:
    """From 2 to 1 as regions grow; it is the ratio of the two receptive fields over the image's sizes."""
    width = torch.linspace(0.5, 500, 300, dtype=torch.float64, device=device)
    ratio = receptive_field_mismatch(width)
    assert (ratio.diff() < 0).all()
    assert ratio[0] > 1.9
    assert ratio[-1] < 1.05
    at_full, at_half = (196 + (width - 1) * 16) / 1000, (196 + (width / 2 - 1) * 16) / 500
    torch.testing.assert_close(ratio, at_half / at_full)


def test_at_the_start_nothing_is_changed(device: str) -> None:
    features, detail = torch.randn(2, 3, 4, 7, 7, device=device), torch.randn(2, 3, 2, 7, 7, device=device)
    assert FeatureSuperResolution(4, 2, width=8).to(device)(features, detail).equal(features)


def test_each_region_has_its_predictor(device: str) -> None:
    side = torch.linspace(1, 100, 40, dtype=torch.float64, device=device)
    boxes = torch.stack((0 * side, 0 * side, side, side), -1)
    small, large = torch.zeros(40, 2, dtype=torch.float64, device=device), torch.ones(40, 2, dtype=torch.float64, device=device)
    chosen = choose_predictor(boxes, small, large)
    assert chosen[:, 0].equal((side >= 32).double())


def test_the_game_brings_small_regions_nearer_to_what_they_would_be(device: str) -> None:
    """Regions of half-size images, their targets at full size; generator and discriminator take turns."""
    layers = backbone(device, channels=6).float()
    for parameter in layers.parameters():
        parameter.requires_grad_(False)
    extractor = TargetExtractor(layers)
    generator = torch.Generator().manual_seed(1)
    x = nn.functional.interpolate(torch.randn(4, 3, 32, 32, generator=generator), scale_factor=2, mode="bilinear").to(device)
    half = nn.functional.avg_pool2d(x, 2)
    corner = 40 * torch.rand(4, 10, 2, generator=generator)
    boxes = torch.cat((corner, corner + 10 + 12 * torch.rand(4, 10, 2, generator=generator)), -1).to(device)
    target = roi_align(extractor(x), boxes, scale=1 / 4, size=5)
    features = roi_align(layers(half), boxes / 2, scale=1 / 4, size=5)
    detail = roi_align(layers[:2](half), boxes / 2, scale=1.0, size=5)
    unit = target.std()
    target, features, detail = target / unit, features / unit, detail / unit

    torch.manual_seed(0)
    network = FeatureSuperResolution(6, 6, width=16).to(device)
    discriminator = FeatureDiscriminator(6, size=5, hidden=32).to(device)
    optimisers = [torch.optim.Adam(part.parameters(), lr=0.005) for part in (network, discriminator)]
    contents, told_apart = [], []
    for _ in range(60):
        generated = network(features, detail)
        loss = feature_discriminator_loss(discriminator(generated.detach()), discriminator(target)).mean()
        optimisers[1].zero_grad()
        loss.backward()
        optimisers[1].step()
        told_apart.append(float(loss.detach()))
        content, adversarial = feature_generator_loss(generated, target, discriminator(generated))
        optimisers[0].zero_grad()
        (content + adversarial).mean().backward()
        optimisers[0].step()
        contents.append(float(content.detach().mean()))
    assert contents[-1] < 0.6 * contents[0]
    assert min(told_apart) < told_apart[0]
    matched, mismatched = ((roi_align(f(x), boxes, scale=1 / 4, size=5) / unit - features).square().mean() for f in (extractor, layers))
    assert matched < mismatched
