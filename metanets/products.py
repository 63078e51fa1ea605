"""What layers do together: singular values of products of weights along the graph, for models of any architecture.

Between two layers neurons have no order, so a single weight matrix hides which of its directions the layer before writes to.
The product of both does not: it is the same whatever the order of the neurons between them, and whatever positive scales
these carry. Two products belong to every cell (see `metanets.cells`) with weights W, taps of kernels summed:

    two steps:  W A,  A the weights that enter the sources of the cell;
    path:       W H,  H the linear response of the sources to the inputs, H_i = Σ_j w_ij H_j, one pass by rising depth.

Biases are no part of them.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from metanets.batching import Matrix, Models, Topology
from metanets.cells import QUANTILES, filled, quantiles, singular_values
from metanets.signals import CONSTANT, INPUTS

SIZE = 2 * len(QUANTILES) + 1
TINY = 1e-12  # below it, no product


@dataclass(frozen=True)
class Factors:
    """Where the weights of a product stand.

    Args:
        edges: of the cell, `[n]`; its matrix has a row a target and a column a source.
        matrix: their places.
        sources: nodes, `[s]`.
        entering: edges that enter the sources, but for biases, `[m]`.
        before: their places in a matrix with a row a source of the cell and a column a node before it.
    """

    edges: Tensor
    matrix: Matrix
    sources: Tensor
    entering: Tensor
    before: Matrix


def placed(target: Tensor, source: Tensor, rows: Tensor) -> Matrix:
    """Edges in a matrix with a row for each of the sorted nodes `rows`, and a column for each of their sources."""
    columns, column = torch.unique(source, return_inverse=True)
    return Matrix(torch.searchsorted(rows, target) * len(columns) + column, (len(rows), len(columns)))


@cache
def factors(topology: Topology) -> list[Factors | None]:
    """By cell; None where a cell is of biases."""
    source, target = topology.edge_index
    weights, found = topology.node_kind[source] != CONSTANT, list[Factors | None]()
    for cell in topology.cell_edges:
        edges = cell[weights[cell]]
        if not len(edges):
            found.append(None)
            continue
        sources = torch.unique(source[edges])
        entering = (weights & torch.isin(target, sources)).nonzero()[:, 0]
        own = placed(target[edges], source[edges], torch.unique(target[edges]))
        before = placed(target[entering], source[entering], sources)
        found.append(Factors(edges, own, sources, entering, before))
    return found


def responses(models: Models) -> Tensor:
    """Linear responses of all nodes to the inputs, `[M, N, inputs]`."""
    topology, values = models.topology, models.values
    pairs = values.new_zeros(len(topology.multiplicity), len(models)).index_add(0, topology.edge_pair, values)
    inputs = INPUTS[topology.node_kind].nonzero()[:, 0]
    found = values.new_zeros(len(models), topology.nodes, len(inputs))
    found[:, inputs, torch.arange(len(inputs))] = 1
    for block, weights in zip(topology.blocks, topology.split(pairs), strict=True):
        received = weights.permute(3, 0, 1, 2) @ found[:, block.sources]  # [M, b, t, inputs]
        found.index_add_(1, block.targets.flatten(), received.flatten(1, 2))
    return found


def products(models: Models) -> Tensor:
    """Of every cell, `[cell, model, 11]`: quantiles of logarithms of singular values of W A and of W H, and log ‖W A‖/(‖W‖ ‖A‖).

    Zero where there is no product: for biases, and where nothing enters the sources.
    """
    values, reached, found = models.values, responses(models), []
    for each in factors(models.topology):
        read = values.new_zeros(len(models), SIZE)
        if each is not None:
            own = filled(values[each.edges], each.matrix)
            path, count = own @ reached[:, each.sources], len(QUANTILES)
            if min(path.shape[1:]):
                read[:, :count] = quantiles(singular_values(path))
            if len(each.entering):
                before = filled(values[each.entering], each.before)
                both = own @ before
                read[:, count : 2 * count] = quantiles(singular_values(both))
                sizes = [part.flatten(1).norm(dim=1) + TINY for part in (both, own, before)]
                read[:, -1] = (sizes[0] / (sizes[1] * sizes[2])).log()
        found.append(read)
    return torch.stack(found)
