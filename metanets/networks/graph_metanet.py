"""Message passing on the parameter graph of any traced model.

Graph Metanetworks for Processing Diverse Neural Architectures (Lim et al., 2024): node, edge and global states, each
updated in every layer. Graph Neural Networks for Learning Equivariant Representations of Neural Networks (Kofinas et
al., 2024): messages modulated by the edge, reversed edges, positions of inputs and outputs.

Two ideas of our own keep it fast and let it learn from few models. Kernel taps between two channels are parallel edges;
they are summed into one state per pair of nodes, by a map that depends on the tap, before any message is sent. And
*signals* run once through the graph from inputs to outputs, level by level, multiplied by the weights themselves: with
the right activation they are the network's own forward pass at inputs that the metanet learns. Where models come with their
function, that is read instead (see `metanets.probes`).
"""

from collections.abc import Callable, Mapping, Sequence
from math import log1p
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from graphs import EDGE_KINDS, EDGE_OPS, NODE_KINDS
from metanets.batching import DEPTH_BINS, Models, Topology
from metanets.cells import SIZES, CellStatistics, distribution, spectrum
from metanets.metanet import Metanet, MetanetModule, Prediction, ValueStatistics, register
from metanets.modulated import ModulatedMessages
from metanets.probes import laid_out, probe_shapes, probed
from metanets.readout import Readers, ReadoutConfig
from metanets.signals import WAVES, Signals, waves
from metanets.states import FEATURES, EdgeEncoder, perceptron, pool, root_mean_square, soft
from modelzoo.family import Paper

PROBES = 64
KERNELS = {"edge_width": 16, "layers": 3}  # sizes for models with kernels: fewer learn less where nothing is evaluated
PRINCIPAL = 3  # layers of messages with principal aggregation for models with kernels where nothing is evaluated
LATTICE = {1: 64, 2: 16, 3: 8}  # points along every axis, by number of coordinates
SMALL = 1e-2  # weights, relative to their size, that the logarithmic feature resolves
OUTPUTS = torch.tensor([kind in ("output", "input_output") for kind in NODE_KINDS])


class GraphMetanetConfig(ReadoutConfig):
    """Sizes of a `GraphMetanet`, each optional part a switch.

    Without `signals`, `edge_updates`, `statistics` (mean, spread and quantiles of the weights of every layer) or `spectra`
    (its singular values) these parts are left out. Where models can be evaluated, training sets `lattice` (functions of one
    to three coordinates) or `probes` and leaves out spectra and the signals that imitate an evaluation, unless they are set
    by hand; signals also where edges are taps, as of kernels, which they do not imitate. Kernels are read by wider edges and
    three layers. Where nothing is evaluated, messages and statistics have a reader each (see `metanets.readout.Readers`), and
    where there are kernels as well, so have `principal` layers of `metanets.modulated.ModulatedMessages`; a kernel regression
    on statistics of weights (`feature_machine`) is mixed with them.
    """

    width: int = Field(32, gt=0)
    edge_width: int = Field(8, gt=0)
    layers: int = Field(2, ge=0)
    edge_updates: bool = True
    signals: int = Field(256, ge=0, multiple_of=8)
    statistics: bool = True
    spectra: bool = True
    principal: int = Field(0, ge=0)
    feature_machine: bool = False


class CellEncoder(nn.Module):
    """Statistics of the weights by cell: (1/√cells) Σ_c W[kind, op, depth] s_c, with W from embeddings as for edges."""

    def __init__(self, width: int, read: Callable[[Models], Tensor]) -> None:
        super().__init__()
        self.statistics = CellStatistics(len(EDGE_KINDS), len(EDGE_OPS), read, SIZES[read])
        self.kind, self.op = nn.Embedding(len(EDGE_KINDS), width), nn.Embedding(len(EDGE_OPS), width)
        self.depth = nn.Embedding(DEPTH_BINS + 1, width)
        self.weights = perceptron(width, 2 * width, self.statistics.size * 2 * width)

    def forward(self, models: Models) -> Tensor:
        """`[M, 2 width]`."""
        kind, op, depth = models.topology.cells.T
        code = self.kind(kind) + self.op(op) + self.depth(depth)
        weights = self.weights(code).view(len(code), self.statistics.size, -1)
        return torch.einsum("cms,csd->md", soft(self.statistics(models)), weights) / len(code) ** 0.5


