"""FAD, the search of fast and diverse detector towers: Zhong, Deng, Guo, Scott and Huang, ECCV 2020."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reference_impl.ops.checked import checked
from reference_impl.ops.ranks import descending_rank

__all__ = ["FAD", "FADTower", "RepresentationSharing", "fad_genotype"]

# How many steps of a chain a candidate takes, and whether a dilated convolution follows, in the order of the logits.
CANDIDATES = ((1, False), (1, True), (2, False), (2, True), (3, False))


class RepresentationSharing(nn.Module):
    r"""Computes five candidates at the price of five convolutions: each step of a chain of 3x3 convolutions is a candidate by itself.

    $$ x_k = f_k(x_{k-1}), \qquad o = \left(D_1 x_1,\; h_1(x_1),\; D_2 x_2,\; h_2(x_2),\; x_3\right) $$

    Three steps $f_k$, after which a location has seen squares of 3, 5 and 7 cells; two depth-wise separable convolutions of dilation 2,
    $h_k$, that branch off and make it 7 and 9; and 1x1 convolutions $D_k$, so that a candidate need not look like the chain's own state.
    Each step and each $h_k$ is followed by group normalisation and a rectifier. Computed one by one, the candidates would take eleven
    convolutions.

    Args:
        width: $d$, channels, in and out.
        separable: whether the steps are depth-wise separable convolutions.
        groups: $G$ of the group normalisation.
    """

    def __init__(self, width: int, *, separable: bool = False, groups: int = 32) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_step(width, separable, groups) for _ in range(3))
        self.dilated = nn.ModuleList(_dilated(width, groups) for _ in range(2))
        self.decouple = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in range(2))

    @checked
    def forward(self, features: Float[Tensor, "b channels h w"]) -> list[Tensor]:
        """Features -> the five candidates, each of the size of the features."""
        found = []
        for step, dilated, decouple in zip(self.steps, self.dilated, self.decouple, strict=False):
            features = step(features)
            found += [decouple(features), dilated(features)]
        return [*found, self.steps[2](features)]


class FAD(nn.Module):
    r"""A tower whose operations are still a mixture: the search is for the logits $\alpha$ of the mixture, by gradient descent.

    $$ s_i = \sum_{j < i} U_{ij} \sum_o \mathrm{softmax}(\alpha_{ij})_o\; o\left(V_{ij}\, s_j\right),
    \qquad y = \mathrm{conv}_{1}\left([s_2, \dots, s_{n+1}]\right) $$

    States $s_0$ and $s_1$ are given; each further one sums an edge from every state before it. An edge narrows the features by a 1x1
    convolution $V$, mixes eleven candidates $o$, and widens the mixture again by $U$. Ten of them come from two chains of
    `RepresentationSharing`, one of them separable; the eleventh is nothing, which adds 0.

    A detector has one tower for the boxes and one for the classes, in place of FCOS's four convolutions, the same at all pyramid levels;
    the tower of the boxes reads the level as both given states, that of the classes reads what the other has made of it and the level. A
    step of the search lowers the validation loss with respect to the logits (`alpha`), and the training loss with respect to everything
    else. `fad_genotype` then reads what is to stay, and `FADTower` is built from that and trained anew.

    Args:
        nodes: $n$, how many states the tower makes.
        width: $d$, channels, in and out.
        inner_width: $d'$, channels inside an edge.
        groups: $G$ of the group normalisation.
    """

    def __init__(self, *, nodes: int = 3, width: int = 256, inner_width: int = 96, groups: int = 32) -> None:
        super().__init__()
        self.alpha = nn.ParameterList(1e-3 * torch.randn(2 + i, 2 * len(CANDIDATES) + 1) for i in range(nodes))
        self.nodes = nn.ModuleList(_Node(_Mixture(width, inner_width, groups) for _ in range(2 + i)) for i in range(nodes))
        self.join = _join(nodes * width, width)

    @checked
    def forward(
        self, features: Float[Tensor, "b channels h w"], other: Float[Tensor, "b channels h w"] | None = None
    ) -> Float[Tensor, "b channels h w"]:
        """Features, and the other of the two states that are given (by default the same) -> features of that size."""
        states = [features if other is None else other, features]
        for alpha, node in zip(self.alpha, self.nodes, strict=True):
            weights = alpha.softmax(-1)
            states.append(node(*zip(states, weights, strict=True)))
        found: Tensor = self.join(torch.cat(states[2:], 1))
        return found


class _Node(nn.Module):
    """The sum of edges."""

    def __init__(self, edges: Iterable[nn.Module]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(edges)

    def forward(self, *given: tuple[Tensor, ...]) -> Tensor:
        """What is given to each edge -> the sum of what it gives."""
        return torch.stack([edge(*arguments) for edge, arguments in zip(self.edges, given, strict=True)]).sum(0)


class _Mixture(nn.Module):
    def __init__(self, width: int, inner_width: int, groups: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(width, inner_width, 1, bias=False)
        self.chains = nn.ModuleList(RepresentationSharing(inner_width, separable=s, groups=groups) for s in (False, True))
        self.widen = nn.Conv2d(inner_width, width, 1, bias=False)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """The last of the weights belongs to nothing."""
        x = self.narrow(x)
        candidates = torch.stack([candidate for chain in self.chains for candidate in chain(x)])
        found: Tensor = self.widen((weights[:-1, None, None, None, None] * candidates).sum(0))
        return found


@checked
def fad_genotype(logits: Float[Tensor, "*batch n c"], *, kept: int = 2) -> Int[Tensor, "*batch n"]:
    r"""Reads from the logits of a state's edges which of them stay, and with which candidate.

    $$ o_j = \operatorname*{arg\,max}_{o < c - 1} \alpha_{jo}, \qquad \text{kept: the } k \text{ largest } \alpha_{j o_j} $$

    The logits themselves are compared, and the last of each edge, that of nothing, is left out.

    Args:
        logits: $\alpha$, of $n$ edges into a state and $c$ candidates, one element of `FAD.alpha`.
        kept: $k$, how many edges of a state stay.

    Returns:
        The candidate of each edge, or -1 if the edge goes.
    """
    best, candidate = logits[..., :-1].max(-1)
    return torch.where(descending_rank(best) < kept, candidate, -1)


class FADTower(nn.Module):
    """The tower that a search has found, to be trained anew: of each edge that stays, one candidate is left, built on its own.

    A second cell reads the given features and, through a 1x1 convolution, the states of the first; and so on. Otherwise as `FAD`, but
    that narrowing and widening have biases.

    Args:
        genotype: for each state of a cell, the candidate of each edge, 0 to 4 for plain and 5 to 9 for separable chains, or -1 for none; as
            from `fad_genotype`.
        cells: $N$, how many cells of this genotype follow each other.
        width: $d$, channels, in and out.
        inner_width: $d'$, channels inside an edge.
        groups: $G$ of the group normalisation.
    """

    def __init__(
        self, genotype: Sequence[Sequence[int]], *, cells: int = 2, width: int = 256, inner_width: int = 96, groups: int = 32
    ) -> None:
        super().__init__()
        states = len(genotype) * width
        given = [width, width, *[states] * cells]
        self.cells = nn.ModuleList(_Cell(genotype, given[i : i + 2], width, inner_width, groups) for i in range(cells))
        self.join = _join(states, width)

    @checked
    def forward(
        self, features: Float[Tensor, "b channels h w"], other: Float[Tensor, "b channels h w"] | None = None
    ) -> Float[Tensor, "b channels h w"]:
        """As `FAD.forward`."""
        first, second = features if other is None else other, features
        for cell in self.cells:
            first, second = second, cell(first, second)
        found: Tensor = self.join(second)
        return found


class _Cell(nn.Module):
    def __init__(self, genotype: Sequence[Sequence[int]], given: list[int], width: int, inner_width: int, groups: int) -> None:
        super().__init__()
        self.prepare = nn.ModuleList(
            nn.Identity() if channels == width else _normalised(nn.Conv2d(channels, width, 1), width, groups) for channels in given
        )
        self.sources = [[j for j, candidate in enumerate(edges) if candidate >= 0] for edges in genotype]
        self.nodes = nn.ModuleList(
            _Node(_edge(candidate, width, inner_width, groups) for candidate in edges if candidate >= 0) for edges in genotype
        )

    def forward(self, *given: Tensor) -> Tensor:
        states = [prepare(x) for prepare, x in zip(self.prepare, given, strict=True)]
        for sources, node in zip(self.sources, self.nodes, strict=True):
            states.append(node(*((states[j],) for j in sources)))
        return torch.cat(states[2:], 1)


def _edge(candidate: int, width: int, inner_width: int, groups: int) -> nn.Sequential:
    separable, place = divmod(candidate, len(CANDIDATES))
    steps, then_dilated = CANDIDATES[place]
    chain = [_step(inner_width, bool(separable), groups) for _ in range(steps)]
    chain += [_dilated(inner_width, groups)] if then_dilated else []
    return nn.Sequential(nn.Conv2d(width, inner_width, 1), *chain, nn.Conv2d(inner_width, width, 1))


def _step(width: int, separable: bool, groups: int) -> nn.Sequential:
    if not separable:
        return _normalised(nn.Conv2d(width, width, 3, padding=1), width, groups)
    apart = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
    return _normalised(nn.Sequential(apart, nn.Conv2d(width, width, 1)), width, groups)


def _dilated(width: int, groups: int) -> nn.Sequential:
    apart = nn.Conv2d(width, width, 3, padding=2, dilation=2, groups=width)
    return _normalised(nn.Sequential(apart, nn.Conv2d(width, width, 1)), width, groups)


def _normalised(convolution: nn.Module, width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.GroupNorm(groups, width), nn.ReLU())


def _join(channels: int, width: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, width, 1)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
