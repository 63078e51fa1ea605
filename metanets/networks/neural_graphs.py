"""Neural Graphs: a graph network with edge updates, or a transformer with relational attention, on the parameter graph.

Graph Neural Networks for Learning Equivariant Representations of Neural Networks (Kofinas et al., 2024). Nodes are neurons,
edges are weights, and every edge is also read backwards. With p = (j → i), states h of nodes and e of edges:

    gnn:         m_p = γ(e_p) ⊙ V h_j + β(e_p);  h_i ← h_i + MLP(h_i, mean m, std m, max m, min m)
    transformer: α_p = softmax_p(⟨Q h_i, K h_j + K' e_p⟩);  h_i ← h_i + W Σ_p α_p (V h_j + V' e_p), then MLP
    both:        e_p ← e_p + MLP(h_i, h_j, e_p)
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch_geometric.utils import softmax

from metanets.batching import Models
from metanets.metanet import Metanet, MetanetModule, Prediction, register
from metanets.modulated import ModulatedMessages, PNALayer
from metanets.probes import probe_shapes
from metanets.readout import Readout, ReadoutConfig
from metanets.states import perceptron
from modelzoo.family import Paper

HEADS = 4


class NeuralGraphsConfig(ReadoutConfig):
    """Sizes of a `NeuralGraphs`."""

    kind: Literal["gnn", "transformer"] = "gnn"
    width: int = Field(32, gt=0, multiple_of=HEADS)
    layers: int = Field(3, gt=0)


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
        layer = PNALayer if config.kind == "gnn" else AttentionLayer
        self.messages = ModulatedMessages(config.width, config.layers, layer)
        self.readout = Readout(self.messages.sizes, config)

    def calibrate(self, training: Sequence[Models]) -> None:
        self.messages.statistics.fit(training)

    def embed(self, models: Models) -> Prediction:
        return self.readout(self.messages(models), models)


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