class Layer(nn.Module):
    """One round of messages along and against every edge, then node, edge and global updates.

    a_i = Σ_j Σ_f e_ijf V_f h_j / √deg,   ē_i = Σ_j e_ij / deg,   s_i = √(Σ_j e²_ij / deg)
    h_i ← h_i + MLP(h_i, a_i, ē_i, s_i, a'_i, ē'_i, s'_i, g);   e_ij ← e_ij + C act(A e_ij + B h_j + B' h_i);
    g ← g + MLP(g, mean h, mean e); primes are the messages against the edges.

    States of edges are narrow and every component f has a matrix V_f of its own: a message is a linear map of the sender
    that the edge chooses, and sums of messages are matrix products in which no message is ever stored.
    """

    def __init__(self, width: int, edge_width: int, dropout: float, edge_update: bool) -> None:
        super().__init__()
        self.edge_width = edge_width
        self.along, self.against = (nn.Linear(width, edge_width * width, bias=False) for _ in range(2))
        self.update = nn.Sequential(perceptron(4 * width + 4 * edge_width, 2 * width, width), nn.Dropout(dropout))
        self.pool = perceptron(2 * width + edge_width, width, width)
        self.edge_update = edge_update
        if edge_update:
            self.edge_in = nn.Linear(edge_width, 2 * edge_width)
            self.begin, self.end = (nn.Linear(width, 2 * edge_width, bias=False) for _ in range(2))
            self.edge_out = nn.Linear(2 * edge_width, edge_width)

    def receive(self, topology: Topology, h: Tensor, e: list[Tensor]) -> list[Tensor]:
        """Sums of messages and means and sizes of edge states, along the edges and against them, each `[M, N, …]`."""
        blocks, received = topology.blocks, []
        leave, enter = topology.degrees
        for send, degree, along in ((self.along, enter, True), (self.against, leave, False)):
            begin, end = [[block.sources for block in blocks], [block.targets for block in blocks]][
                :: 1 if along else -1
            ]
            messages = gather(send, h, begin)  # [M, b, s, F D]
            directed = e if along else [states.transpose(2, 3) for states in e]  # [M, b, t, s, F]
            sums = [
                (states.flatten(3) @ sent.flatten(2).unflatten(2, (-1, h.shape[2]))).flatten(1, 2)
                for states, sent in zip(directed, messages, strict=True)
            ]
            means = [states.sum(3).flatten(1, 2) for states in directed]
            squares = [states.square().sum(3).flatten(1, 2) for states in directed]
            to, share = torch.cat([nodes.flatten() for nodes in end]), degree.to(h.dtype).reciprocal()[:, None]
            total, mean, square = (
                h.new_zeros(*h.shape[:2], parts[0].shape[2]).index_add(1, to, torch.cat(parts, 1).to(h.dtype))
                for parts in (sums, means, squares)
            )
            received += [soft(total * share.sqrt()), mean * share, soft((square * share + 1e-12).sqrt())]
        return received

    def forward(self, topology: Topology, h: Tensor, e: list[Tensor], g: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """States `h [M, N, D]`, `e [M, b, t, s, F]` of every block, `g [M, D]`."""
        h = h + self.update(torch.cat([h, *self.receive(topology, h, e), g[:, None].expand_as(h)], -1))
        if self.edge_update:
            begins = gather(self.begin, h, [block.sources for block in topology.blocks])
            ends = gather(self.end, h, [block.targets for block in topology.blocks])
            e = [
                states + self.edge_out(F.silu(self.edge_in(states) + begin[:, :, None] + end[:, :, :, None]))
                for states, begin, end in zip(e, begins, ends, strict=True)
            ]
        return h, e, g + self.pool(torch.cat([g, h.mean(1), edge_mean(e)], -1))


def gather(linear: nn.Linear, h: Tensor, nodes: list[Tensor]) -> list[Tensor]:
    """A linear map of the states `[M, N, D]` of nodes `[b, n]`, each `[M, b, n, …]`; all in one gather and one product."""
    found = linear(h.index_select(1, torch.cat([each.flatten() for each in nodes])))
    parts = found.split([each.numel() for each in nodes], 1)
    return [part.unflatten(1, each.shape) for part, each in zip(parts, nodes, strict=True)]


def edge_mean(e: list[Tensor]) -> Tensor:
    """Mean over all pairs, `[M, F]`."""
    sums = torch.stack([states.sum((1, 2, 3)) for states in e]).sum(0)
    return sums / sum(states[0, ..., 0].numel() for states in e)


class GraphMetanet(MetanetModule):
    """Signals and message passing on parameter graphs, with edge updates.

    Shape:
        a batch of models of any architectures; outputs `[model, outputs]`, embeddings `[model, readers · embedding]`.
    """

    def __init__(self, config: GraphMetanetConfig) -> None:
        super().__init__()
        width, kinds = config.width, len(NODE_KINDS)
        self.config = config
        self.statistics = ValueStatistics(len(EDGE_KINDS))
        self.kind, self.depth = nn.Embedding(kinds, width), nn.Embedding(DEPTH_BINS + 1, width)
        self.place = nn.Linear(WAVES, width)
        self.signals = Signals(config.signals) if config.signals else None
        self.signal = nn.Linear(config.signals, width) if config.signals else None
        self.encoder = EdgeEncoder(config.edge_width)
        self.layers = nn.ModuleList(
            Layer(width, config.edge_width, config.dropout, config.edge_updates and i < config.layers - 1)
            for i in range(config.layers)
        )
        reads = [distribution] * config.statistics + [spectrum] * config.spectra
        self.cells = nn.ModuleDict({read.__name__: CellEncoder(width, read) for read in reads})
        messages = [2 * kinds * width, width + config.edge_width, *[2 * config.signals] * bool(config.signals)]
        self.principal = ModulatedMessages(width, config.principal) if config.principal else None
        principal = [] if self.principal is None else self.principal.sizes
        groups = [messages, [2 * width] * len(reads), principal]
        self.readout = Readers(groups, config, config.feature_machine)

    def calibrate(self, training: Sequence[Models]) -> None:
        self.statistics.fit(training)
        if self.principal is not None:
            self.principal.statistics.fit(training)
        for cells in self.cells.values():
            assert isinstance(cells, CellEncoder)
            cells.statistics.fit(training)

    def edge_features(self, models: Models) -> Tensor:
        """1, x/size, standardised x, and sign(x) log(1 + |x|/(SMALL size)), `[E, M, FEATURES]`."""
        sized, standard = self.statistics(models)
        logarithm = sized.sign() * (sized.abs() / SMALL).log1p() / log1p(1 / SMALL)
        return torch.stack([torch.ones_like(sized), soft(sized), soft(standard), logarithm], -1)

    def states(self, models: Models) -> tuple[Tensor | None, Tensor, list[Tensor], Tensor]:
        """Signals `[M, N, signals]`; states of nodes `[M, N, D]`, of pairs `[M, b, t, s, F]` by block, of models `[M, D]`."""
        topology, dtype = models.topology, self.place.weight.dtype
        e = [
            states.permute(3, 0, 1, 2, 4).contiguous()
            for states in topology.split(self.encoder(topology, self.edge_features(models)))
        ]
        place = self.kind(topology.node_kind) + self.depth(topology.node_depth_bin)
        h = (place + self.place(waves(topology.node_position).to(dtype))).expand(len(models), -1, -1)
        u = None
        if self.signals is not None and self.signal is not None:
            u = soft(self.signals(topology, models.values.to(dtype)))
            h = h + self.signal(u)
        g = h.new_zeros(len(models), self.config.width)
        for layer in self.layers:
            h, e, g = layer(topology, h, e, g)
        return u, h, e, g

    def edge_head(self) -> nn.Module:
        width = self.config.width
        return perceptron(3 * width + self.config.edge_width + FEATURES + 3 * WAVES, 2 * width, 1)

    def edge_outputs(self, models: Models, head: nn.Module) -> Tensor:
        """From the states of a pair, of its ends and of the model, the weight's own value and its position (tap)."""
        topology = models.topology
        (source, target), (_, h, e, g) = topology.edge_index, self.states(models)
        pairs = torch.cat([states.movedim(0, 3).flatten(0, 2) for states in e])  # [P, M, F]
        h = h.transpose(0, 1)
        tap = waves(topology.edge_position).flatten(1).to(h.dtype)[:, None].expand(-1, len(models), -1)
        own = self.edge_features(models)
        return head(torch.cat([pairs[topology.edge_pair], h[source], h[target], g.expand_as(h[source]), own, tap], -1))[..., 0]  # fmt: skip

    def embed(self, models: Models) -> Prediction:
        topology, (u, h, e, g) = models.topology, self.states(models)
        messages = [pool(topology, h.transpose(0, 1)), torch.cat([g, edge_mean(e)], -1)]
        if u is not None:
            at_outputs = u[:, OUTPUTS[topology.node_kind]]
            at_outputs = (
                at_outputs if at_outputs.shape[1] else u
            )  # outputs that are no neurons of their own: pooled nodes
            messages.append(torch.cat([at_outputs.mean(1), root_mean_square(at_outputs, 1)], -1))
        principal = [] if self.principal is None else self.principal(models)
        return self.readout([messages, [cells(models) for cells in self.cells.values()], principal], models)


def adapt(training: Sequence[Models], fields: Mapping[str, Any]) -> dict[str, Any]:
    """One reading of what the models do, unless one is set by hand: a lattice, else probes that begin at data, else signals.

    Signals imitate an evaluation only where no edge is the tap of a kernel or of another packed tensor; where some are,
    messages have the sizes `KERNELS`, and are of two kinds if nothing is evaluated. Then statistics are read by a kernel
    regression as well.
    """
    taps = any(bool((models.topology.edge_position >= 0).any()) for models in training)
    sizes: dict[str, Any] = KERNELS if taps else {}
    known = all(models.function is not None and models.function.examples is not None for models in training)
    start = {**sizes, "signals": 0, "spectra": False, "probe_start": "data" if known else "noise"}
    if any(fields.get(name) for name in ("probes", "lattice")):
        return {**start, **fields, **probe_shapes(training, fields)}
    found = probed(training) if fields.get("probes") is None else None
    if found is None:
        kinds = {**sizes, "signals": 0, "principal": PRINCIPAL} if taps else {}
        return {**kinds, "feature_machine": True, **fields}
    shape = found["probe_shape"]
    dense = fields.get("lattice") is None and laid_out(shape)
    return {**start, **({"lattice": LATTICE[shape[0]]} if dense else {"probes": PROBES}), **fields, **found}


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
        tiny={"width": 8, "edge_width": 4, "layers": 2, "signals": 16, "embedding": 8},
        adapt=adapt,
    )
)  # fmt: skip
