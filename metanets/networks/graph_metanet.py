"""Message passing on the parameter graph of any traced model.

Graph Metanetworks for Processing Diverse Neural Architectures (Lim et al., 2024): node, edge and global states, each
updated in every layer. Graph Neural Networks for Learning Equivariant Representations of Neural Networks (Kofinas et
al., 2024): messages modulated by the edge, reversed edges, positions of inputs and outputs.

Two ideas of our own keep it fast and let it learn from few models. Kernel taps between two channels are parallel edges;
they are summed into one state per pair of nodes, by a map that depends on the tap, before any message is sent. And
*signals* run once through the graph from inputs to outputs, level by level, multiplied by the weights themselves: with
the right activation they are the network's own forward pass at inputs that the metanet learns.
"""

from collections.abc import Mapping, Sequence
from math import log1p
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from graphs import EDGE_KINDS, EDGE_OPS, NODE_KINDS
from metanets.batching import DEPTH_BINS, Models, Topology
from metanets.cells import STATISTICS, CellStatistics
from metanets.metanet import Metanet, MetanetConfig, MetanetModule, Prediction, ValueStatistics, register
from metanets.signals import WAVES, Signals, waves
from modelzoo.errors import UserError
from modelzoo.family import Paper

FEATURES = 4  # of an edge value, see `GraphMetanet.edge_features`
SMALL = 1e-2  # weights, relative to their size, that the logarithmic feature resolves
OUTPUTS = torch.tensor([kind in ("output", "input_output") for kind in NODE_KINDS])


