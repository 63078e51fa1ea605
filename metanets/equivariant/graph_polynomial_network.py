"""A graph network with equivariant polynomials of the adjacency matrix as node and edge features.

"Equivariant Polynomials for Graph Neural Networks" (Puny, Lim, Kiani, Maron, Lipman, 2023): message passing computes the
polynomials of multigraphs of width 1; with those of width 2 given to it, it tells graphs apart that it could not before.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GINEConv, global_add_pool
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import to_dense_adj

from metanets.equivariant.graph_polynomials import GraphPolynomials


class AddGraphPolynomials(BaseTransform):
    """A PyG transform: append polynomials of the adjacency matrix to `x` and to `edge_attr`, for any graph network after it.

    Batches are padded to the largest graph; vertices without edges add nothing to a sum over edges, so that this is exact.

    Args:
        degree: the highest of node features, 0 for none.
        edge_degree: the highest of edge features, 0 for none.
        width: see `GraphPolynomials`.
        symmetric: whether graphs are undirected.
    """

    def __init__(self, degree: int, edge_degree: int = 0, width: int | None = 2, symmetric: bool = True) -> None:
        self.nodes = GraphPolynomials(degree, 1, width, symmetric) if degree else None
        self.edges = GraphPolynomials(edge_degree, 2, width, symmetric) if edge_degree else None

    def forward(self, data: Data) -> Data:
        batch = data.batch if data.batch is not None else data.edge_index.new_zeros(data.num_nodes)
        place = torch.arange(len(batch), device=batch.device) - torch.searchsorted(batch, batch)  # number in its graph
        size = int(place.max()) + 1 if len(place) else 0
        adjacency = to_dense_adj(data.edge_index, batch, max_num_nodes=size)
        if self.nodes is not None:
            data.x = _beside(data.x, self.nodes(adjacency)[batch, place])
        if self.edges is not None:
            source, goal = data.edge_index
            features = self.edges(adjacency)[batch[source], place[source], place[goal]]
            data.edge_attr = _beside(data.edge_attr, features)
        return data


def _beside(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else torch.cat([old, new.to(old.dtype)], -1)


class GraphPolynomialGNN(nn.Module):
    """h_v ← MLP(h_v + Σ_{u → v} relu(h_u + W e_uv)) on nodes [x_v, P(A)_v] and edges [e_uv, P(A)_uv], then Σ_v h_v.

    Polynomials are counts of subgraphs: features go through asinh first, which is about a logarithm.

    Args:
        node_channels: of `x`, 0 when nodes carry nothing.
        edge_channels: of `edge_attr`.
        outputs: of a graph, or of a node.
        degree: of the polynomial node features; 0, with `edge_degree=0`, leaves plain message passing.
        edge_degree: of the polynomial edge features.
        width: of their multigraphs.
        hidden: width of every layer.
        layers: of message passing.
        readout: whether the outputs are of graphs; else of nodes.
        symmetric: whether graphs are undirected.

    Shape:
        PyG data or batch; output `[graphs, outputs]` or `[nodes, outputs]`.
    """

    def __init__(
        self,
        node_channels: int,
        outputs: int,
        *,
        edge_channels: int = 0,
        degree: int = 3,
        edge_degree: int = 2,
        width: int | None = 2,
        hidden: int = 32,
        layers: int = 3,
        readout: bool = True,
        symmetric: bool = True,
    ) -> None:
        super().__init__()
        self.features = AddGraphPolynomials(degree, edge_degree, width, symmetric)
        nodes, edges = (
            0 if part is None else len(part.polynomials) for part in (self.features.nodes, self.features.edges)
        )
        widths = [1 + node_channels + nodes, *[hidden] * layers]
        self.layers = nn.ModuleList(
            GINEConv(
                nn.Sequential(nn.Linear(before, hidden), nn.ReLU(), nn.Linear(hidden, after)),
                edge_dim=1 + edge_channels + edges,
            )
            for before, after in pairwise(widths)
        )
        self.head = nn.Linear(hidden, outputs)
        self.readout = readout

    def forward(self, data: Data) -> Tensor:
        data = self.features(data)  # a shallow copy
        like = self.head.weight
        # the constant is what a graph without features is: nodes and edges that are all alike
        h = _beside(like.new_ones(data.num_nodes, 1), _or_nothing(data.x, data.num_nodes, like).asinh())
        edge = _beside(like.new_ones(data.num_edges, 1), _or_nothing(data.edge_attr, data.num_edges, like).asinh())
        for layer in self.layers:
            h = layer(h, data.edge_index, edge)
        return self.head(global_add_pool(h, data.batch) if self.readout else h)


def _or_nothing(features: Tensor | None, rows: int, like: Tensor) -> Tensor:
    return like.new_zeros(rows, 0) if features is None else features.to(like.dtype)
