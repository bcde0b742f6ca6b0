"""Laws of Auto-FPN's fusion."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import mse_loss, one_hot

from reference_impl.measure import path_lengths, trace
from reference_impl.ops.levels import resize_like
from reference_impl.pyramids import AutoFPN, AutoFPNSearch
from reference_impl.pyramids.auto_fpn import CANDIDATES

FOUND = [
    ["skip", "none", "separable_5x5"],
    ["dilated_5x5_rate_3", "dilated_3x3_rate_2", "none"],
    ["none", "separable_3x3", "dilated_5x5_rate_2"],
]


def levels(device: str, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(c, size >> i) for i, c in enumerate((2, 3, 4))]
    return [torch.randn(2, c, s, s, generator=generator, dtype=torch.float64).to(device) for c, s in shapes]


def pyramid(device: str, genotype: list[list[str]] = FOUND) -> AutoFPN:
    torch.manual_seed(0)
    return AutoFPN([2, 3, 4], genotype, width=6).double().to(device)


def search(device: str) -> AutoFPNSearch:
    torch.manual_seed(0)
    return AutoFPNSearch([2, 3, 4], width=6).double().to(device)


def choose(module: AutoFPNSearch, genotype: list[list[str]], weight: float) -> None:
    index = torch.tensor([[CANDIDATES.index(name) for name in row] for row in genotype])
    module.architecture.data.copy_(weight * one_hot(index, len(CANDIDATES)))


def test_skips_alone_sum_what_the_levels_have(device: str) -> None:
    module, given = pyramid(device, [["skip"] * 3] * 3).eval(), levels(device)
    maps = [lateral(x) for lateral, x in zip(module.lateral, given, strict=True)]
    for like, found in zip(maps, module(given), strict=True):
        torch.testing.assert_close(found, torch.stack([resize_like(x, like) for x in maps]).sum(0))


def test_the_genotype_says_which_level_reaches_which_and_how() -> None:
    """A lateral layer, then none for a skip, two for a dilated convolution, four for a separable one, and no way where there is none."""
    lengths = path_lengths(trace(pyramid("cpu").eval(), levels("cpu")))
    assert lengths.tolist() == [[1, -1, 5], [3, 3, -1], [-1, 5, 3]]


@pytest.mark.parametrize(
    ("name", "reach", "step"),
    [
        ("dilated_3x3_rate_2", 2, 2),
        ("dilated_3x3_rate_3", 3, 3),
        ("dilated_5x5_rate_2", 4, 2),
        ("dilated_5x5_rate_3", 6, 3),
        ("separable_3x3", 2, 1),
        ("separable_5x5", 4, 1),
    ],
)
def test_an_operation_sees_as_far_as_its_name_says(name: str, reach: int, step: int, device: str) -> None:
    module, given = pyramid(device, [[name, "none", "none"]] + [["skip"] * 3] * 2).eval(), levels(device, 32)
    given[0].requires_grad_()
    for parameter in module.parameters():
        parameter.data.abs_().add_(0.1)
    given[0].data.abs_()
    module(given)[0][0, :, 16, 16].sum().backward()
    assert given[0].grad is not None
    seen = given[0].grad[0].abs().sum(0).nonzero() - 16
    assert sorted(set(seen.flatten().tolist())) == list(range(-reach, reach + 1, step))


def test_a_search_that_is_decided_is_the_pyramid_that_it_found(device: str) -> None:
    """With almost all weight on one operation of each connection, the search network gives what the genotype made from it gives."""
    mixed, given = search(device).eval(), levels(device)
    choose(mixed, FOUND, 60.0)
    assert mixed.genotype() == FOUND
    module = pyramid(device, mixed.genotype()).eval()
    for ours, theirs in zip(module.lateral, mixed.lateral, strict=True):
        ours.load_state_dict(theirs.state_dict())
    for row, level, mixed_level in zip(FOUND, module.fuse, mixed.fuse, strict=True):
        all_operations, chosen = (list(x.get_submodule("operations").children()) for x in (mixed_level, level))
        used = [all_operations[j * 7 + CANDIDATES.index(name) - 1] for j, name in enumerate(row) if name != "none"]
        for ours, theirs in zip(chosen, used, strict=True):
            ours.load_state_dict(theirs.state_dict(), strict=False)
    for ours, theirs in zip(module(given), mixed(given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_search_starts_without_a_preference(device: str) -> None:
    module = search(device)
    assert module.architecture.shape == (3, 3, len(CANDIDATES))
    assert (module.architecture.softmax(-1) == 1 / len(CANDIDATES)).all()


def test_every_level_found_has_a_connection(device: str) -> None:
    """Where "none" leads everywhere, the strongest operation stays; by its weight, not by its logit. Elsewhere "none" may win."""
    module = search(device)
    choose(module, [["none"] * 3, ["none"] * 3, ["none", "skip", "none"]], 2.0)
    with torch.no_grad():
        module.architecture[0, 1, CANDIDATES.index("separable_3x3")] = 1.0
        module.architecture[1, 0] += 5
        module.architecture[1, 2, CANDIDATES.index("dilated_5x5_rate_2")] = 1.0
    found = module.genotype()
    assert found == [["none", "separable_3x3", "none"], ["none", "none", "dilated_5x5_rate_2"], ["none", "skip", "none"]]
    pyramid(device, found)(levels(device))


def test_how_many_parameters_a_search_has() -> None:
    """By hand, at ResNet-50's channels: laterals, weights of operations, and 16 connections of eight convolutions over 256 channels."""
    with torch.device("meta"):
        module = AutoFPNSearch([256, 512, 1024, 2048])
    convolutions = sum(256 * size**2 + 256**2 for size in (3, 5, 3, 5, 3, 3, 5, 5))
    assert sum(p.numel() for p in module.parameters()) == (3840 + 4) * 256 + 4 * 4 * 8 + 16 * convolutions


