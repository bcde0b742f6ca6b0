"""DetNAS: Chen, Yang, Zhang, Meng, Xiao and Sun, NeurIPS 2019."""

from collections.abc import Callable, Sequence
from itertools import islice, pairwise

import torch
from torch import Tensor, nn

from reference_impl.ops.levels import check_levels

__all__ = ["DetNAS", "DetNASSearch"]

# What a block may be: how many separable convolutions it has, and of which size; one alone stands behind a 1x1 convolution.
BLOCKS = {"shuffle_3x3": (1, 3), "shuffle_5x5": (1, 5), "shuffle_7x7": (1, 7), "xception_3x3": (3, 3)}
CANDIDATES = tuple(BLOCKS)

# What the search found, block by block, for a network of this size.
FOUND = tuple(CANDIDATES[int(k)] for k in "0031210203123320211320222131033313333333")
BLOCKS_OF_STAGES = (8, 8, 16, 8)
WIDTHS = (48, 96, 240, 480, 960)


class DetNAS(nn.Module):
    r"""A backbone whose blocks were chosen by the accuracy of a detector, in place of that of a classifier.

    $$ x \mapsto \begin{cases} \bigl[x_{even},\; f(x_{odd})\bigr] & \text{in a stage} \\ \bigl[s(x),\; f(x)\bigr] & \text{where it begins}
    \end{cases} $$

    As in ShuffleNetV2, a block leaves every second channel as it is and convolves the others. Its branch $f$ is a 1x1 convolution, one of
    3x3, 5x5 or 7x7 of each channel alone, and another 1x1 one; or, as in Xception, three times a 3x3 of each channel and a 1x1. The first
    block of a stage takes every second location, and has a branch $s$ of the same size in place of the channels left alone. The search
    chose large kernels in the early stages and Xception blocks, which are deeper, in the late ones. The network is first trained to
    classify; FPN then runs over its four maps.

    Args:
        architecture: names of all blocks, first to last: shuffle_3x3, shuffle_5x5, shuffle_7x7 or xception_3x3.
        blocks: how many of them each stage has.
        widths: channels of the first convolution, then of each stage.

    Raises:
        ValueError: there is another number of names, or one of no block; a stage is empty; or the widths do not fit: one more than stages,
            each larger than the one before, those of the stages even.
    """

    def __init__(
        self, architecture: Sequence[str] = FOUND, blocks: Sequence[int] = BLOCKS_OF_STAGES, widths: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__()
        _check_sizes("DetNAS", blocks, widths)
        _check("DetNAS", architecture, sum(blocks))
        self.stem, names = _stem(widths[0]), iter(architecture)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Block(next(names), width if i else before, width) for i in range(n)))
            for n, before, width in zip(blocks, widths, widths[1:], strict=False)
        )
        _initialise(self)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The image `[b 3 h w]` in a list -> a map for each stage, `[b widths[i + 1] h_i w_i]`, at strides 4, 8, 16 and so on.

        Raises:
            TypeError: the image is not a floating-point tensor.
            ValueError: there is another number of maps, or of channels.
        """
        check_levels("DetNAS", levels, [3])
        x, found = self.stem(levels[0]), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class DetNASSearch(nn.Module):
    """The network in which such a backbone is searched: every block is there in all its forms, and a call uses one form of each.

    In each training step it runs an architecture drawn at random, by `random_architecture`, so that no form of a block relies on one form
    of the next; it learns first to classify, then to detect. A candidate is then judged by the accuracy of the detector with it, at the
    weights that it has here, and `evolve` finds the best.

    Args:
        blocks: how many blocks each stage has.
        widths: channels of the first convolution, then of each stage.
    """

    def __init__(self, blocks: Sequence[int] = BLOCKS_OF_STAGES, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        _check_sizes("DetNASSearch", blocks, widths)
        self.blocks, self.stem = tuple(blocks), _stem(widths[0])
        self.forms = nn.ModuleList(
            nn.ModuleDict({name: _Block(name, width if i else before, width) for name in CANDIDATES})
            for n, before, width in zip(blocks, widths, widths[1:], strict=False)
            for i in range(n)
        )
        _initialise(self)

    def forward(self, levels: Sequence[Tensor], architecture: Sequence[str]) -> list[Tensor]:
        """As of `DetNAS`, through the blocks that `architecture` names."""
        check_levels("DetNASSearch", levels, [3])
        _check("DetNASSearch", architecture, len(self.forms))
        x, found, path = self.stem(levels[0]), [], zip(self.forms, architecture, strict=True)
        for n in self.blocks:
            for forms, name in islice(path, n):
                x = forms.get_submodule(name)(x)
            found.append(x)
        return found

    def random_architecture(self, noise: Tensor | None = None) -> list[str]:
        """An architecture at random, by `noise` `[n]`, a number in [0, 1) for each block; a fresh draw by default."""
        noise = torch.rand(len(self.forms)) if noise is None else noise
        return [CANDIDATES[k] for k in (noise * len(CANDIDATES)).long().tolist()]

    def mutated_architecture(self, architecture: Sequence[str], noise: Tensor | None = None, *, rate: float = 0.1) -> list[str]:
        """`architecture` with some of its blocks drawn anew, each at `rate`, by `noise` `[n 2]` in [0, 1): whether, and which."""
        _check("mutated_architecture", architecture, len(self.forms))
        noise = torch.rand(len(self.forms), 2) if noise is None else noise
        changes = (noise[:, 0] < rate).tolist()
        drawn = self.random_architecture(noise[:, 1])
        return [new if change else old for old, new, change in zip(architecture, drawn, changes, strict=True)]

    def crossed_architecture(self, first: Sequence[str], second: Sequence[str], noise: Tensor | None = None) -> list[str]:
        """Each block from one of two architectures, by `noise` `[n]` in [0, 1): from the `first` where it is below 1/2."""
        _check("crossed_architecture", first, len(self.forms))
        _check("crossed_architecture", second, len(self.forms))
        noise = torch.rand(len(self.forms)) if noise is None else noise
        return [a if of_first else b for a, b, of_first in zip(first, second, (noise < 0.5).tolist(), strict=True)]

    def evolve(
        self,
        measure: Callable[[list[str]], float],
        fits: Callable[[list[str]], bool] = lambda _: True,
        *,
        rounds: int = 20,
        population: int = 50,
        kept: int = 10,
        mutated: int = 20,
        crossed: int = 20,
    ) -> list[list[str]]:
        """The architectures with the highest `measure`, best first, found by judging a `population` of new ones in each round.

        In the first round all are drawn at random. In each later round some are mutations of the best so far, some are crossings of two of
        these, and the rest is drawn at random. What was judged before, or does not fit, is drawn again, up to ten times for each place;
        what comes twice in a round is judged once.

        Args:
            measure: gives the quality of an architecture, such as the accuracy of the detector on held-out images; called once for each.
            fits: says whether an architecture may be judged at all, such as one with few enough operations.
            rounds: how often candidates are judged.
            population: how many in a round.
            kept: how many are the best so far, and are returned.
            mutated: how many of the population are one of these with some of its blocks drawn anew.
            crossed: how many have each block from one of two of these.
        """
        judged: dict[tuple[str, ...], float] = {}
        best: list[list[str]] = []

        def pick() -> list[str]:
            return best[int(torch.randint(len(best), ()))]

        def draw(count: int, make: Callable[[], list[str]]) -> list[list[str]]:
            drawn = (make() for _ in range(10 * count))
            return list(islice((x for x in drawn if tuple(x) not in judged and fits(x)), count))

        for _ in range(rounds):
            new = []
            if best:
                new += draw(mutated, lambda: self.mutated_architecture(pick()))
                new += draw(crossed, lambda: self.crossed_architecture(pick(), pick()))
            new += draw(population - len(new), self.random_architecture)
            judged |= {key: measure(list(key)) for key in dict.fromkeys(map(tuple, new))}
            best = [list(key) for key in sorted(judged, key=lambda key: -judged[key])[:kept]]
        return best


class _Block(nn.Module):
    def __init__(self, name: str, before: int, width: int) -> None:
        super().__init__()
        times, size = BLOCKS[name]
        stride = 1 if before == width else 2
        read, inside, write = (before // 2 if stride == 1 else before), width // 2, (width // 2 if stride == 1 else width - before)
        layers: list[nn.Module] = [] if times > 1 else _pointwise(read, inside)
        for i in range(times):
            first, last = i == 0 and times > 1, i == times - 1
            layers += _separable(read if first else inside, write if last else inside, size, stride if i == 0 else 1)
        self.branch = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(*_separable(before, before, size, stride)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        kept, read = (x[:, ::2], x[:, 1::2]) if self.shortcut is None else (self.shortcut(x), x)
        return torch.cat((kept, self.branch(read)), 1)


def _pointwise(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def _separable(channels: int, width: int, size: int, stride: int) -> list[nn.Module]:
    each = nn.Conv2d(channels, channels, size, stride, size // 2, groups=channels, bias=False)
    return [each, nn.BatchNorm2d(channels), *_pointwise(channels, width)]


def _stem(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, 1 / module.weight.shape[1] if module.bias is None else 0.01)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 1e-4)


def _check(function: str, architecture: Sequence[str], blocks: int) -> None:
    if len(architecture) != blocks or any(name not in BLOCKS for name in architecture):
        raise ValueError(f"{function}: `architecture` is {list(architecture)}; expected {blocks} of {', '.join(CANDIDATES)}")


def _check_sizes(function: str, blocks: Sequence[int], widths: Sequence[int]) -> None:
    if any(n < 1 for n in blocks):
        raise ValueError(f"{function}: `blocks` is {tuple(blocks)}; expected at least one a stage")
    grow = all(a < b for a, b in pairwise(widths))
    if len(widths) != len(blocks) + 1 or not grow or any(w % 2 for w in widths[1:]):
        raise ValueError(f"{function}: `widths` is {tuple(widths)}; expected {len(blocks) + 1}, growing, those of the stages even")
