"""Wider models that compute the same: room for an edit that the weights at hand do not hold."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphs
from graphs import GraphStructure
from metanets.batching import ModelFunction, Models, Topology
from metanets.training.data import PopulationBlock
from modelzoo.errors import UserError
from modelzoo.family import Family, FamilyConfig

SAME = 1e-9  # of the largest output, in double precision


def widened(family: Family, config: FamilyConfig, neurons: int) -> FamilyConfig:
    """The config with more neurons in every hidden layer; raises `UserError` where it names no hidden sizes."""
    hidden: Any = getattr(config, "hidden", None)
    if isinstance(hidden, int):
        return family.config(**{**config.model_dump(), "hidden": hidden + neurons})
    if not hidden:
        raise UserError(f"models of family {family.name!r} have no hidden sizes to expand; leave expansion at 0.", 2)
    return family.config(**{**config.model_dump(), "hidden": tuple(size + neurons for size in hidden)})


class Expansion(nn.Module):
    """Models with k more neurons in every hidden layer: [[W, 0], [p 1ᵀ, Q]] for every matrix W, (b, c) for every bias b.

    What a new neuron sends to an old one is zero, so the function stays. What a new neuron receives is learned and the same
    for all models: from the inputs, from other new neurons (Q) and from the constant (c) a number each, from all the old
    neurons of a layer one number p, since old neurons have no order. So new neurons differ from each other, and permuting
    the old ones leaves them as they are. Which entries are which is read off the parameter graphs of both sizes.

    Args:
        block: the models.
        neurons: k.
        seed: of the new weights, which begin as the family initialises models of the larger size.

    Shape:
        models to models.

    Raises:
        UserError: the family has no hidden sizes, or is another function with more neurons.
    """

    source: Tensor
    key: Tensor
    scale: Tensor
    received: Tensor

    def __init__(self, block: PopulationBlock, neurons: int, seed: int) -> None:
        super().__init__()
        population = block.population
        family, inputs = population.family, population.example_inputs()
        self.template = [family.build(widened(family, population.config, neurons), seed).eval()]  # a list: no parameters of ours  # fmt: skip
        group = graphs.infer(graphs.trace(self.template[0], inputs))
        structure = graphs.graph_structure(group)
        self.topology = Topology.of_group(group, structure)
        origin = _origin(block.structure, structure)
        key, old = _keys(structure, origin)
        self.keys = int(key.max()) + 1
        weights, new = len(origin), key >= 0
        first = block.structure.num_edges  # rows of `forward`: the models' edges, the keys' weights, a one
        source = torch.full((structure.num_edges,), first + self.keys)
        source[:weights] = torch.where(new, first + key, origin)
        self.register_buffer("source", source)
        self.register_buffer("key", key)
        edge = torch.full((self.keys,), weights).scatter_reduce(
            0, key[new], new.nonzero()[:, 0], "amin"
        )  # a key's first
        initial = structure.values({name: p.detach() for name, p in self.template[0].state_dict().items()})[:weights]
        parts = initial.split([record.edges for record in structure.records])
        size = torch.cat([part.square().mean().sqrt().expand(len(part)) for part in parts])[edge]
        self.register_buffer("scale", torch.where(size > 0, size, 1))  # steps of training are relative to it
        self.register_buffer("received", (~old[structure.edge["edge_index"][1, edge]]).nonzero()[:, 0])
        self.weights = nn.Parameter((initial[edge] / self.scale)[self.received])
        self._check(block, inputs)

    @torch.no_grad()
    def _check(self, block: PopulationBlock, inputs: tuple[Tensor, ...]) -> None:
        """Raise `UserError` where a wider model computes something else."""
        few = block.models(torch.arange(min(2, len(block.table)))).to(torch.float64)
        if few.function is None:
            raise UserError(f"models of {block.population.name!r} cannot be evaluated together; leave expansion at 0.", 2)  # fmt: skip
        wide = self(few).function
        before, after = few.function(inputs[0].double()), wide(inputs[0].double())
        if (after - before).abs().max() > SAME * before.abs().max():
            raise UserError(f"models of family {block.population.family.name!r} compute something else with more neurons; leave expansion at 0.", 2)  # fmt: skip

    def forward(self, models: Models) -> Models:
        values, function = models.values, models.function
        new = torch.zeros_like(self.scale).index_copy(0, self.received, self.weights) * self.scale
        own = new.to(values.dtype)[:, None].expand(-1, len(models))
        rows = torch.cat([values, own, torch.ones_like(values[:1])])[self.source]
        wide = Models(self.topology, rows)
        if function is None:
            return wide
        held = ModelFunction(self.template[0], function.tensors, function.shape)
        return changed(replace(wide, function=held))

    def spread(self, coefficients: Tensor) -> Tensor:
        """A change of the weights `[E, M]` from numbers `[M, keys]` in units of the initial weights; none of the old ones."""
        zero = torch.zeros_like(coefficients[:, :1])
        rows = torch.cat([coefficients * self.scale, zero], 1).T  # a key of −1 is the last row
        rest = len(self.source) - len(self.key)
        return torch.cat([rows[self.key], rows[-1:].expand(rest, -1)])


def changed(models: Models, change: Tensor | float = 0.0) -> Models:
    """Models after a change of their weights `[E, M]`."""
    values, (_, structure), function = models.values + change, models.topology.symmetry, models.function
    if function is not None:
        function = replace(function, tensors={**function.tensors, **structure.scatter(values.T)})
    return replace(models, values=values, function=function)


def _origin(narrow: GraphStructure, wide: GraphStructure) -> Tensor:
    """For every entry of the wide tensors the edge of the narrow graph at the same place, −1 where there is none."""
    numbered = narrow.scatter(torch.arange(1, narrow.num_edges + 1, dtype=torch.float64))
    shapes = {name: record.shape for record in wide.records for name in record.names}
    padded = {
        name: F.pad(tensor, [p for size, to in zip(tensor.shape[::-1], shapes[name][::-1], strict=True) for p in (0, to - size)])
        for name, tensor in numbered.items()
    }  # fmt: skip
    return wide.values(padded)[: sum(record.edges for record in wide.records)].long() - 1


def _keys(wide: GraphStructure, origin: Tensor) -> tuple[Tensor, Tensor]:
    """What must be equal among new weights, so that they do not change where old neurons are permuted.

    Returns:
        A number for every entry of the wide tensors, −1 for old ones: that of its tensor, its place in a kernel and its two
        ends, all old neurons of a layer being one; and which nodes are old, those that an old entry joins.
    """
    begin, end = wide.edge["edge_index"][:, : len(origin)]
    old = torch.zeros(wide.num_nodes, dtype=torch.bool)
    old[begin[origin >= 0]] = old[end[origin >= 0]] = True
    alike = torch.stack([wide.node[name].double() for name in ("node_kind", "node_depth", "node_position")], 1)
    layer = torch.unique(alike, dim=0, return_inverse=True)[1]
    node = torch.where(old, wide.num_nodes + layer, torch.arange(wide.num_nodes))
    sizes = torch.tensor([record.edges for record in wide.records])
    tensor = torch.arange(len(sizes)).repeat_interleave(sizes)
    found = torch.stack([tensor, node[end], node[begin], *wide.edge["edge_position"][: len(origin)].T], 1)
    key = torch.full_like(origin, -1)
    key[origin < 0] = torch.unique(found[origin < 0], dim=0, return_inverse=True)[1]
    return key, old
