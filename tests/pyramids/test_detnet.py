"""Laws of DetNet."""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.pyramids import FPN, DetNet


def features(device: str, size: int = 21) -> Tensor:
    return torch.randn(2, 8, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)


def detnet(device: str, blocks: int = 1) -> DetNet:
    torch.manual_seed(0)
    return DetNet([8], width=4, blocks=blocks).double().to(device)


def test_it_goes_deeper_without_getting_coarser(device: str) -> None:
    c5, c6 = detnet(device, blocks=3)([features(device, 7)])
    assert c5.shape == c6.shape == (2, 16, 7, 7)


def test_the_receptive_field_grows_by_four_cells_a_block(device: str) -> None:
    """Dilation 2 reaches two cells to each side, and only every second cell."""
    x, module = features(device), detnet(device).eval()
    touched = x.clone()
    touched[..., 10, 10] += 5
    for n, (before, after) in enumerate(zip(module([x]), module([touched]), strict=True), 1):
        rows, columns = (before != after).any(1).any(0).nonzero().T.tolist()
        assert set(rows) == set(columns) == set(range(10 - 2 * n, 11 + 2 * n, 2))


def test_the_first_four_stages_and_fpn_go_around_it(device: str) -> None:
    """A pyramid over stages 2 to 6, the last three of which are of one size."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 32), (4, 16), (8, 8))
    c2, c3, c4 = (torch.randn(1, c, size, size, generator=generator, dtype=torch.float64).to(device) for c, size in shapes)
    pyramid = FPN([2, 4, 8, 16, 16], width=3).double().to(device)([c2, c3, c4, *detnet(device)([c4])])
    assert [x.shape[-1] for x in pyramid] == [32, 16, 8, 8, 8]


def test_it_learns(device: str) -> None:
    """Its sixth stage can be taught to see eight cells to the left, which needs both stages' kernels."""
    x, module = features(device, 12).relu(), detnet(device, blocks=2)
    target = x.roll(8, -1).repeat(1, 2, 1, 1)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.03)
    losses = []
    for _ in range(40):
        loss = mse_loss(module([x])[1], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
