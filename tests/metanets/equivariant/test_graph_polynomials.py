"""Equivariant graph polynomials: counts, values, equivariance, and what message passing cannot contract."""

from itertools import combinations, permutations
from math import factorial

import networkx as nx
import numpy as np
import pytest
import torch

from metanets.equivariant import GraphPolynomial, GraphPolynomials, graph_polynomials
from metanets.equivariant.enumeration import set_partitions


def burnside(degree: int) -> int:
    """Mean number of partitions of the 2d edge ends that a reordering of the edges leaves in place."""
    partitions = [frozenset(map(frozenset, blocks)) for blocks in set_partitions(2 * degree)]
    fixed = 0
    for order in permutations(range(degree)):
        ends = [2 * e + side for e in order for side in (0, 1)]
        fixed += sum(frozenset(frozenset(ends[p] for p in block) for block in each) == each for each in partitions)
    return fixed // factorial(degree)


def test_numbers_of_invariant_polynomials() -> None:
    assert [len(graph_polynomials(d)) for d in range(4)] == [1, 2, 11, 52] == [burnside(d) for d in range(4)]


def test_polynomials_are_linearly_independent_for_large_n() -> None:
    generator = torch.Generator().manual_seed(0)
    for degree, expected in [(1, 2), (2, 11), (3, 52)]:
        x = torch.randn(2 * expected, 2 * degree, 2 * degree, generator=generator, dtype=torch.float64)
        values = torch.stack([polynomial(x) for polynomial in graph_polynomials(degree)], 1)
        assert torch.linalg.matrix_rank(values / values.norm(dim=0)) == expected


def test_values_follow_the_definition() -> None:
    x = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = x[0]
    for polynomial, expected in [
        (GraphPolynomial(((0, 1), (1, 2), (2, 0))), (a @ a @ a).trace()),
        (GraphPolynomial(((0, 0), (0, 1)), (1,)), a.diagonal() @ a),
        (GraphPolynomial(((0, 1), (0, 1)), (0, 0)), torch.diag(a.square().sum(1))),
        (GraphPolynomial(((0, 1),), (2, 0)), a.sum(1).expand(4, 4)),
        (GraphPolynomial((), (0,)), torch.ones(4, dtype=torch.float64)),
        (GraphPolynomial(()), torch.ones((), dtype=torch.float64)),
    ]:
        torch.testing.assert_close(polynomial(x)[0], expected)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_features_are_equivariant_under_permutations_only(order: int) -> None:
    features = GraphPolynomials(2, order)
    x = torch.randn(1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    y, moved = features(x), features(x[:, p][:, :, p])
    expected = y if order == 0 else y[:, p] if order == 1 else y[:, p][:, :, p]
    torch.testing.assert_close(moved, expected, rtol=1e-10, atol=1e-10)
    assert (features(x[:, p]) - expected).abs().max() > 1e-2  # rows alone are not a relabelling


def test_triangles_are_beyond_message_passing() -> None:
    hexagon, triangles = nx.cycle_graph(6), nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3))
    x = torch.tensor(np.array([nx.to_numpy_array(hexagon), nx.to_numpy_array(triangles)]))
    triangle = GraphPolynomial(((0, 1), (1, 2), (2, 0)))
    assert triangle(x).tolist() == [0, 12]
    assert triangle.width() == 2
    narrow, wide = (GraphPolynomials(3, 0, width, symmetric=True)(x) for width in (1, 2))
    assert (narrow[0] - narrow[1]).abs().max() < 1e-6
    assert (wide[0] - wide[1]).abs().max() == 12


def test_widths_are_tree_widths() -> None:
    complete = tuple((i, j) for i in range(4) for j in range(i))
    assert GraphPolynomial(complete).width() == 3
    assert GraphPolynomial(((0, 1), (1, 2), (0, 0), (1, 0))).width() == 1
    assert GraphPolynomial(((0, 1), (1, 2)), (0, 2)).width() == 2  # a matrix product
    assert GraphPolynomial(((0, 0),)).width() == 0


def tree_width(graph: "nx.Graph[int]") -> int:
    """The least, over all orders of elimination, of the largest number of neighbours met."""
    best = graph.number_of_nodes()
    for order in permutations(graph):
        rest, widest = graph.copy(), 0
        for vertex in order:
            around = list(rest[vertex])
            widest = max(widest, len(around))
            rest.remove_node(vertex)
            rest.add_edges_from(combinations(around, 2))
        best = min(best, widest)
    return best


def test_widths_up_to_two_are_exact_on_every_graph_of_five_vertices() -> None:
    graphs = [graph for graph in nx.graph_atlas_g() if graph.number_of_edges() > 0 and graph.number_of_nodes() <= 5]
    assert len(graphs) == 47
    found = [(min(GraphPolynomial(tuple(graph.edges)).width(), 3), min(tree_width(graph), 3)) for graph in graphs]
    assert all(own == exact for own, exact in found)
    assert {exact for _, exact in found} == {1, 2, 3}
