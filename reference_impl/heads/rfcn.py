"""R-FCN: Dai, Li, He and Sun, NIPS 2016."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reference_impl.ops.checked import checked
from reference_impl.ops.psroi import ps_roi_pool

__all__ = ["RFCN"]


class RFCN(nn.Module):
    r"""A second stage without layers of its own: regions only vote, so that all proposals can be scored and the hardest kept.

    $$ r_c = \frac{1}{k^2} \sum_{i, j = 1}^{k} \frac{1}{|R_{ij}|} \sum_{p \in R_{ij}} z_{ijc}(p) $$

    is the logit of class $c$ for a region. The map $z_{ijc}$ says where part $(i, j)$ of an object of the class would be, and $R_{ij}$ are
    the cells of this part of the region. The deltas of the box are made in the same way, once for all classes. Training passes all
    proposals (`sampling.proposal_selection`) through the head, takes those with the largest sums of classification and regression loss
    (`sampling.ohem`), 128 for each image, and learns from these.

    Args:
        channels: of the features, such as the 2048 of ResNet's last stage at stride 16.
        classes: number $C$ of foreground classes; background comes last.
        bins: $k$, parts of a region in either direction.
        hidden: $C_h$, channels of the layer before the score maps.
        stride: $s$, pixels from one cell of the features to the next.
    """

    def __init__(self, channels: int, classes: int, *, bins: int = 7, hidden: int = 1024, stride: int = 16) -> None:
        super().__init__()
        self.bins, self.stride = bins, stride
        self.hidden = nn.Conv2d(channels, hidden, 1)
        self.classes = nn.Conv2d(hidden, (classes + 1) * bins**2, 1)
        self.deltas = nn.Conv2d(hidden, 4 * bins**2, 1)
        for layer in (self.hidden, self.classes, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    @checked
    def forward(
        self, features: Float[Tensor, "b channels h w"], boxes: Float[Tensor, "b n 4"]
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n 4"]]:
        """Features of an image and its proposals, absolute `(x1, y1, x2, y2)` in pixels -> logits and deltas of each."""
        x = self.hidden(features).relu()
        both = torch.cat((self.classes(x), self.deltas(x)), -3)
        votes = ps_roi_pool(both, boxes, bins=self.bins, stride=self.stride).mean((-2, -1)).to(features.dtype)
        return votes[..., :-4], votes[..., -4:]
