"""MetaAnchor: Yang, Zhang, Li, Zhang and Sun, NeurIPS 2018."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from reference_impl.ops.boxes import box_size
from reference_impl.ops.checked import checked
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.numerics import safe_log, widen

__all__ = ["MetaAnchor", "prior_code"]


@checked
def prior_code(anchors: Float[Tensor, "*batch n 4"], reference: Float[Tensor, "*batch n 4"]) -> Float[Tensor, "*batch n 2"]:
    r"""What `MetaAnchor` is told of a prior box: how much wider and higher it is than the standard box of its level.

    $$ b = \left(\ln\frac{w}{W}, \ln\frac{h}{H}\right) $$

    Args:
        anchors: prior boxes, absolute `(x1, y1, x2, y2)` in pixels; where they are does not matter.
        reference: the standard box for each.

    Returns:
        Two numbers for each box, 0 and 0 for the standard box itself. They may be negative.
    """
    return safe_log(box_size(widen(anchors))) - safe_log(box_size(widen(reference)))


class MetaAnchor(nn.Module):
    r"""The last layer of a dense detector's branch, whose weights are made for each prior box that is asked for.

    A detector has a set of weights for each of its anchor shapes. Here all shapes share one set and a small network of two layers says how
    each deviates from it, so that any shape may be asked for, in training and after it:

    $$ \theta_b = \theta^* + W_2\,\sigma(W_1 b) $$

    $b$ is the `prior_code` of the shape, $\theta^*$ the shared set, and $\sigma$ a rectifier. The standard shape, $b = 0$, has the shared
    set itself. The variant that depends on the data adds $W_{12}\,r(x)$ inside the brackets, with the mean $r(x)$ of the features over all
    locations, and so has weights for each image. With $W_2 = 0$ this is an ordinary convolution, one for all shapes. Prior boxes are
    matched with the ground truth as anchors are, `ops.matching.match`. There is one module for the classes, with an output for each, and
    one for the box, with four.

    Args:
        channels: of the features.
        outputs: numbers to predict for each prior box.
        hidden: $m$, units of the generator's inner layer.
        kernel: $k$, side of the convolution.
        data_dependent: whether the weights depend on the features, too.
    """

    def __init__(self, channels: int, outputs: int, *, hidden: int = 128, kernel: int = 3, data_dependent: bool = False) -> None:
        super().__init__()
        self.outputs, self.padding = outputs, kernel // 2
        self.weight = nn.Parameter(0.01 * torch.randn(outputs, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.of_prior = nn.Linear(2, hidden, bias=False)
        self.of_data = nn.Linear(channels, hidden, bias=False) if data_dependent else None
        self.residual = nn.Linear(hidden, outputs * (channels * kernel**2 + 1), bias=False)
        nn.init.normal_(self.residual.weight, std=0.001)

    @checked
    def forward(self, features: Float[Tensor, "b channels h w"], prior: Float[Tensor, "a 2"]) -> Float[Tensor, "b n outputs"]:
        """Features of a level, and `prior_code` of each shape -> predictions for every shape at every location, row by row."""
        images, channels, height, width = features.shape
        hidden = self.of_prior(prior)[None]
        if self.of_data is not None:
            hidden = hidden + self.of_data(features.mean((-2, -1)))[:, None]
        generated = self.residual(relu(hidden)).unflatten(-1, (self.outputs, -1))
        weight = generated[..., :-1].unflatten(-1, self.weight.shape[1:]) + self.weight
        bias = generated[..., -1] + self.bias
        # One group of channels for each image that has weights of its own; all images together where they share them.
        groups = weight.shape[0]
        grouped = features.reshape(images // groups, groups * channels, height, width)
        maps = conv2d(grouped, weight.flatten(0, 2), bias.flatten(), padding=self.padding, groups=groups)
        anchors = prior.shape[0]
        return per_anchor(maps.reshape(images, anchors * self.outputs, *maps.shape[-2:]), anchors=anchors)