def test_a_search_finds_the_level_that_is_of_use(device: str) -> None:
    """The coarsest output is taught to show its own level: that connection becomes a skip, and the others are given up.

    The weights of operations and all other parameters are trained in turns, on different images.
    """
    module, given = search(device).train(), levels(device)
    train, held_out = ([x[i : i + 1].repeat(2, 1, 1, 1) for x in given] for i in range(2))
    weights = [p for name, p in module.named_parameters() if name != "architecture"]
    with torch.no_grad():
        wanted = [module.lateral[2](x[2]) for x in (train, held_out)]
    optimisers = torch.optim.Adam(weights, lr=0.01), torch.optim.Adam([module.architecture], lr=0.1)
    losses = []
    for _ in range(60):
        for optimiser, images, target in zip(optimisers, (train, held_out), wanted, strict=True):
            loss = mse_loss(module(images)[2], target)
            module.zero_grad()
            loss.backward()
            optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert module.genotype()[2] == ["none", "none", "skip"]


def test_the_pyramid_found_learns(device: str) -> None:
    """It can be taught to show a coarse map at the finest level, by its separable convolutions."""
    given, module = levels(device), pyramid(device)
    target = resize_like(given[2][:, :1], given[0])
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = mse_loss(module(given)[0][:, :1], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("make", [pyramid, search])
def test_every_parameter_learns_in_half_precision_and_of_odd_sizes(make: Callable[[str], nn.Module], device: str) -> None:
    module = make(device).bfloat16()
    shapes = [(2, 11, 17), (3, 6, 9), (4, 3, 5)]
    given = [torch.randn(2, *shape, device=device, dtype=torch.bfloat16) for shape in shapes]
    found = module(given)
    assert [tuple(x.shape[1:]) for x in found] == [(6, *shape[1:]) for shape in shapes]
    torch.stack([x.float().square().mean() for x in found]).sum().backward()
    for x in (*found, *(p.grad for p in module.parameters())):
        assert x is not None
        assert x.dtype is torch.bfloat16
        assert x.isfinite().all()


@pytest.mark.parametrize("make", [pyramid, search])
def test_images_do_not_meet(make: Callable[[str], nn.Module], device: str) -> None:
    module, given = make(device).eval(), levels(device)
    for x, alone in zip(module(given), module([x[1:] for x in given]), strict=True):
        torch.testing.assert_close(x[1:], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [pyramid, search])
def test_one_graph(make: Callable[[str], nn.Module], device: str) -> None:
    counter = CompileCounter()
    torch.compile(make(device).eval(), fullgraph=True, backend=counter)(levels(device))
    assert int(counter.frame_count) == 1


def test_a_wrong_genotype_is_named() -> None:
    with pytest.raises(ValueError, match="`genotype` has 2 rows; expected 3"):
        pyramid("cpu", FOUND[:2])
    with pytest.raises(ValueError, match=r"`genotype\[1\]` is \['skip', 'conv', 'none'\]; expected 3 of none, skip,"):
        pyramid("cpu", [FOUND[0], ["skip", "conv", "none"], FOUND[2]])
    with pytest.raises(ValueError, match=r"`genotype\[1\]` is \['skip', 'skip'\]; expected 3 of"):
        pyramid("cpu", [FOUND[0], ["skip", "skip"], FOUND[2]])
    with pytest.raises(ValueError, match=r"`genotype\[2\]` leaves its level without a connection"):
        pyramid("cpu", [*FOUND[:2], ["none"] * 3])


@pytest.mark.parametrize("make", [pyramid, search])
def test_wrong_levels_are_named(make: Callable[[str], nn.Module]) -> None:
    module, given = make("cpu"), levels("cpu")
    with pytest.raises(ValueError, match="`levels` has 2 feature maps; expected 3"):
        module(given[:2])
    with pytest.raises(TypeError, match=r"`levels\[0\]` is torch.int64"):
        module([given[0].long(), *given[1:]])
