"""Neural Graphs: a graph network with edge updates, or a transformer with relational attention, on the parameter graph.

Graph Neural Networks for Learning Equivariant Representations of Neural Networks (Kofinas et al., 2024). Nodes are neurons,
edges are weights, and every edge is also read backwards. With p = (j → i), states h of nodes and e of edges:

    gnn:         m_p = γ(e_p) ⊙ V h_j + β(e_p);  h_i ← h_i + MLP(h_i, mean m, std m, max m, min m)
    transformer: α_p = softmax_p(⟨Q h_i, K h_j + K' e_p⟩);  h_i ← h_i + W Σ_p α_p (V h_j + V' e_p), then MLP
    both:        e_p ← e_p + MLP(h_i, h_j, e_p)
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.utils import softmax

from graphs import EDGE_KINDS, NODE_KINDS
from metanets.batching import DEPTH_BINS, Models, Topology
from metanets.metanet import Metanet, MetanetModule, Prediction, ValueStatistics, register
from metanets.networks.graph_metanet import FEATURES, WAVES, EdgeEncoder, perceptron, pool, soft, waves
from metanets.probes import probe_shapes
from metanets.readout import Readout, ReadoutConfig
from modelzoo.family import Paper

HEADS = 4


class NeuralGraphsConfig(ReadoutConfig):
    """Sizes of a `NeuralGraphs`."""

    kind: Literal["gnn", "transformer"] = "gnn"
    width: int = Field(32, gt=0, multiple_of=HEADS)
    layers: int = Field(3, gt=0)


def ends(topology: Topology) -> tuple[Tensor, Tensor]:
    """Source and target of every pair of joined nodes, `[P]` each, in the order of pair states."""
    sources = [block.sources[:, None].expand(block.shape).flatten() for block in topology.blocks]
    targets = [block.targets[:, :, None].expand(block.shape).flatten() for block in topology.blocks]
    return torch.cat(sources), torch.cat(targets)


def principal(messages: Tensor, to: Tensor, nodes: int) -> Tensor:
    """Mean, standard deviation, maximum and minimum of the messages to every node, `[P, M, D]` to `[N, M, 4 D]`."""
    zero = messages.new_zeros(nodes, *messages.shape[1:])
    count = torch.bincount(to, minlength=nodes).clamp_min(1).to(messages.dtype)[:, None, None]
    mean = zero.index_add(0, to, messages) / count
    square = zero.index_add(0, to, (messages - mean[to]).square()) / count
    most, least = (zero.index_reduce(0, to, messages, how, include_self=False) for how in ("amax", "amin"))
    return torch.cat([mean, (square + 1e-8).sqrt(), most, least], -1)


class PNALayer(nn.Module):
    """Messages along and against every edge, modulated by the edge, with principal neighbourhood aggregation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value, self.film = nn.Linear(width, 2 * width), nn.Linear(width, 4 * width)
        self.update = perceptron(9 * width, 2 * width, width)

    def forward(self, h: Tensor, e: Tensor, source: Tensor, target: Tensor) -> Tensor:
        received = [h]
        values, film = self.value(h).chunk(2, -1), self.film(e).chunk(4, -1)
        for k, (of, to) in enumerate(((source, target), (target, source))):
            messages = (1 + film[2 * k]) * values[k][of] + film[2 * k + 1]
            received.append(principal(messages, to, len(h)))
        return h + self.update(torch.cat(received, -1))


class AttentionLayer(nn.Module):
    """Relational attention over the edges that enter a node, and over those that leave it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.node, self.edge = nn.Linear(width, 6 * width), nn.Linear(width, 4 * width)
        self.norm, self.merge = nn.LayerNorm(width), nn.Linear(2 * width, width)
        self.second, self.update = nn.LayerNorm(width), perceptron(width, 2 * width, width)

    def forward(self, h: Tensor, e: Tensor, source: Tensor, target: Tensor) -> Tensor:
        node, edge = self.node(self.norm(h)).chunk(6, -1), self.edge(e).chunk(4, -1)
        found = []
        for k, (of, to) in enumerate(((source, target), (target, source))):
            query, key, value = (part.unflatten(-1, (HEADS, -1)) for part in node[3 * k : 3 * k + 3])
            edge_key, edge_value = (part.unflatten(-1, (HEADS, -1)) for part in edge[2 * k : 2 * k + 2])
            scores = (query[to] * (key[of] + edge_key)).sum(-1) / key.shape[-1] ** 0.5  # [P, M, HEADS]
            weights = softmax(scores, to, num_nodes=len(h))
            messages = (weights[..., None] * (value[of] + edge_value)).flatten(-2)
            found.append(torch.zeros_like(h).index_add(0, to, messages))
        h = h + self.merge(torch.cat(found, -1))
        return h + self.update(self.second(h))


class NeuralGraphs(MetanetModule):
    """Node and edge states on the parameter graph, edge updates in every layer.

    Shape:
        a batch of models of any architectures; outputs `[model, outputs]`, embeddings `[model, embedding]`.
    """

    def __init__(self, config: NeuralGraphsConfig) -> None:
        super().__init__()
        width = config.width
        self.statistics, self.encoder = ValueStatistics(len(EDGE_KINDS)), EdgeEncoder(width)
        self.kind, self.depth = nn.Embedding(len(NODE_KINDS), width), nn.Embedding(DEPTH_BINS + 1, width)
        self.place = nn.Linear(WAVES, width)
        layer = PNALayer if config.kind == "gnn" else AttentionLayer
        self.layers = nn.ModuleList(layer(width) for _ in range(config.layers))
        self.edges = nn.ModuleList(perceptron(3 * width, width, width) for _ in range(config.layers))
        self.readout = Readout([2 * len(NODE_KINDS) * width, 2 * width], config)

    def calibrate(self, training: list[Models]) -> None:  # type: ignore[override]
        self.statistics.fit(training)

    def embed(self, models: Models) -> Prediction:
        topology = models.topology
        sized, standard = self.statistics(models)
        features = [torch.ones_like(sized), soft(sized), soft(standard), soft(100 * sized) / 5]
        assert len(features) == FEATURES
        e = self.encoder(topology, torch.stack(features, -1))
        place = self.place(waves(topology.node_position).to(e.dtype))
        h = (self.kind(topology.node_kind) + self.depth(topology.node_depth_bin) + place)[:, None]
        h = h.expand(-1, e.shape[1], -1)
        source, target = ends(topology)
        for layer, edge in zip(self.layers, self.edges, strict=True):
            h = layer(h, e, source, target)
            e = e + edge(torch.cat([h[source], h[target], e], -1))
        pooled = torch.cat([e.mean(0), F.silu(e).mean(0)], -1)
        return self.readout([pool(topology, h), pooled], models)


METANET = register(
    Metanet(
        name="neural_graphs",
        module=NeuralGraphs,
        config=NeuralGraphsConfig,
        paper=(Paper("Graph Neural Networks for Learning Equivariant Representations of Neural Networks", "Kofinas et al.", 2024, "S022"),),
        equivariance="permutation",
        summary="Neural Graphs: PNA with edge updates, or (kind=transformer) relational attention.",
        tiny={"width": 8, "layers": 2, "embedding": 8},
        adapt=probe_shapes,
    )
)  # fmt: skip
