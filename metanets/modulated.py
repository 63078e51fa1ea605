"""Messages modulated by edges, with principal neighbourhood aggregation, on the parameter graph of any traced model.

Graph Neural Networks for Learning Equivariant Representations of Neural Networks (Kofinas et al., 2024). With p = (j → i),
states h of nodes and e of edges, every edge also read backwards:

    m_p = γ(e_p) ⊙ V h_j + β(e_p);  h_i ← h_i + MLP(h_i, mean m, std m, max m, min m);  e_p ← e_p + MLP(h_i, h_j, e_p)
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphs import EDGE_KINDS, NODE_KINDS
from metanets.batching import DEPTH_BINS, Models, Topology
from metanets.metanet import ValueStatistics
from metanets.signals import WAVES, waves
from metanets.states import FEATURES, EdgeEncoder, perceptron, pool, soft


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


class ModulatedMessages(nn.Module):
    """Node and edge states with edge updates in every layer, pooled: means and sizes of nodes by kind, means of edges.

    Args:
        width: of all states.
        layers: number of rounds.
        layer: makes what updates the nodes in a round.
    """

    def __init__(self, width: int, layers: int, layer: Callable[[int], nn.Module] = PNALayer) -> None:
        super().__init__()
        self.sizes = [2 * len(NODE_KINDS) * width, 2 * width]
        self.statistics, self.encoder = ValueStatistics(len(EDGE_KINDS)), EdgeEncoder(width)
        self.kind, self.depth = nn.Embedding(len(NODE_KINDS), width), nn.Embedding(DEPTH_BINS + 1, width)
        self.place = nn.Linear(WAVES, width)
        self.layers = nn.ModuleList(layer(width) for _ in range(layers))
        self.edges = nn.ModuleList(perceptron(3 * width, width, width) for _ in range(layers))

    def forward(self, models: Models) -> list[Tensor]:
        """Features `[M, size]` for every one of `sizes`."""
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
        return [pool(topology, h), torch.cat([e.mean(0), F.silu(e).mean(0)], -1)]
