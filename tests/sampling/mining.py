"""Windows to select from; and objects that fill a small ring in a large background, with a classifier trained anew for each selection."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Selects = Callable[[Tensor, Tensor, Tensor], Tensor]
FIRST = 15


def windows(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of five sets of 400 windows, which of them are negatives, and which are in the set already, objects among them."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 400, generator=generator, dtype=torch.float64)
    negative, known = (torch.rand(5, 400, generator=generator) < share for share in (0.9, 0.2))
    return logits.to(device), negative.to(device), known.to(device)


def train(positives: Tensor, negatives: Tensor) -> nn.Module:
    """A fresh classifier of points in the plane, with both classes of equal weight."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(250):
        loss = nn.functional.softplus(-model(positives)).mean() + nn.functional.softplus(model(negatives)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def rate(model: nn.Module, points: Tensor) -> float:
    """Share of the points that the model takes for objects."""
    return float((model(points) > 0).double().mean())


def mine(select: Selects, rounds: int) -> tuple[list[float], float, float, list[int]]:
    """Train, and then select and train anew, `rounds` times.

    Args:
        select: logits of the background, which of it is in the set, and noise -> what is in the next set.

    Returns:
        The rate of false positives on unseen background after each training; that with as many negatives drawn at random as there are at
        last; the share of objects that is found; and how many negatives each set had.
    """
    generator = torch.Generator().manual_seed(0)
    plane = 8 * torch.rand(12_000, 2, generator=generator, dtype=torch.float64) - 4
    radius = plane.norm(dim=-1)
    positives = plane[(radius > 1.1) & (radius < 1.5)]
    pool, unseen = plane[(radius < 0.9) | (radius > 1.7)].tensor_split(2)
    chosen = torch.arange(len(pool)) < FIRST
    model = train(positives, pool[chosen])
    found, sizes = [rate(model, unseen)], [FIRST]
    for _ in range(rounds):
        noise = torch.rand(len(pool), generator=generator, dtype=torch.float64)
        with torch.no_grad():
            chosen = select(model(pool)[:, 0], chosen, noise).bool()
        model = train(positives, pool[chosen])
        found.append(rate(model, unseen))
        sizes.append(int(chosen.sum()))
    return found, rate(train(positives, pool[: sizes[-1]]), unseen), rate(model, positives), sizes
