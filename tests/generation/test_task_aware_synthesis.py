"""Laws of task-aware synthesis, and a game of its three players."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from reference_impl.generation import (
    RealismNetwork,
    SynthesiserNetwork,
    discriminator_loss,
    synthesiser_loss,
    task_aware_synthesis,
)

SIDE = 16
STILL = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0)


def transforms(*rows: tuple[float, ...], device: str) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, device=device)


def disc(device: str) -> tuple[Tensor, Tensor]:
    """A disc of radius 4 in the middle of 33 by 33 pixels, brighter to the right, and its mask."""
    side = torch.arange(33, dtype=torch.float64, device=device) - 16
    mask = (side[:, None].square() + side.square() < 16).double()
    return (side.expand(33, 33) + 16)[None], mask


def test_no_transform_is_plain_pasting(device: str) -> None:
    draw = torch.rand(2, 3, 9, 7, dtype=torch.float64, device=device)
    alpha = torch.rand(9, 7, dtype=torch.float64, device=device)
    image, moved, _ = task_aware_synthesis(draw[0], alpha, draw[1], transforms(STILL, device=device)[0])
    torch.testing.assert_close(image, alpha * draw[0] + (1 - alpha) * draw[1])
    torch.testing.assert_close(moved, alpha)


def test_the_mask_decides_what_is_seen(device: str) -> None:
    """A mask of zeros gives the scene, one of ones the object."""
    draw = torch.rand(2, 3, 9, 7, dtype=torch.float64, device=device)
    for value in (0.0, 1.0):
        alpha = torch.full((9, 7), value, dtype=torch.float64, device=device)
        image, *_ = task_aware_synthesis(draw[0], alpha, draw[1], transforms(STILL, device=device)[0])
        torch.testing.assert_close(image, draw[0] if value else draw[1])


def test_the_mask_grows_with_its_scales_and_with_nothing_else(device: str) -> None:
    content, mask = disc(device)
    for row in ((0.4, 0, 1, 1, 0, 0), (0, 0.3, 1, 1, 0.1, 0), (0.2, -0.1, 1.5, 0.8, 0, -0.1), (1.0, 0.5, 2, 1.5, 0.1, 0.1)):
        _, moved, box = task_aware_synthesis(content, mask, torch.zeros_like(content), transforms(row, device=device)[0])
        torch.testing.assert_close(moved.sum(), mask.sum() * row[2] * row[3], rtol=0.05, atol=0)
        assert moved[moved > 0.5].sum() > 0.7 * moved.sum()
        x1, y1, x2, y2 = box.int().tolist()
        assert (moved[y1:y2, x1:x2] > 0.5).sum() == (moved > 0.5).sum()


def test_the_center_of_the_mask_moves_by_the_shift(device: str) -> None:
    content, mask = disc(device)
    row = (0.7, 0.2, 1.3, 0.9, 0.125, -0.25)
    _, moved, _ = task_aware_synthesis(content, mask, torch.zeros_like(content), transforms(row, device=device)[0])
    side = torch.arange(33, dtype=torch.float64, device=device) - 16
    center = torch.stack(((moved.sum(0) * side).sum(), (moved.sum(1) * side).sum())) / moved.sum()
    torch.testing.assert_close(center, 33 * transforms(row, device=device)[0, 4:], rtol=0.02, atol=0.02)


def test_a_turn_is_clockwise(device: str) -> None:
    content, mask = disc(device)
    image, _, _ = task_aware_synthesis(content, mask, torch.zeros_like(content), transforms((1.5, 0, 1, 1, 0, 0), device=device)[0])
    assert image[0, 18, 16] > image[0, 14, 16] + 3


class Players:
    """A small detector that marks the pixels of bright squares, the synthesiser, the discriminator, and their images.

    Scenes are dark above and bright below; in real images squares stand on the dark, so that a square on the bright half is hard, and
    unreal.
    """

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        self.noise = 0.1 * torch.rand(2, 16, 1, SIDE, SIDE)
        scene = torch.zeros(16, 1, SIDE, SIDE)
        scene[:, :, SIDE // 2 :] = 0.9
        self.scene = (scene + self.noise[0]).to(device)
        self.alpha = torch.zeros(16, SIDE, SIDE, device=device)
        self.alpha[:, 2:6, 6:10] = 1
        self.content = (1 + self.noise[1]).to(device)
        still = torch.tensor(STILL, device=device).expand(16, 6)
        self.real, self.real_mask, _ = task_aware_synthesis(self.content, self.alpha, self.scene, still)
        self.synthesiser = SynthesiserNetwork(channels=1, width=4, hidden=32).to(device)
        self.discriminator = RealismNetwork(channels=1, width=4).to(device)
        self.target = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 1, 1)).to(device)
        self.optimisers = {
            player: torch.optim.Adam(player.parameters(), lr=lr)
            for player, lr in ((self.synthesiser, 0.003), (self.discriminator, 0.01), (self.target, 0.01))
        }
        for _ in range(30):
            self.step(self.target, self.target_loss(self.real, self.real_mask))

    def compose(self) -> tuple[Tensor, Tensor]:
        transform = self.synthesiser(self.content, self.alpha, self.scene)
        image, mask, _ = task_aware_synthesis(self.content, self.alpha, self.scene, transform)
        return image, mask

    def target_loss(self, image: Tensor, mask: Tensor) -> Tensor:
        """The detector's loss on each image."""
        pixels = binary_cross_entropy_with_logits(self.target(image).squeeze(1), (mask > 0.5).float(), reduction="none")
        return pixels.mean((-2, -1))

    def step(self, player: nn.Module, loss: Tensor) -> float:
        """One step of one player; the others stay as they are."""
        gradients = torch.autograd.grad(loss.mean(), list(player.parameters()))
        for parameter, gradient in zip(player.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.optimisers[player].step()
        return loss.mean().item()

    def synthesiser_step(self) -> float:
        image, mask = self.compose()
        return self.step(self.synthesiser, synthesiser_loss(self.target_loss(image, mask), self.discriminator(image)))

    def round(self) -> tuple[float, float, float]:
        """First the synthesiser against the other two, then these two against it."""
        first = self.synthesiser_step()
        image, mask = (x.detach() for x in self.compose())
        second = self.step(self.discriminator, discriminator_loss(self.discriminator(self.real), self.discriminator(image)))
        third = self.step(self.target, self.target_loss(self.real, self.real_mask) + self.target_loss(image, mask))
        return first, second, third


def test_the_synthesiser_at_first_leaves_the_object_alone(device: str) -> None:
    players = Players(device)
    image, mask = players.compose()
    torch.testing.assert_close(image, players.real)
    torch.testing.assert_close(mask, players.real_mask)


def test_the_synthesiser_finds_what_the_detector_gets_wrong(device: str) -> None:
    """Against players that stand still its loss falls, and its images are harder than the real ones."""
    players = Players(device)
    losses = [players.synthesiser_step() for _ in range(40)]
    assert losses[-1] < losses[0]
    image, mask = players.compose()
    assert players.target_loss(image, mask).mean() > 1.2 * players.target_loss(players.real, players.real_mask).mean()


def test_the_discriminator_keeps_the_synthesiser_real(device: str) -> None:
    """A discriminator that has seen where objects are real makes the synthesiser pay for leaving."""
    players = Players(device)
    away = torch.tensor((0.0, 0.0, 1.0, 1.0, 0.0, 0.45), device=device).expand(16, 6)
    unreal, _, _ = task_aware_synthesis(players.content, players.alpha, players.scene, away)
    losses = [
        players.step(players.discriminator, discriminator_loss(players.discriminator(players.real), players.discriminator(unreal)))
        for _ in range(40)
    ]
    assert losses[-1] < 0.5 * losses[0]
    nothing = torch.zeros(16, device=device)
    real, fake = players.discriminator(players.real), players.discriminator(unreal)
    assert synthesiser_loss(nothing, real).mean() < synthesiser_loss(nothing, fake).mean()


def test_all_three_play(device: str) -> None:
    """In rounds of all three, the detector learns the images that the synthesiser makes for it."""
    players = Players(device)
    for _ in range(30):
        players.synthesiser_step()
    hard = [x.detach() for x in players.compose()]
    before = players.target_loss(*hard).mean()
    weights = {player: [p.detach().clone() for p in player.parameters()] for player in players.optimisers}
    losses = [players.round() for _ in range(30)]
    assert all(torch.tensor(losses).isfinite().all(0))
    for player, old in weights.items():
        assert any(not a.equal(b) for a, b in zip(player.parameters(), old, strict=True))
    assert players.target_loss(*hard).mean() < before
