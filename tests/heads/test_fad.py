"""Laws of the search of fast and diverse detector towers."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from reference_impl.heads import FAD, FADTower, RepresentationSharing, fad_genotype


def features(device: str, height: int = 8, width: int = 9) -> Tensor:
    return torch.randn(2, 8, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)


def search(device: str, nodes: int = 2) -> FAD:
    torch.manual_seed(0)
    return FAD(nodes=nodes, width=8, inner_width=4, groups=2).double().to(device)


def without_normalisation(module: nn.Module) -> nn.Module:
    """Group normalisation mixes all locations; without it one sees how far the convolutions reach."""
    for child in list(module.modules()):
        if isinstance(child, nn.Sequential) and len(child) > 1 and isinstance(child[1], nn.GroupNorm):
            child[1] = nn.Identity()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)
    return module


def test_a_chain_stands_for_candidates_of_larger_and_larger_reach(device: str) -> None:
    """To each side 1, 3, 2, 4 and 3 cells, plain or separable."""
    x = features(device, 1, 21).abs()
    touched = x.clone()
    touched[..., 10] += 1
    for separable in (False, True):
        chain = without_normalisation(RepresentationSharing(8, separable=separable, groups=2).double().to(device))
        for before, after, reach in zip(chain(x), chain(touched), (1, 3, 2, 4, 3), strict=True):
            columns = (before != after).any(1).any(0).any(0).nonzero().flatten()
            assert (columns.min().item(), columns.max().item()) == (10 - reach, 10 + reach)


def test_a_chain_shares_its_first_step(device: str) -> None:
    """All candidates learn the first step, the last two the second, the last one the third."""
    chain = RepresentationSharing(8, groups=2).double().to(device)
    for candidate, expected in zip(chain(features(device)), (1, 1, 2, 2, 3), strict=True):
        found = torch.autograd.grad(candidate.sum(), list(chain.steps.parameters()), allow_unused=True, retain_graph=True)
        assert [g is not None for g in found[::4]] == [k < expected for k in range(3)]


def test_equal_logits_mix_equally_and_nothing_takes_the_rest(device: str) -> None:
    """With the logit of nothing far above the others, nothing but the last bias is left."""
    module, x = search(device), features(device)
    with torch.no_grad():
        for alpha in module.alpha:
            alpha.zero_()
        equal = module(x)
        for alpha in module.alpha:
            alpha[:, -1] = 1000.0
        nothing = module(x)
    assert equal.std() > 0
    torch.testing.assert_close(nothing, module.join.bias.detach()[:, None, None].expand_as(nothing))


def test_a_state_reads_all_states_before_it(device: str) -> None:
    """The last state learns every edge into every state; the first only its own two."""
    module = search(device, nodes=3)
    for i, node in enumerate(module.nodes):
        seen: list[Tensor] = []
        node.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
        module(features(device))
        found = torch.autograd.grad(seen[0].sum(), list(module.alpha), allow_unused=True)
        assert [g is not None for g in found] == [k <= i for k in range(3)]
        assert all(g.abs().amax(-1).gt(0).all() for g in found[: i + 1])


def test_a_genotype_keeps_two_edges_of_each_state(device: str) -> None:
    logits = torch.randn(5, 4, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    genotype = fad_genotype(logits)
    assert (genotype >= 0).sum(-1).eq(2).all()
    assert genotype.max() < 10
    lowest_kept = logits[..., :-1].amax(-1).masked_fill(genotype < 0, 1e9).amin(-1)
    highest_gone = logits[..., :-1].amax(-1).masked_fill(genotype >= 0, -1e9).amax(-1)
    assert (lowest_kept > highest_gone).all()


def test_the_tower_is_what_the_search_found(device: str) -> None:
    """From the logits to the genotype to a tower of fewer parameters than one cell of the search."""
    module = search(device, nodes=3)
    genotype = [fad_genotype(alpha).tolist() for alpha in module.alpha]
    tower = FADTower(genotype, cells=1, width=8, inner_width=4, groups=2).double().to(device)
    x = features(device)
    assert tower(x, x + 1).shape == module(x, x + 1).shape == x.shape
    assert sum(p.numel() for p in tower.parameters()) < sum(p.numel() for p in module.parameters()) / 3


def test_both_kinds_of_steps_lower_their_loss(device: str) -> None:
    """The search alternates: logits on one batch, all else on another; both losses fall."""
    module, x = search(device), features(device)
    target = x.roll(2, -1).relu()
    alphas = list(module.alpha)
    weights = [p for name, p in module.named_parameters() if "alpha" not in name]
    optimisers = torch.optim.Adam(alphas, lr=0.05, betas=(0.5, 0.999)), torch.optim.Adam(weights, lr=0.02)
    before = [alpha.detach().clone() for alpha in alphas]
    losses = []
    for step in range(40):
        batch, optimiser = step % 2, optimisers[step % 2]
        loss = mse_loss(module(x[batch : batch + 1]), target[batch : batch + 1])
        module.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-2] < losses[0]
    assert losses[-1] < losses[1] / 1.5
    assert all(not a.equal(b) for a, b in zip(before, alphas, strict=True))


def test_the_tower_learns(device: str) -> None:
    torch.manual_seed(0)
    x = features(device)
    tower = FADTower([[2, 6], [1, -1, 3]], width=8, inner_width=8, groups=2).double().to(device)
    target = x.roll(1, -1).relu()
    optimiser = torch.optim.Adam(tower.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = mse_loss(tower(x), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
