"""Bilabelled graphs: how many of them span, and what their matrices count."""

from itertools import product

import networkx as nx
import numpy as np
import pytest

from metanets.equivariant import BilabelledGraph, Diagram, GraphAutomorphism, Symmetric, spanning_set
from metanets.equivariant.enumeration import bell
from metanets.equivariant.graph_automorphism import orbit_representatives


def test_the_path_on_four_vertices_needs_graphs_with_up_to_four_vertices() -> None:
    group = GraphAutomorphism.of(nx.path_graph(4))
    found = spanning_set(group, 1, 1)
    assert len(found) == 8 == len(orbit_representatives(group, 2))
    assert max(len(graph.blocks) + graph.unlabelled for graph in found) <= 4
    assert np.linalg.matrix_rank(np.array([graph.matrix(group).ravel() for graph in found])) == 8


def test_complete_graphs_give_the_symmetric_group_and_a_cycle_its_distances() -> None:
    for n, order in [(3, 2), (4, 3), (5, 2)]:
        group = GraphAutomorphism.of(nx.complete_graph(n))
        assert len(spanning_set(group, 0, order)) == bell(order, n) == Symmetric(n).dimension(order)
    assert len(spanning_set(GraphAutomorphism.of(nx.cycle_graph(5)), 1, 1)) == 3
    assert len(spanning_set(GraphAutomorphism.of(nx.cycle_graph(4, create_using=nx.DiGraph)), 1, 1)) == 4


def test_matrices_count_homomorphisms() -> None:
    graph = nx.Graph([(0, 1), (1, 2), (2, 3), (1, 3)])
    group = GraphAutomorphism.of(graph)
    wedge = BilabelledGraph(
        Diagram(1, 2, ((0,), (1, 2))), ((0, 1), (1, 2), (0, 2)), 1
    )  # a triangle, one vertex unlabelled
    matrix = wedge.matrix(group).reshape(4, 4, 4)
    for i, j, k in product(range(4), repeat=3):
        third = sum(graph.has_edge(i, v) and graph.has_edge(j, v) and graph.has_edge(i, j) for v in range(4))
        assert matrix[i, j, k] == (third if j == k else 0)


def test_automorphisms_are_those_of_the_graph() -> None:
    assert len(GraphAutomorphism.of(nx.star_graph(3)).automorphisms) == 6
    assert len(GraphAutomorphism.of(nx.cycle_graph(5)).automorphisms) == 10
    assert len(GraphAutomorphism.of(nx.cycle_graph(5, create_using=nx.DiGraph)).automorphisms) == 5
    named = nx.Graph([("a", "b"), ("b", "c")])
    assert GraphAutomorphism.of(named) == GraphAutomorphism.of(nx.path_graph(3))


def test_a_bilabelled_graph_needs_a_graph() -> None:
    with pytest.raises(ValueError, match="automorphism group of a graph"):
        BilabelledGraph(Diagram.identity(1)).matrix(Symmetric(3))
