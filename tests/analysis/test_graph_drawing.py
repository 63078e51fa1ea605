"""Pictures of parameter graphs hold every neuron and every tensor, and refuse what nobody could read."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import graphs
from analysis.graph_drawing import MOST_NODES, curves, layer_drawing, neuron_drawing
from modelzoo.errors import UserError
from modelzoo.store import Zoo


@pytest.mark.parametrize("population", ["siren-digits-inr", "small-cnn-digits"])
def test_neurons_and_connections_are_all_drawn(small_zoo: Zoo, population: str) -> None:
    chosen = small_zoo[population]
    graph = graphs.parameter_graph(chosen.module(0), chosen.example_inputs())
    found = neuron_drawing(graph)
    assert len(found.nodes) == graph.num_nodes
    pairs = {(s, t) for s, t in graph.edge_index.T.tolist() if s != t}
    assert found.of == len(found.edges) == len(pairs)
    drawn = sum(len(trace.x) for trace in found.plot().data if trace.mode == "markers")
    assert drawn == graph.num_nodes


def test_taps_of_one_kernel_add_up() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Flatten())
    nn.init.constant_(module[0].weight, -0.5)
    graph = graphs.parameter_graph(module, (torch.randn(1, 1, 3, 3),))
    found = neuron_drawing(graph)
    np.testing.assert_allclose(found.edges["value"], -4.5)
    assert set(found.edges["strength"]) == {1.0}


@pytest.mark.parametrize("population", ["siren-digits-inr", "small-cnn-digits"])
def test_layers_hold_every_weight_matrix_and_one_square_a_biased_group(small_zoo: Zoo, population: str) -> None:
    chosen = small_zoo[population]
    layers = graphs.layer_graph(graphs.trace(chosen.module(0), chosen.example_inputs()))
    found = layer_drawing(layers)
    matrices = [info for info in chosen.info.parameters if len(info.shape) > 1]
    assert (found.edges["label"] != "").sum() == len(matrices)
    assert (found.nodes["kind"] == "constant").sum() == len(chosen.info.parameters) - len(matrices)
    assert found.plot().data


def test_too_many_nodes_are_refused_in_one_sentence() -> None:
    module = nn.Linear(MOST_NODES, 2)
    with pytest.raises(UserError, match="collapsed by layer"):
        neuron_drawing(graphs.parameter_graph(module, (torch.randn(1, MOST_NODES),)))
    many: nx.MultiDiGraph[int] = nx.MultiDiGraph()
    many.add_nodes_from(range(MOST_NODES + 1))
    with pytest.raises(UserError, match="layers"):
        layer_drawing(many)


def test_curves_begin_and_end_at_their_nodes_and_pass_the_bend() -> None:
    start, end = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [1.0, 1.0]])
    path = curves(start, end, np.array([1.0, 0.0]))
    np.testing.assert_allclose(path[:, 0], start)
    np.testing.assert_allclose(path[:, -2], end, atol=1e-12)
    assert np.isnan(path[:, -1]).all()
    assert 0.4 < path[0, :-1, 1].max() <= 0.5  # half of the control point's height
    assert path[1, :-1, 1].max() > 1.4  # an edge from a node to itself is a loop
