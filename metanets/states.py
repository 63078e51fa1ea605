"""What metanets on parameter graphs begin with and end in: states of pairs of nodes, and pooled states of nodes."""

import torch
from torch import Tensor, nn

from graphs import EDGE_KINDS, EDGE_OPS, NODE_KINDS
from metanets.batching import DEPTH_BINS, Topology
from metanets.signals import WAVES, waves

FEATURES = 4  # of an edge value


def soft(x: Tensor) -> Tensor:
    """The identity near zero, a logarithm far out: sign(x) log(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def root_mean_square(x: Tensor, dim: int) -> Tensor:
    """√(mean x²), with a gradient at zero."""
    return (x.square().mean(dim) + 1e-12).sqrt()


def perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Two linear layers with a SiLU between them."""
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, outputs))


class EdgeEncoder(nn.Module):
    """The state of a pair of nodes: e_p = (1/√n_p) Σ_{edges of p} W[kind, op, depth, position] f(value).

    W is computed from embeddings of kind, op and depth and from waves of the position, once per distinct code.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.kind, self.op = nn.Embedding(len(EDGE_KINDS), width), nn.Embedding(len(EDGE_OPS), width)
        self.depth = nn.Embedding(DEPTH_BINS + 1, width)
        self.position = nn.Linear(3 * WAVES, width)
        self.weights = perceptron(width, 2 * width, FEATURES * width)

    def forward(self, topology: Topology, features: Tensor) -> Tensor:
        """Features `[E, M, FEATURES]` to states `[P, M, width]`."""
        kind, op, depth = topology.codes[:, :3].T
        phases = waves(topology.codes[:, 3:]).flatten(1).to(features.dtype)
        code = self.kind(kind) + self.op(op) + self.depth(depth) + self.position(phases)
        weights = self.weights(code).view(-1, FEATURES, self.width)  # [C, FEATURES, width]
        states = topology.pair_map(features, weights)
        return states * topology.multiplicity.to(features.dtype).rsqrt()[:, None, None]


def pool(topology: Topology, states: Tensor) -> Tensor:
    """Mean and root mean square over the nodes of every kind, `[N, M, D]` to `[M, 2 kinds D]`."""
    kinds = len(NODE_KINDS)
    share = torch.bincount(topology.node_kind, minlength=kinds).clamp_min(1).to(states.dtype).reciprocal()
    both = [
        states.new_zeros(kinds, *states.shape[1:]).index_add(0, topology.node_kind, part) * share[:, None, None]
        for part in (states, states.square())
    ]
    return torch.cat([both[0], (both[1] + 1e-12).sqrt()], -1).transpose(0, 1).flatten(1)
