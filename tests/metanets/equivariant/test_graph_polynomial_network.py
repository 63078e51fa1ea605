"""The graph network with polynomial features: equivariance, and what it tells apart where message passing cannot."""

import networkx as nx
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import from_networkx

from metanets.equivariant import AddGraphPolynomials, GraphPolynomialGNN, GraphPolynomials, graph_polynomials


def bare(graph: "nx.Graph[int]") -> Data:
    """The edges alone: no features, nothing else of networkx."""
    return Data(edge_index=from_networkx(graph).edge_index, num_nodes=len(graph))


def relabelled(data: Data, order: Tensor) -> Data:
    """Node i becomes node `order[i]`; features follow."""
    place = order.argsort()
    return Data(x=data.x[place], edge_index=order[data.edge_index], edge_attr=data.edge_attr, num_nodes=data.num_nodes)


def test_the_transform_appends_features_and_a_batch_gets_those_of_its_graphs() -> None:
    transform = AddGraphPolynomials(2, 2)
    graphs = [bare(nx.cycle_graph(4)), bare(nx.star_graph(5)), bare(nx.path_graph(3))]
    graphs[0].x, graphs[1].x, graphs[2].x = torch.ones(4, 1), torch.zeros(6, 1), torch.ones(3, 1)
    together, alone = transform(Batch.from_data_list(graphs)), [transform(graph) for graph in graphs]
    assert together.x.shape == (13, 1 + sum(len(graph_polynomials(d, 1, True)) for d in (1, 2)))
    assert torch.equal(together.x, torch.cat([graph.x for graph in alone]))
    assert torch.equal(together.edge_attr, torch.cat([graph.edge_attr for graph in alone]))
    assert torch.equal(together.x[0], together.x[3])
    assert not torch.equal(together.x[4], together.x[5])
    adjacency = torch.tensor(nx.to_numpy_array(nx.path_graph(3)), dtype=torch.float32)[None]
    expected = GraphPolynomials(2, 2, 2, symmetric=True)(adjacency)[0]
    assert torch.equal(alone[2].edge_attr, expected[tuple(alone[2].edge_index)])


@pytest.mark.parametrize("readout", [True, False])
def test_a_relabelled_graph_has_relabelled_outputs(readout: bool) -> None:
    torch.manual_seed(0)
    network = GraphPolynomialGNN(2, 3, edge_channels=1, degree=2, readout=readout).double()
    data = bare(nx.gnp_random_graph(7, 0.5, seed=1))
    data.x = torch.randn(7, 2, dtype=torch.float64)
    data.edge_attr = torch.randn(data.num_edges, 1, dtype=torch.float64)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    before, after = network(data), network(relabelled(data, order))
    torch.testing.assert_close(after, before if readout else before[order.argsort()], rtol=1e-10, atol=1e-10)
    wrong = relabelled(data, order)
    wrong.edge_index = data.edge_index
    assert (network(wrong) - after).abs().max() > 1e-2  # nodes alone are not a relabelling


@pytest.mark.parametrize(
    ("degree", "edge_degree"), [(0, 0), (3, 0), (0, 2)]
)  # triangles have three edges, one may be marked
def test_a_hexagon_and_two_triangles(degree: int, edge_degree: int) -> None:
    """tr(A³) is 0 and 12; every node has two neighbours, so that message passing sees no difference."""
    torch.manual_seed(0)
    network = GraphPolynomialGNN(0, 4, degree=degree, edge_degree=edge_degree).double()
    narrow = GraphPolynomialGNN(0, 4, degree=degree, edge_degree=edge_degree, width=1).double()
    pair = Batch.from_data_list([bare(nx.cycle_graph(6)), bare(nx.disjoint_union_all([nx.cycle_graph(3)] * 2))])
    hexagon, triangles = network(pair)
    assert (narrow(pair)[0] - narrow(pair)[1]).abs().max() < 1e-6
    if degree or edge_degree:
        assert (hexagon - triangles).abs().max() > 1e-2
    else:
        assert (hexagon - triangles).abs().max() < 1e-6


def test_triangles_of_regular_graphs_are_counted_with_polynomials_only() -> None:
    graphs = [nx.random_regular_graph(3, 8, seed=seed) for seed in range(110)]
    counts = torch.tensor([sum(nx.triangles(graph).values()) / 3 for graph in graphs])
    train, test = (Batch.from_data_list([bare(graph) for graph in part]) for part in (graphs[:70], graphs[70:]))
    torch.manual_seed(0)
    network = GraphPolynomialGNN(0, 1, edge_degree=0, hidden=16, layers=2)
    train, test = network.features(train), network.features(test)  # once instead of at every step
    network.features = AddGraphPolynomials(0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        (network(train)[:, 0] - counts[:70]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert (network(test)[:, 0] - counts[70:]).square().mean() < 0.3 * counts[70:].var()
        plain = GraphPolynomialGNN(0, 1, degree=0, edge_degree=0)(
            Batch.from_data_list([bare(graph) for graph in graphs])
        )
    assert plain.std() < 1e-5  # the same number for every graph, whatever the weights
