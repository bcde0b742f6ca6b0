"""Laws of DetNAS's backbone and of the network it was searched in."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from reference_impl.pyramids import DetNAS, DetNASSearch
from reference_impl.pyramids.detnas import CANDIDATES, FOUND

ARCHITECTURE = ["shuffle_5x5", "xception_3x3", "shuffle_7x7", "shuffle_3x3"]
SIZES = {"blocks": [2, 2], "widths": [4, 8, 16]}


def image(device: str, size: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64).to(device)]


def backbone(device: str, architecture: list[str] = ARCHITECTURE) -> DetNAS:
    torch.manual_seed(0)
    return DetNAS(architecture, **SIZES).double().to(device)


def search(device: str) -> DetNASSearch:
    torch.manual_seed(0)
    return DetNASSearch(**SIZES).double().to(device)


@pytest.mark.parametrize(
    ("architecture", "blocks", "widths", "limit"),
    [
        ("21202112331300313132", [4, 4, 8, 4], [16, 64, 160, 320, 640], 300e6),
        ("23113213311133203333", [4, 4, 8, 4], [16, 64, 160, 320, 640], 300e6),
        (None, [8, 8, 16, 8], [48, 96, 240, 480, 960], 1.3e9),
    ],
)
def test_what_was_found_keeps_the_limit_of_its_search(architecture: str | None, blocks: list[int], widths: list[int], limit: float) -> None:
    """The authors' networks, for FPN and RetinaNet at 300 M and for FPN at 1.3 G operations on 224 by 224 pixels."""
    names = FOUND if architecture is None else [CANDIDATES[int(k)] for k in architecture]
    with torch.device("meta"):
        module, given = DetNAS(names, blocks=blocks, widths=widths), [torch.empty(1, 3, 224, 224)]
    with FlopCounterMode(display=False) as counter:
        module(given)
    assert 0.95 * limit < counter.get_total_flops() / 2 < limit


def test_a_map_for_each_stage_at_strides_of_4_8_16_and_32() -> None:
    with torch.device("meta"):
        module, given = DetNAS(), [torch.empty(2, 3, 101, 64)]
    assert [tuple(x.shape) for x in module(given)] == [(2, 96, 26, 16), (2, 240, 13, 8), (2, 480, 7, 4), (2, 960, 4, 2)]


def test_every_second_channel_passes_a_block(device: str) -> None:
    stage = backbone(device).eval().stages[0]
    before = stage[0](torch.randn(1, 4, 6, 6, dtype=torch.float64, device=device))
    assert stage[1](before)[:, :4].equal(before[:, ::2])


@pytest.mark.parametrize(("name", "reach"), [("shuffle_3x3", 1), ("shuffle_5x5", 2), ("shuffle_7x7", 3), ("xception_3x3", 3)])
def test_a_block_sees_as_far_as_its_convolutions(name: str, reach: int, device: str) -> None:
    stage = backbone(device, ["shuffle_3x3", name, *ARCHITECTURE[2:]]).eval().stages[0]
    for parameter in stage.parameters():
        parameter.data.abs_().add_(0.1)
    x = torch.rand(1, 8, 11, 11, dtype=torch.float64, device=device, requires_grad=True)
    stage[1](x)[..., 5, 5].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(0).nonzero() - 5
    assert sorted(set(seen.flatten().tolist())) == list(range(-reach, reach + 1))


