"""Weighted sums of a few rows of a table. Sampling a feature map is that, where the channels of a location are neighbours in memory."""

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen

__all__ = ["as_rows", "sum_of_rows"]


@checked
def as_rows(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c"]:
    """One row of channels for each of `n = b h w` locations; no copy where the memory format is `channels_last`."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


@checked
def sum_of_rows(
    table: Float[Tensor, "n c"], index: Int[Tensor, "*batch k"], weight: Float[Tensor, "*batch k"]
) -> Float[Tensor, "*batch c"]:
    r"""Adds up `k` rows of the table for each output, each with its weight, without a copy of the rows.

    $$ y = \sum_{j=1}^k w_j\, T_{i_j} $$

    The gradient reaches the table and the weights; it cannot be differentiated again.

    Args:
        table: $T$, kept in its precision, half precision widened.
        index: rows $i_j$, from 0 to `n - 1`.
        weight: $w_j$.

    Returns:
        One row for each list of indices, in the dtype of the table after widening.
    """
    table = widen(table)
    bags = embedding_bag(index.flatten(0, -2), table, mode="sum", per_sample_weights=weight.to(table.dtype).flatten(0, -2))
    return bags.reshape(*index.shape[:-1], table.shape[-1])