class GraphMetanetConfig(MetanetConfig):
    """Sizes of a `GraphMetanet`; with `probes` the models themselves are evaluated at that many learned inputs.

    With `statistics` the readout also sees mean, spread and quantiles of the weights of every layer.
    """

    width: int = Field(32, gt=0)
    layers: int = Field(2, ge=0)
    signals: int = Field(256, gt=0, multiple_of=8)
    embedding: int = Field(64, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    statistics: bool = True
    probes: int = Field(0, ge=0)
    probe_shape: tuple[int, ...] = ()
    probe_outputs: int = Field(1, gt=0)


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


class CellEncoder(nn.Module):
    """Statistics of the weights by cell: (1/√cells) Σ_c W[kind, op, depth] s_c, with W from embeddings as for edges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.statistics = CellStatistics(len(EDGE_KINDS), len(EDGE_OPS))
        self.kind, self.op = nn.Embedding(len(EDGE_KINDS), width), nn.Embedding(len(EDGE_OPS), width)
        self.depth = nn.Embedding(DEPTH_BINS + 1, width)
        self.weights = perceptron(width, 2 * width, STATISTICS * 2 * width)

    def forward(self, models: Models) -> Tensor:
        """`[M, 2 width]`."""
        kind, op, depth = models.topology.cells.T
        code = self.kind(kind) + self.op(op) + self.depth(depth)
        weights = self.weights(code).view(len(code), STATISTICS, -1)
        return torch.einsum("cms,csd->md", soft(self.statistics(models)), weights) / len(code) ** 0.5


class Layer(nn.Module):
    """One round of messages along and against every edge, then node, edge and global updates.

    m_{j→i} = U e_ij ⊙ V h_j;   a_i = Σ_j m_{j→i} / √deg,   s_i = √(Σ_j m²_{j→i} / deg),   ē_i = Σ_j e_ij / deg
    h_i ← h_i + MLP(h_i, a_i, s_i, ē_i, a'_i, s'_i, ē'_i, g);   e_ij ← e_ij + C act(A e_ij + B h_j + B' h_i);
    g ← g + MLP(g, mean h, mean e); primes are the messages against the edges.
    """

    def __init__(self, width: int, dropout: float, last: bool) -> None:
        super().__init__()
        self.edge, self.node = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.update = nn.Sequential(perceptron(8 * width, 2 * width, width), nn.Dropout(dropout))
        self.pool = perceptron(3 * width, width, width)
        self.last = last
        if not last:
            self.edge_in, self.ends = nn.Linear(width, width), nn.Linear(width, 2 * width)
            self.edge_out = nn.Linear(width, width)

    def receive(self, topology: Topology, h: Tensor, e: Tensor) -> list[Tensor]:
        """Sums of messages, of their squares and of edge states, along the edges and against them, each `[N, M, D]`."""
        gates, (forward, backward) = self.edge(e), self.node(h).chunk(2, -1)
        split = [topology.split(part) for part in (*gates.chunk(2, -1), e)]
        sums: list[list[Tensor]] = [[] for _ in range(6)]
        for block, along, against, states in zip(topology.blocks, *split, strict=True):  # [b, t, s, M, D]
            along = along * forward[block.sources][:, None]
            against = against * backward[block.targets][:, :, None]
            for offset, axis, messages in ((0, 2, along), (3, 1, against)):
                for i, summand in enumerate((messages, messages.square(), states)):
                    sums[offset + i].append(summand.sum(axis).flatten(0, 1))
        targets = torch.cat([block.targets.flatten() for block in topology.blocks])
        sources = torch.cat([block.sources.flatten() for block in topology.blocks])
        ends = (targets,) * 3 + (sources,) * 3
        totals = [torch.zeros_like(h).index_add(0, to, torch.cat(part)) for to, part in zip(ends, sums, strict=True)]
        received = []
        for (a, s, mean_edge), degree in ((totals[:3], topology.degrees[1]), (totals[3:], topology.degrees[0])):
            share = degree.to(h.dtype).reciprocal()[:, None, None]
            received += [soft(a * share.sqrt()), soft((s * share + 1e-12).sqrt()), mean_edge * share]
        return received

    def forward(self, topology: Topology, h: Tensor, e: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States `h [N, M, D]`, `e [P, M, D]`, `g [M, D]`."""
        h = h + self.update(torch.cat([h, *self.receive(topology, h, e), g.expand_as(h)], -1))
        if not self.last:
            begin, end = self.ends(h).chunk(2, -1)
            joined = [
                (begin[block.sources][:, None] + end[block.targets][:, :, None]).flatten(0, 2)
                for block in topology.blocks
            ]
            e = e + self.edge_out(F.silu(self.edge_in(e) + torch.cat(joined)))
        return h, e, g + self.pool(torch.cat([g, h.mean(0), e.mean(0)], -1))


class GraphMetanet(MetanetModule):
    """Signals and message passing on parameter graphs, with edge updates.

    Shape:
        a batch of models of any architectures; outputs `[model, outputs]`, embeddings `[model, embedding]`.
    """

    def __init__(self, config: GraphMetanetConfig) -> None:
        super().__init__()
        width, kinds = config.width, len(NODE_KINDS)
        self.config = config
        self.statistics = ValueStatistics(len(EDGE_KINDS))
        self.signals = Signals(config.signals)
        self.kind, self.depth = nn.Embedding(kinds, width), nn.Embedding(DEPTH_BINS + 1, width)
        self.place, self.signal = nn.Linear(WAVES, width), nn.Linear(config.signals, width)
        self.encoder = EdgeEncoder(width)
        self.layers = nn.ModuleList(Layer(width, config.dropout, i == config.layers - 1) for i in range(config.layers))
        self.cells = CellEncoder(width) if config.statistics else None
        cells, probed = 2 * width * config.statistics, config.probes * config.probe_outputs
        sizes = [2 * kinds * width, 2 * width, 2 * config.signals, cells, probed]
        if config.probes:
            self.probes = nn.Parameter(2 * torch.rand(config.probes, *config.probe_shape) - 1)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes if size)
        self.readout = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(sum(sizes), 2 * config.embedding), nn.SiLU(),
            nn.Dropout(config.dropout), nn.Linear(2 * config.embedding, config.embedding),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.LayerNorm(config.embedding), nn.SiLU(), nn.Linear(config.embedding, config.outputs)
        )

    def calibrate(self, training: Sequence[Models]) -> None:
        self.statistics.fit(training)
        if self.cells is not None:
            self.cells.statistics.fit(training)

    def edge_features(self, models: Models) -> Tensor:
        """1, x/size, standardised x, and sign(x) log(1 + |x|/(SMALL size)), `[E, M, FEATURES]`."""
        sized, standard = self.statistics(models)
        logarithm = sized.sign() * (sized.abs() / SMALL).log1p() / log1p(1 / SMALL)
        return torch.stack([torch.ones_like(sized), soft(sized), soft(standard), logarithm], -1)

    def states(self, models: Models) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Signals `[N, M, signals]`; states of nodes `[N, M, D]`, of pairs `[P, M, D]`, and of models `[M, D]`."""
        topology, dtype = models.topology, self.place.weight.dtype
        u = soft(self.signals(topology, models.values.to(dtype)))
        e = self.encoder(topology, self.edge_features(models))
        place = self.kind(topology.node_kind) + self.depth(topology.node_depth_bin)
        h = (place + self.place(waves(topology.node_position).to(dtype)))[:, None] + self.signal(u)
        g = e.new_zeros(e.shape[1:])
        for layer in self.layers:
            h, e, g = layer(topology, h, e, g)
        return u, h, e, g

    def edge_head(self) -> nn.Module:
        return perceptron(4 * self.config.width + FEATURES + 3 * WAVES, 2 * self.config.width, 1)

    def edge_outputs(self, models: Models, head: nn.Module) -> Tensor:
        """From the states of a pair, of its ends and of the model, the weight's own value and its position (tap)."""
        topology = models.topology
        (source, target), (_, h, e, g) = topology.edge_index, self.states(models)
        tap = waves(topology.edge_position).flatten(1).to(h.dtype)[:, None].expand(-1, len(models), -1)
        own = self.edge_features(models)
        return head(torch.cat([e[topology.edge_pair], h[source], h[target], g.expand_as(h[source]), own, tap], -1))[..., 0]  # fmt: skip

    def embed(self, models: Models) -> Prediction:
        topology, (u, h, e, g) = models.topology, self.states(models)
        at_outputs = u[OUTPUTS[topology.node_kind]]
        at_outputs = at_outputs if len(at_outputs) else u  # outputs that are no neurons of their own: pooled nodes
        answers = torch.cat([at_outputs.mean(0), root_mean_square(at_outputs, 0)], -1)
        pooled = [pool(topology, h), torch.cat([g, e.mean(0)], -1), answers]
        if self.cells is not None:
            pooled.append(self.cells(models))
        if self.config.probes:
            assert models.function is not None, "this metanet probes: its models must come with their function"
            pooled.append(models.function(self.probes).flatten(1))
        normed = [norm(part) for norm, part in zip(self.norms, pooled, strict=True)]
        embeddings = self.readout(torch.cat(normed, -1))
        return Prediction(self.head(embeddings), embeddings)


