"""Feature-level imbalance, measured: what of the backbone reaches each level, through how many layers, and how many cells a box covers.

The survey (Sec. 5.2) calls a pyramid balanced when low- and high-level features reach every level evenly, and asks (Sec. 5.4.1) for numbers
on the abstractness, the coarseness and the cardinality of the levels.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reference_impl.measure.evenness import shares
from reference_impl.ops.boxes import box_area
from reference_impl.ops.checked import checked

__all__ = ["Graph", "Node", "backbone_shares", "boxes_per_level", "cells_per_box", "path_lengths", "trace"]

Pyramid = Callable[[list[Tensor]], Sequence[Tensor]]

# Functions of `reference_impl.ops` that a graph shows as one operation.
WHOLE = {"roi_align", "deformable_conv"}
LAYERS = {"convolution", "addmm", "mm", "bmm", "deformable_conv"}
UNREACHED = -1


def backbone_shares(pyramid: Pyramid, levels: Sequence[Tensor], noise: Sequence[Tensor] | None = None) -> Float[Tensor, "p c"]:
    r"""How much of each pyramid level comes from each backbone level.

    $$ s_{ji} = \frac{\lVert \partial P_j / \partial C_i \rVert_F^2}{\sum_k \lVert \partial P_j / \partial C_k \rVert_F^2} $$

    Suppose that every element of the backbone levels $C$ gets independent noise of the same strength. Then this is, to first order, the
    share of the variance of the pyramid level $P_j$ that comes through $C_i$. The norms are estimated without bias by the gradients of
    randomly weighted sums of $P_j$.

    Args:
        pyramid: backbone levels -> pyramid levels.
        levels: backbone levels `[b c_i h_i w_i]`, finest first. The more images, the better the estimate.
        noise: the weights of each pyramid level, standard normal, in its shape; a fresh draw by default.

    Returns:
        The shares, in [0, 1]; a row sums to 1, or to 0 where nothing reaches the level.
    """
    given = [x.detach().requires_grad_() for x in levels]
    found = pyramid(given)
    noise = [torch.randn_like(x) for x in found] if noise is None else noise
    rows = []
    for x, weight in zip(found, noise, strict=True):
        gradients = torch.autograd.grad(x, given, weight, retain_graph=True, allow_unused=True)
        rows.append(torch.stack([x.new_zeros(()) if g is None else g.square().sum() for g in gradients]))
    return shares(torch.stack(rows))


@checked
def cells_per_box(boxes: Float[Tensor, "*batch n 4"], level: Int[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    r"""Coarseness and cardinality: how many cells of its level a box covers, $wh / 4^k$ for a level of stride $2^k$.

    Args:
        boxes: absolute `(x1, y1, x2, y2)` in pixels of the network's input.
        level: $k$ of each box: the level whose cells are $2^k$ pixels wide.
    """
    return torch.ldexp(box_area(boxes), -2 * level)


@checked
def boxes_per_level(
    level: Int[Tensor, "*batch n"], valid: Bool[Tensor, "*batch n"], *, finest: int = 2, coarsest: int = 5
) -> Int[Tensor, "*batch levels"]:
    """How many boxes each level is trained on.

    Args:
        level: number of the level of each box, from `finest` to `coarsest`.
        valid: which boxes count, all but the padding.

    Returns:
        A count for each level, finest first.
    """
    counts = torch.zeros(*level.shape[:-1], coarsest - finest + 1, dtype=torch.int64, device=level.device)
    return counts.scatter_add(-1, level - finest, valid.long())


@dataclass(frozen=True)
class Node:
    """A tensor of a module's graph.

    Attributes:
        op: the operation of `torch.ops.aten` that made it, `input`, or a function of `reference_impl.ops` that is shown as one operation.
        sources: the nodes that it was made from.
        shape: of the tensor.
        weights: shapes of the parameters that the operation used.
    """

    op: str
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Graph:
    """What a module computed, in order: `nodes[:inputs]` were given, `outputs` says which nodes that depend on them were returned."""

    nodes: tuple[Node, ...]
    inputs: int
    outputs: tuple[int, ...]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation on tensors that depend on the inputs."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes = [Node("input", (), tuple(x.shape)) for x in inputs]
        self.made_by = {id(x): i for i, x in enumerate(inputs)}
        self.alive: list[Any] = list(inputs)
        self.whole: tuple[FrameType | None, int] = (None, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        sources = tuple(dict.fromkeys(self.made_by[id(x)] for x in tensors if id(x) in self.made_by))
        weights = tuple(tuple(x.shape) for x in tensors if id(x) not in self.made_by)
        result = func(*args, **(kwargs or {}))
        call = _whole_call()
        for x in tree_leaves(result) if sources else ():
            if isinstance(x, Tensor):
                self.made_by[id(x)] = self._add(call, Node(func.overloadpacket.__name__, sources, tuple(x.shape), weights))
                self.alive.append(x)
        return result

    def _add(self, call: FrameType | None, node: Node) -> int:
        """The place of `node`; within a call that is shown as one operation, that of the one node for all of it."""
        running, place = self.whole
        if call is None or call is not running:
            self.whole = (call, len(self.nodes))
            self.nodes.append(node if call is None else replace(node, op=call.f_code.co_name))
            return len(self.nodes) - 1
        before = self.nodes[place]
        sources = tuple(sorted({*before.sources, *node.sources} - {place}))
        self.nodes[place] = Node(before.op, sources, node.shape, before.weights + node.weights)
        return place


def _whole_call() -> FrameType | None:
    """The outermost running call of a function in `WHOLE`."""
    found, frame = None, sys._getframe(1)
    while frame.f_back:
        frame = frame.f_back
        found = frame if frame.f_code.co_name in WHOLE else found
    return found


def trace(pyramid: Pyramid, levels: Sequence[Tensor]) -> Graph:
    """The graph of a module, recorded while it runs. Tensors on the `meta` device cost neither time nor memory.

    Args:
        pyramid: backbone levels -> pyramid levels.
        levels: backbone levels `[b c_i h_i w_i]`, finest first.
    """
    with torch.no_grad(), _Recorder(levels) as recorder:
        outputs = pyramid(list(levels))
    return Graph(tuple(recorder.nodes), len(levels), tuple(recorder.made_by[id(x)] for x in outputs if id(x) in recorder.made_by))


def path_lengths(graph: Graph) -> Int[Tensor, "p c"]:
    """How many layers with weights lie on the shortest way from each backbone level to each pyramid level; -1 where there is none."""
    table = []
    for start in range(graph.inputs):
        length = [0 if i == start else UNREACHED for i in range(graph.inputs)]
        for node in graph.nodes[graph.inputs :]:
            reached = [length[s] for s in node.sources if length[s] != UNREACHED]
            length.append(min(reached) + (node.op in LAYERS and bool(node.weights)) if reached else UNREACHED)
        table.append([length[i] for i in graph.outputs])
    return torch.tensor(table).T
