"""The graph hypernetwork: from the program of an architecture to its parameters, also for architectures never seen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from math import log2, prod
from typing import Any

import networkx as nx
import torch
from pydantic import Field
from torch import Tensor, nn

import graphs
from metanets.hyper.hypernetwork import Generated, Hypernetwork, HypernetworkConfig, HypernetworkModule, register
from metanets.hyper.target import Parameters, Problem, Target
from modelzoo.errors import UserError
from modelzoo.families.composed.cell_cnn import CellCNNConfig, sample_nodes
from modelzoo.family import Paper, Recipe

OPERATORS = (
    "parameter", "other", "aten.convolution", "aten.relu", "aten.add", "aten.mean", "aten.addmm", "aten.permute",
    "aten.avg_pool2d", "aten.native_group_norm",
)  # fmt: skip
ROLES = ("kernel", "classifier", "bias", "norm")  # each has its own decoder and its own normalisation


class GHNConfig(HypernetworkConfig):
    """Sizes of a `GHN`; without `virtual`, `normalize` and with `meta_batch=1` it is the first graph hypernetwork.

    Args:
        hidden: size of a node's state.
        architectures: how many are sampled for training.
        nodes: least and greatest number of nodes of an architecture.
        channels: widths that are sampled.
        meta_batch: architectures that see the same batch of data in one step.
        virtual: longest shortest path that gets a virtual edge; 1 for none.
        normalize: whether predicted parameters are normalised by the operation they are for.
        largest: output and input channels that are decoded; larger tensors are tiled.
    """

    hidden: int = Field(default=64, gt=0)
    architectures: int = Field(default=100, gt=0)
    nodes: tuple[int, int] = (2, 6)
    channels: tuple[int, ...] = (8, 12)
    meta_batch: int = Field(default=4, gt=0)
    virtual: int = Field(default=5, gt=0)
    normalize: bool = True
    largest: int = Field(default=16, gt=0)


@dataclass(frozen=True)
class ProgramGraph:
    """The graph of a program: its operations, and its parameters as nodes before the operations that read them.

    Args:
        operator: index into `OPERATORS`, `[node]`.
        shape: log2(1 + size) of up to four dimensions of a parameter, zero for operations, `[node, 4]`.
        weights: 1/s for every pair at shortest path s, rows the later node, `[2, node, node]`: direct and virtual edges.
        levels: nodes that can be updated together, from the inputs to the output.
        parameters: the node of every parameter.
        roles: the role of every parameter, index into `ROLES`.
    """

    operator: Tensor
    shape: Tensor
    weights: Tensor
    levels: tuple[Tensor, ...]
    parameters: dict[str, int]
    roles: dict[str, int]


def program_graph(target: Target, inputs: tuple[Tensor, ...], virtual: int) -> ProgramGraph:
    """Trace a target and read off its graph, with virtual edges along shortest paths of length 2 … `virtual`."""
    program = graphs.trace(target.module, inputs)
    number = {value: k for k, value in enumerate(program.parameters.values())}
    node_of = dict(number)
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(number)))
    names, roles_of = ["parameter"] * len(number), {}
    for op in program.ops:
        node = len(names)
        names.append(op.name if op.name in OPERATORS else "other")
        graph.add_node(node)
        for value in op.inputs:
            if value in node_of:
                graph.add_edge(node_of[value], node)
            if value in number and op.name == "aten.native_group_norm":
                roles_of[value] = "norm"
        node_of.update({value: node for value in op.outputs if value is not None})
    lengths = dict(nx.all_pairs_shortest_path_length(graph, cutoff=virtual))
    weights = torch.zeros(2, len(names), len(names))
    for source, reached in lengths.items():
        for goal, length in reached.items():
            if length:
                weights[int(length > 1), goal, source] = 1 / length
    shapes = torch.zeros(len(names), 4)
    roles = {}
    for name, value in program.parameters.items():
        shape = program.values[value].shape
        shapes[number[value], : len(shape)] = torch.tensor([log2(1 + size) for size in shape])
        plain = {1: "bias", 2: "classifier"}.get(len(shape), "kernel")
        kind = "norm" if roles_of.get(value) == "norm" and name.endswith("weight") else plain
        roles[name] = ROLES.index(kind)
    levels = tuple(torch.tensor(level) for level in nx.topological_generations(graph))
    operator = torch.tensor([OPERATORS.index(name) for name in names])
    return ProgramGraph(operator, shapes, weights, levels, {n: number[v] for n, v in program.parameters.items()}, roles)


class GHN(HypernetworkModule):
    """h_v ← GRU(h_v, Σ_u MLP(h_u) + Σ_{1 < s_uv ≤ S} MLP_sp(h_u)/s_uv) along the program, forward and then backward.

    States of parameter nodes are decoded to a tensor of the largest shape, which is cut or tiled to the parameter's own,
    and normalised by what the parameter is for: kernels and the classifier to √(2/fan in) and √(1/fan in), scales of
    norms by 2σ(w/2), biases by tanh(w/5).

    The conditioning is an architecture: a config of the target's family.
    """

    def __init__(self, target: Target, config: GHNConfig) -> None:
        super().__init__()
        if target.member is None or not isinstance(target.member[1], CellCNNConfig):
            raise UserError("the graph hypernetwork samples architectures of family 'cell_cnn'; choose that family.", 2)
        self.target, self.config = target, config
        self.family, self.member = target.member[0], target.member[1]
        width, top = config.hidden, config.largest
        self.embed = nn.Embedding(len(OPERATORS), width)
        self.embed_shape = nn.Linear(4, width)
        self.message = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(2))  # fmt: skip
        self.update = nn.ModuleList(nn.GRUCell(width, width) for _ in range(2))
        self.sizes = {"kernel": (top, top, 3, 3), "classifier": (top, top), "bias": (top,), "norm": (top,)}
        self.decoders = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, prod(self.sizes[role]))) for role in ROLES
        )  # fmt: skip
        self._known: dict[CellCNNConfig, tuple[Target, ProgramGraph]] = {}
        self.training_set = self.sample(config.architectures, seed=0)

    def architecture(self, config: CellCNNConfig) -> tuple[Target, ProgramGraph]:
        """The target and the graph of an architecture, traced once."""
        if config not in self._known:
            target = Target.of(self.family, config)
            inputs = (torch.zeros(2, config.in_channels, 8, 8),)
            self._known[config] = (target, program_graph(target, inputs, self.config.virtual))
        return self._known[config]

    def states(self, graphs: Sequence[ProgramGraph]) -> Tensor:
        """States of all nodes of some graphs after one pass forward and one backward, `[all nodes, hidden]`.

        The graphs go side by side: level k of every one of them is updated at the same time.
        """
        operator, shape = (torch.cat([getattr(graph, part) for graph in graphs]) for part in ("operator", "shape"))
        state = self.embed(operator) + self.embed_shape(shape)
        first = [0, *accumulate(len(graph.operator) for graph in graphs)]
        weights = torch.stack([torch.block_diag(*(graph.weights[kind] for graph in graphs)) for kind in range(2)])
        for update, each, directed in (
            (self.update[0], [graph.levels for graph in graphs], weights),
            (self.update[1], [graph.levels[::-1] for graph in graphs], weights.transpose(1, 2)),
        ):
            for levels in zip_longest(*each):
                level = torch.cat([start + own for start, own in zip(first, levels, strict=False) if own is not None])
                own = directed[:, level]
                message = own[0] @ self.message[0](state) + own[1] @ self.message[1](state)
                state = state.index_copy(0, level, update(message, state[level]))
        return state

    def forward(self, conditioning: CellCNNConfig) -> Parameters:
        return self.predict([conditioning])[0]

    def predict(self, architectures: Sequence[CellCNNConfig]) -> list[Parameters]:
        """Parameters `{name: [1, *shape]}` of several architectures."""
        known = [self.architecture(config) for config in architectures]
        states = self.states([graph for _, graph in known]).split([len(graph.operator) for _, graph in known])
        return [self._decode(target, graph, state) for (target, graph), state in zip(known, states, strict=True)]

    def _decode(self, target: Target, graph: ProgramGraph, state: Tensor) -> Parameters:
        made = {}
        for name, shape in target.shapes.items():
            role = ROLES[graph.roles[name]]
            whole = self.decoders[graph.roles[name]](state[graph.parameters[name]]).view(self.sizes[role])
            for dim, size in enumerate(shape):
                have = whole.shape[dim]
                if size > have:
                    whole = torch.cat([whole] * -(-size // have), dim)
                first = (have - size) // 2 if dim >= 2 else 0  # a 1 × 1 kernel is the middle of the 3 × 3 one
                whole = whole.narrow(dim, max(first, 0), size)
            made[name] = (self.normalized(role, whole) if self.config.normalize else 0.1 * whole)[None]
        return made

    @staticmethod
    def normalized(role: str, value: Tensor) -> Tensor:
        """A predicted tensor at the size that its role asks for."""
        if role == "norm":
            return 2 * (value / 2).sigmoid()
        if role == "bias":
            return (value / 5).tanh()
        gain = 2.0 if role == "kernel" else 1.0
        fan_in = prod(value.shape[1:])
        return value * (gain / fan_in) ** 0.5 / value.square().mean().sqrt().clamp_min(1e-6)

    def sample(self, count: int, seed: int, nodes: tuple[int, int] | None = None) -> list[CellCNNConfig]:
        """Architectures from the grammar."""
        generator = torch.Generator().manual_seed(seed)
        least, most = nodes or self.config.nodes
        found = []
        for _ in range(count):
            size = int(torch.randint(least, most + 1, (), generator=generator))
            width = self.config.channels[int(torch.randint(len(self.config.channels), (), generator=generator))]
            fields = {"nodes": sample_nodes(size, generator), "channels": width}
            found.append(self.member.model_copy(update=fields))
        return found

    def objective(self, problem: Problem, generator: torch.Generator, batch_size: int) -> Tensor:
        rows = torch.randint(len(self.training_set), (self.config.meta_batch,), generator=generator)
        inputs, targets = problem.batch(generator, batch_size)
        chosen, losses = [self.training_set[row] for row in rows.tolist()], []
        for config, made in zip(chosen, self.predict(chosen), strict=True):
            own = {name: value[0] for name, value in made.items()}
            losses.append(problem.task.loss(self.architecture(config)[0](own, *inputs), targets))
        return torch.stack(losses).mean()

    def unseen(self, count: int, seed: int, nodes: tuple[int, int] | None = None) -> list[CellCNNConfig]:
        """Architectures that are not among those of training."""
        known = set(self.training_set)
        found: list[CellCNNConfig] = []
        while len(found) < count:
            seed += 1
            found += [
                each for each in self.sample(count, 10**6 + seed, nodes) if each not in known and each not in found
            ]
        return found[:count]

    @torch.no_grad()
    def samples(self, problem: Problem, count: int, generator: torch.Generator) -> Iterator[Generated]:
        """One model of each of `count` architectures that were not trained on."""
        for config in self.unseen(count, int(torch.randint(2**20, (), generator=generator))):
            columns: dict[str, Any] = {"nodes": torch.tensor([len(config.nodes)]).numpy()}
            yield Generated(config, self(config), columns)


HYPERNETWORK = register(
    Hypernetwork(
        name="ghn",
        module=GHN,
        config=GHNConfig,
        paper=Paper("Parameter Prediction for Unseen Deep Architectures", "Knyazev et al.", 2021, "S097"),
        conditioning="the program of an architecture",
        summary="A gated graph network over the program with virtual edges predicts parameters of unseen architectures.",
        recipe=Recipe(steps=1000, batch_size=64, learning_rate=1e-3, gradient_clip=5.0),
        tiny={"architectures": 2, "hidden": 8, "meta_batch": 2, "nodes": (2, 3)},
        family="cell_cnn",
    )
)