def pool(topology: Topology, states: Tensor) -> Tensor:
    """Mean and root mean square over the nodes of every kind, `[N, M, D]` to `[M, 2 kinds D]`."""
    kinds = len(NODE_KINDS)
    share = torch.bincount(topology.node_kind, minlength=kinds).clamp_min(1).to(states.dtype).reciprocal()
    both = [
        states.new_zeros(kinds, *states.shape[1:]).index_add(0, topology.node_kind, part) * share[:, None, None]
        for part in (states, states.square())
    ]
    return torch.cat([both[0], (both[1] + 1e-12).sqrt()], -1).transpose(0, 1).flatten(1)


def adapt(training: Sequence[Models], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The shapes of probes, where there are any."""
    if not fields.get("probes"):
        return {}
    functions = [models.function for models in training]
    if any(function is None for function in functions) or len({f.shape for f in functions if f}) != 1:
        raise UserError("probes need models that take one real tensor, all of the same shape; leave probes at 0.", 2)
    function = functions[0]
    assert function is not None
    return {"probe_shape": function.shape, "probe_outputs": function(torch.zeros(1, *function.shape)).shape[-1]}


METANET = register(
    Metanet(
        name="graph_metanet",
        module=GraphMetanet,
        config=GraphMetanetConfig,
        paper=(
            Paper("Graph Metanetworks for Processing Diverse Neural Architectures", "Lim et al.", 2024, "S035"),
            Paper("Graph Neural Networks for Learning Equivariant Representations of Neural Networks", "Kofinas et al.", 2024, "S022"),
        ),
        equivariance="permutation",
        summary="Signals and messages with edge updates on the parameter graph of any traced model.",
        tiny={"width": 8, "layers": 2, "signals": 16, "embedding": 8},
        adapt=adapt,
    )
)  # fmt: skip
