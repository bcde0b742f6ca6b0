"""Objectness module: Nie, Anwer, Cholakkal, Khan, Pang and Shao, ICCV 2019 (enriched feature guided refinement network)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from reference_impl.ops.checked import checked
from reference_impl.ops.deformable import deformable_conv
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.numerics import widen

__all__ = ["GuidedRefinement", "ObjectnessModule", "objectness_module", "without_easy_anchors"]


@checked
def objectness_module(features: Float[Tensor, "*batch n k"], logits: Float[Tensor, "*batch n c"]) -> Float[Tensor, "*batch n k"]:
    r"""Strengthens the features of a location before its anchors are classified, and more so the likelier one of them is an object.

    $$ f_i' = f_i\,(1 + \max_a \sigma(x_{i,a})) $$

    The gradient of the class predictor reaches the binary classifier through the factor.

    Args:
        features: $f_i$ of each location.
        logits: $x_{i,a}$, of object against background, one for each of the $c$ anchors of a location.

    Returns:
        The features for the class predictor. They may be negative.
    """
    return widen(features) * (1 + widen(logits).amax(-1, keepdim=True).sigmoid())


@checked
def without_easy_anchors(
    score: Float[Tensor, "*batch n c"], objectness: Float[Tensor, "*batch n"], *, threshold: float = 0.01
) -> Float[Tensor, "*batch n c"]:
    r"""Sets to 0 all scores of anchors that a binary classifier takes for background, before anything else is done with them.

    $$ s_c' = \begin{cases} s_c, & o > \theta \\ 0, & \text{otherwise} \end{cases} $$

    Args:
        score: $s_c$, of each anchor and class, in [0, 1].
        objectness: $o$ of each anchor, in [0, 1].
        threshold: objectness $\theta$ up to which an anchor is easy.

    Returns:
        The scores, 0 for easy anchors.
    """
    return torch.where((widen(objectness) > threshold)[..., None], widen(score), 0)


class ObjectnessModule(nn.Module):
    """Object or not, and a first regression, for the anchors of one level, and that level's features after `objectness_module`.

    One convolution for each, as in the authors' code. Both outputs are trained as those of SSD with a single class, by `ssd_targets` and
    `ssd_loss`, and the offsets refine the anchors before the class predictor refines them again.

    Args:
        channels: of the features.
        anchors: number of anchors at a location.
    """

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.anchors = anchors
        self.classify = nn.Conv2d(channels, anchors * 2, 3, padding=1)
        self.regress = nn.Conv2d(channels, anchors * 4, 3, padding=1)

    @checked
    def forward(
        self, features: Float[Tensor, "b channels h w"]
    ) -> tuple[Float[Tensor, "b channels h w"], Float[Tensor, "b n 2"], Float[Tensor, "b n 4"]]:
        """Features -> features, logits (object, then background) and offsets of each anchor, row by row."""
        logits = per_anchor(self.classify(features), anchors=self.anchors)
        images, channels, height, width = features.shape
        of_location = logits[..., 0].reshape(images, height * width, self.anchors)
        enriched = objectness_module(features.flatten(-2).mT, of_location).mT.reshape(images, channels, height, width)
        return enriched, logits, per_anchor(self.regress(features), anchors=self.anchors)


class GuidedRefinement(nn.Module):
    r"""Lets the class predictor look where the first regression has moved the anchors.

    $$ f'' = \mathrm{relu}(\mathrm{BN}(\mathrm{deform}(f', \Delta))), \qquad
       \Delta = \mathrm{relu}(\mathrm{BN}(\mathrm{conv}_1(t_x, t_y))) $$

    $t_x$ and $t_y$ are the offsets of the centre of all anchors of a location, by the first regression. $\Delta$ are the offsets of a
    deformable 3x3 convolution, one pair for each tap. As in the authors' code they are rectified, so that the taps move only down and to
    the right.

    Args:
        channels: of the features.
        anchors: number of anchors at a location.
        width: $d$, channels of the result.
        dilation: $r$ of the convolution; in the authors' network 5, 4, 3 and 2, from the finest level on.
    """

    def __init__(self, channels: int, anchors: int, *, width: int = 256, dilation: int = 5) -> None:
        super().__init__()
        self.anchors, self.dilation = anchors, dilation
        self.offsets = nn.Sequential(nn.Conv2d(anchors * 2, 18, 1, bias=False), nn.BatchNorm2d(18, momentum=0.01), nn.ReLU())
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(width, channels, 3, 3)))
        self.norm = nn.BatchNorm2d(width, momentum=0.01)

    @checked
    def forward(self, features: Float[Tensor, "b channels h w"], offsets: Float[Tensor, "b n 4"]) -> Float[Tensor, "b width h w"]:
        """Features and offsets of each anchor, both from `ObjectnessModule` -> features for the class predictor.

        Raises:
            ValueError: `offsets` do not have `n = h w anchors` rows.
        """
        images, _, height, width = features.shape
        if offsets.shape[1] != height * width * self.anchors:
            expected = f"{height * width * self.anchors}, {self.anchors} for each of {height} x {width} locations"
            raise ValueError(f"GuidedRefinement: `offsets` have {offsets.shape[1]} rows; expected {expected}")
        shift = offsets[..., :2].reshape(images, height, width, self.anchors, 2).permute(0, 4, 3, 1, 2).flatten(1, 2)
        moved = deformable_conv(features, self.offsets(shift), self.weight, padding=self.dilation, dilation=self.dilation)
        return relu(self.norm(moved))
