"""The graph convolutional network: its formula with dense matrices, and relabelled nodes."""

import torch

from modelzoo.families.graph.gcn import GCN, GCNConfig
from modelzoo.task import task


def test_it_equals_the_dense_formula() -> None:
    torch.manual_seed(0)
    x, edges = task("karate").example_inputs()
    model = GCN(GCNConfig(hidden=(6,))).double()
    adjacency = torch.zeros(34, 34, dtype=torch.float64)
    adjacency[edges[1], edges[0]] = 1
    adjacency += torch.eye(34)
    scale = adjacency.sum(1).rsqrt()
    operator = scale[:, None] * adjacency * scale
    first, second = model.layers
    hidden = (operator @ x.double() @ first.lin.weight.T + first.bias).relu()
    torch.testing.assert_close(model(x.double(), edges), operator @ hidden @ second.lin.weight.T + second.bias)


def test_relabelling_nodes_relabels_the_outputs() -> None:
    torch.manual_seed(1)
    x, edges = task("stochastic_block").example_inputs()
    model = GCN(GCNConfig(in_features=3, out_features=3)).double()
    order = torch.randperm(len(x))
    place = order.argsort()  # node v moves to place[v]
    outputs = model(x.double(), edges)
    torch.testing.assert_close(model(x[order].double(), place[edges]), outputs[order])
    wrong = model(x[order].double(), edges)
    assert (wrong - outputs[order]).abs().max() > 1e-3, "the edges matter"
