"""Laws of scale-equalizing pyramid convolution."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from reference_impl.pyramids import SEPC, PyramidConvolution, SEPCBranch


def pyramid(device: str, levels: int = 4, width: int = 3, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, width, size >> i, size >> i, generator=generator, dtype=torch.float64).to(device) for i in range(levels)]


def stirred(module: nn.Module, device: str) -> nn.Module:
    """Weights large enough to matter, and offsets still zero."""
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        if "offsets" not in name:
            nn.init.normal_(parameter, std=0.3)
    return module.double().to(device)


def test_it_starts_as_pyramid_convolution(device: str) -> None:
    """Offsets start at zero; with the same weights both give the same."""
    given = pyramid(device)
    sepc, plain = stirred(SEPC(4, width=3, layers=2), device), PyramidConvolution(4, width=3, layers=2).double().to(device)
    state = {name.replace(".plain.", "."): value for name, value in sepc.state_dict().items() if "offsets" not in name}
    plain.load_state_dict(state)
    for a, b in zip(sepc.eval()(given), plain.eval()(given), strict=True):
        torch.testing.assert_close(a, b)


def test_the_finest_level_never_deforms(device: str) -> None:
    """Offsets change every level but the finest."""
    given, sepc = pyramid(device), stirred(SEPC(4, width=3, layers=1), device).eval()
    before = sepc(given)
    for name, parameter in sepc.named_parameters():
        if name.endswith("offsets.bias"):
            nn.init.constant_(parameter, 0.7)
    assert [a.equal(b) for a, b in zip(before, sepc(given), strict=True)] == [True, False, False, False]


def test_a_whole_offset_moves_a_level(device: str) -> None:
    """Where all taps of a branch move by two cells down and one to the right, the coarse levels come out moved."""
    given, branch = pyramid(device), stirred(SEPCBranch(4, width=3), device).eval()
    before = branch(given)
    with torch.no_grad():
        branch.convolution.offsets.bias.copy_(torch.tensor([2.0, 1.0] * 9))  # type: ignore[union-attr, operator]
    after = branch(given)
    assert after[0].equal(before[0])
    for a, b in zip(after[1:3], before[1:3], strict=True):
        torch.testing.assert_close(a[..., 1:-3, 1:-2], b[..., 3:-1, 2:-1])


def test_the_light_version_is_put_together(device: str) -> None:
    """Plain pyramid convolution, and two branches that deform: one for the classes, one for the boxes."""
    trunk = PyramidConvolution(4, width=3, layers=2).double().to(device)
    classes, boxes = (SEPCBranch(4, width=3).double().to(device) for _ in range(2))
    shared = trunk(pyramid(device))
    for branch in (classes, boxes):
        assert [x.shape for x in branch(shared)] == [x.shape for x in shared]


def test_it_learns_where_to_look(device: str) -> None:
    """A coarse map that is to show what lies four cells away, out of reach of the plain kernel, is matched by offsets."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64), size=(12, 12), mode="bilinear"
    )
    given = [torch.zeros(2, 3, 24, 24, dtype=torch.float64, device=device), smooth.to(device)]
    torch.manual_seed(0)
    branch = SEPCBranch(2, width=3).double().to(device)
    target = given[1].roll(4, -1).relu()
    optimiser = torch.optim.Adam(branch.parameters(), lr=0.03)
    losses = []
    for _ in range(40):
        loss = mse_loss(branch(given)[1], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    offsets = branch.convolution.offsets
    assert losses[-1] < losses[0] / 2
    assert offsets.bias is not None
    assert offsets.bias.abs().max() > 0.1