def test_a_candidate_in_the_search_network_is_the_backbone_with_its_weights(device: str) -> None:
    """One path of the search network, its blocks put into a backbone, gives the same maps."""
    mixed, module, given = search(device).eval(), backbone(device).eval(), image(device)
    module.stem.load_state_dict(mixed.stem.state_dict())
    blocks = [block for stage in module.stages for block in stage.children()]
    for ours, theirs, name in zip(blocks, mixed.forms, ARCHITECTURE, strict=True):
        ours.load_state_dict(theirs.get_submodule(name).state_dict())
    for ours, theirs in zip(module(given), mixed(given, ARCHITECTURE), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_call_trains_one_form_of_each_block(device: str) -> None:
    module = search(device)
    sum(x.square().sum() for x in module(image(device), ARCHITECTURE)).backward()
    for forms, taken in zip(module.forms, ARCHITECTURE, strict=True):
        for name, form in forms.named_children():
            assert all(p.grad is not None for p in form.parameters()) == (name == taken)


def test_architectures_are_drawn_evenly() -> None:
    module = DetNASSearch(**SIZES)
    assert module.random_architecture(torch.tensor([0.0, 0.25, 0.5, 0.99])) == list(CANDIDATES)
    torch.manual_seed(0)
    drawn = [name for _ in range(500) for name in module.random_architecture()]
    for name in CANDIDATES:
        assert drawn.count(name) / len(drawn) == pytest.approx(0.25, abs=0.03)


def test_it_learns(device: str) -> None:
    """Within a few steps the coarser map can be taught to tell which of two images it sees."""
    module, given = backbone(device).train(), image(device)
    target = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = mse_loss(module(given)[1].mean((1, 2, 3)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_one_graph(device: str) -> None:
    counter = CompileCounter()
    torch.compile(backbone(device).eval(), fullgraph=True, backend=counter)(image(device))
    assert int(counter.frame_count) == 1


def test_what_does_not_fit_is_named(device: str) -> None:
    with pytest.raises(ValueError, match=r"`architecture` is \['conv'\]; expected 1 of shuffle_3x3,"):
        DetNAS(["conv"], blocks=[1], widths=[4, 8])
    with pytest.raises(ValueError, match="expected 4 of shuffle_3x3"):
        search(device)(image(device), ARCHITECTURE[:3])
    with pytest.raises(ValueError, match=r"`widths` is \(4, 8\); expected 3, growing, those of the stages even"):
        DetNASSearch(blocks=[1, 1], widths=[4, 8])
    with pytest.raises(ValueError, match=r"`blocks` is \(1, 0\); expected at least one a stage"):
        DetNAS(["shuffle_3x3"], blocks=[1, 0], widths=[4, 8, 16])
    with pytest.raises(ValueError, match=r"`levels\[0\]` has shape \(1, 4, 8, 8\)"):
        backbone(device)([torch.zeros(1, 4, 8, 8, dtype=torch.float64, device=device)])


def test_evolution_finds_what_chance_does_not() -> None:
    """With the share of blocks that a hidden architecture has, too, as the measure."""
    torch.manual_seed(0)
    network = DetNASSearch([2, 2, 4, 2], [2, 4, 6, 8, 10])
    wanted = network.random_architecture()
    judged: list[list[str]] = []

    def measure(architecture: list[str]) -> float:
        judged.append(architecture)
        return sum(a == b for a, b in zip(architecture, wanted, strict=True)) / len(wanted)

    best = network.evolve(measure)
    assert best[0] == wanted
    assert len(best) == 10
    assert len({tuple(x) for x in judged}) == len(judged) <= 20 * 50
    by_chance = max(map(measure, judged[:50]))
    assert by_chance < 0.8
    assert [measure(x) for x in best] == sorted(map(measure, best), reverse=True)


def test_evolution_judges_only_what_fits() -> None:
    """The longest kernels, with at most four of them."""
    torch.manual_seed(0)
    network = DetNASSearch([2, 2, 4, 2], [2, 4, 6, 8, 10])
    best = network.evolve(lambda x: x.count("shuffle_7x7"), lambda x: x.count("shuffle_7x7") <= 4, rounds=5)
    assert [x.count("shuffle_7x7") for x in best] == [4] * 10


def test_evolution_ends_when_nothing_new_is_left() -> None:
    torch.manual_seed(0)
    network = DetNASSearch(blocks=[1], widths=[4, 8])
    assert network.evolve(lambda x: CANDIDATES.index(x[0])) == [[name] for name in reversed(CANDIDATES)]
    assert network.evolve(lambda _: 0.0, lambda _: False) == []


def test_noise_says_which_blocks_change() -> None:
    network = DetNASSearch(**SIZES)
    noise = torch.tensor([[0.0, 0.9], [0.5, 0.9], [0.09, 0.3], [0.1, 0.3]])
    assert network.mutated_architecture(ARCHITECTURE, noise) == ["xception_3x3", "xception_3x3", "shuffle_5x5", "shuffle_3x3"]
    other = ["shuffle_3x3"] * 4
    crossed = network.crossed_architecture(ARCHITECTURE, other, torch.tensor([0.5, 0.49, 0.0, 0.9]))
    assert crossed == ["shuffle_3x3", "xception_3x3", "shuffle_7x7", "shuffle_3x3"]
    with pytest.raises(ValueError, match=r"crossed_architecture: `architecture` is .*; expected 4 of shuffle_3x3"):
        network.crossed_architecture(ARCHITECTURE, other[:3])
