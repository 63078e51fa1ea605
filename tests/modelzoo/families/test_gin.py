"""The graph isomorphism network: its formula with dense matrices, relabelled nodes, and sums that count."""

import torch

from modelzoo.families.graph.gin import GIN, GINConfig
from modelzoo.task import task


def test_it_equals_the_dense_formula() -> None:
    torch.manual_seed(0)
    x, edges = task("stochastic_block").example_inputs()
    model = GIN(GINConfig(hidden=(6, 5))).double()
    adjacency = torch.zeros(len(x), len(x), dtype=torch.float64)
    adjacency[edges[1], edges[0]] = 1
    hidden = x.double()
    for number, layer in enumerate(model.layers):
        torch.nn.init.constant_(layer.eps, 0.1 * (number + 1))
        hidden = layer.nn((1 + layer.eps) * hidden + adjacency @ hidden).relu()
    torch.testing.assert_close(model(x.double(), edges), model.head(hidden))


def test_relabelling_nodes_relabels_the_outputs() -> None:
    torch.manual_seed(1)
    x, edges = task("stochastic_block").example_inputs()
    model = GIN(GINConfig()).double()
    order = torch.randperm(len(x))
    outputs = model(x.double(), edges)
    torch.testing.assert_close(model(x[order].double(), order.argsort()[edges]), outputs[order])


def test_it_tells_apart_what_a_mean_cannot() -> None:
    """A node with one neighbour from a node with two equal ones."""
    torch.manual_seed(2)
    model = GIN(GINConfig()).double()
    x = torch.ones(5, 3, dtype=torch.float64)
    edges = torch.tensor([[1, 3, 4], [0, 2, 2]])
    outputs = model(x, edges)
    assert (outputs[0] - outputs[2]).abs().max() > 1e-3
    torch.testing.assert_close(outputs[1], outputs[3])
