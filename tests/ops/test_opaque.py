"""What a compiler does not look into is one node of its graph."""

import torch
from torch import Tensor
from torch._dynamo.testing import EagerAndRecordGraphs

from reference_impl.ops.opaque import opaque


@opaque(lambda x, least: x.new_empty(x.shape[-1]))
def _how_many(x: Tensor, least: float) -> Tensor:
    return torch.tensor([int((column >= least).sum()) for column in x.mT], dtype=x.dtype)


def test_a_graph_has_one_node_for_all_values() -> None:
    graphs = EagerAndRecordGraphs()
    compiled = torch.compile(lambda x: _how_many(x, 1.0) + 1, fullgraph=True, backend=graphs)
    for x in (torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.zeros(2, 2)):
        torch.testing.assert_close(compiled(x), _how_many(x, 1.0) + 1)
    (graph,) = graphs.graphs
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert len(names) == 2
    assert "imbalance_atlas" in names[0]
