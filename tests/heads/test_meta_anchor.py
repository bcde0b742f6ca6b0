"""Laws of MetaAnchor."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from reference_impl.heads import MetaAnchor, prior_code


def features(device: str) -> Tensor:
    return torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)


def priors(device: str) -> Tensor:
    return torch.tensor([[0.0, 0.0], [0.7, -0.7], [-0.3, 1.1], [0.2, 0.2]], dtype=torch.float64, device=device)


def head(device: str, *, data_dependent: bool) -> MetaAnchor:
    torch.manual_seed(0)
    module = MetaAnchor(5, 2, hidden=7, data_dependent=data_dependent).double().to(device)
    torch.nn.init.normal_(module.residual.weight, std=0.2)
    return module


def test_each_shape_has_its_own_convolution(device: str) -> None:
    """One image and one shape at a time, with the generator written out."""
    x, b = features(device), priors(device)
    for data_dependent in (False, True):
        module = head(device, data_dependent=data_dependent)
        found = module(x, b).reshape(3, 4, 6, 4, 2)
        for i in range(3):
            for a in range(4):
                hidden = module.of_prior.weight @ b[a]
                if module.of_data is not None:
                    hidden = hidden + module.of_data.weight @ x[i].mean((1, 2))
                theta = (module.residual.weight @ hidden.clamp(min=0)).reshape(2, 46)
                weight, bias = theta[:, :45].reshape(2, 5, 3, 3) + module.weight, theta[:, 45] + module.bias
                expected = conv2d(x[i : i + 1], weight, bias, padding=1)[0]
                torch.testing.assert_close(found[i, :, :, a], expected.permute(1, 2, 0))


def test_without_a_residual_it_is_one_convolution_for_all_shapes(device: str) -> None:
    module = head(device, data_dependent=True)
    torch.nn.init.zeros_(module.residual.weight)
    expected = conv2d(features(device), module.weight, module.bias, padding=1).permute(0, 2, 3, 1).reshape(3, 24, 1, 2)
    torch.testing.assert_close(module(features(device), priors(device)).reshape(3, 24, 4, 2), expected.expand(3, 24, 4, 2))


def test_the_standard_shape_has_the_shared_weights(device: str) -> None:
    module = head(device, data_dependent=False)
    expected = conv2d(features(device), module.weight, module.bias, padding=1).permute(0, 2, 3, 1).reshape(3, 24, 2)
    torch.testing.assert_close(module(features(device), priors(device)[:1]), expected)


def test_a_shape_does_not_see_the_others(device: str) -> None:
    for data_dependent in (False, True):
        module = head(device, data_dependent=data_dependent)
        together = module(features(device), priors(device)).reshape(3, 24, 4, 2)
        for a in range(4):
            torch.testing.assert_close(module(features(device), priors(device)[a : a + 1]), together[:, :, a])


def test_only_the_size_of_a_prior_box_matters(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    corner, size = (100 * torch.rand(20, 2, generator=generator, dtype=torch.float64) + 1 for _ in range(2))
    boxes = torch.cat((corner, corner + size), -1).to(device)
    standard = torch.tensor([0.0, 0.0, 32.0, 32.0], dtype=torch.float64, device=device).expand(20, 4)
    code = prior_code(boxes, standard)
    torch.testing.assert_close(32 * code.exp(), size.to(device))
    torch.testing.assert_close(prior_code(boxes + 50, standard), code)
    torch.testing.assert_close(prior_code(3 * boxes, 3 * standard), code)


def test_training_serves_a_shape_that_was_not_trained(device: str) -> None:
    """The wanted output is a smooth function of features and shape; a shape between the trained ones comes out right as well."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 5, device=device)
    trained = torch.linspace(-1, 1, 6, device=device)[:, None].expand(6, 2)
    between = trained[:-1] + 0.2

    def wanted(prior: Tensor) -> Tensor:
        return (x.sum(1).flatten(1)[..., None] * prior[:, 0] + prior[:, 1]).reshape(4, -1, 1)

    module = MetaAnchor(3, 1, hidden=16).to(device)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    before = (module(x, between) - wanted(between)).square().mean()
    losses = []
    for _ in range(100):
        loss = (module(x, trained) - wanted(trained)).square().mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.1 * losses[0]
    assert (module(x, between) - wanted(between)).square().mean() < 0.1 * before
