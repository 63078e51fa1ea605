"""Which dimensions of a tensor are ends of its edges, and which are positions on them."""

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch

from graphs.algebra import Array
from graphs.columns import unique_columns
from graphs.parameter_graph.neurons import Neurons
from graphs.parameter_graph.uses import Use, find_uses
from graphs.program import Program, Reference

Side = Literal["source", "target", "extra"]


@dataclass(frozen=True)
class Record:
    """A tensor of a parameter graph, as needed to write its entries back.

    Args:
        names: all names of the tensor, more than one if it is tied.
        shape: its sizes.
        dtype: as traced.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def entries(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def edges(self) -> int:
        """Number of real numbers: two for every complex entry."""
        return self.entries * (2 if self.dtype.is_complex else 1)


@dataclass(frozen=True)
class End:
    """One end of the edges of a tensor.

    Args:
        side: source, target, or one more neuron that an entry belongs to.
        labels: label of every entry, of the tensor's rank, size 1 along dimensions it does not depend on; None for a
            neuron that is alone in its dimension.
        single: the value whose only feature the neuron is, if it is alone.
    """

    side: Side
    labels: Array | None
    single: int = -1


@dataclass(frozen=True)
class TensorPlan:
    """How a tensor becomes edges.

    Args:
        record: its names, shape and type.
        use: how the program reads it.
        ends: the neurons of an entry; none of a side is a constant node (source) or a parameter node (target).
        positions: dimensions that are positions on the edges.
        hyper: whether every entry is a node of its own, because it has more than two ends.
        parts: pairs of class arrays: neurons and the neurons that they determine (features and their heads).
    """

    record: Record
    use: Use
    ends: tuple[End, ...]
    positions: tuple[int, ...]
    hyper: bool
    parts: tuple[tuple[Array, Array], ...] = ()

    @property
    def edges(self) -> int:
        """Number of edges, those that only join a parameter node to its neurons included."""
        return self.record.edges * (len(self.ends) if self.hyper else 1)


def records(program: Program) -> list[tuple[int, Record]]:
    """Value id and record of every tensor, tied names together."""
    names: dict[int, list[str]] = {}
    for name, value in program.tensors.items():
        names.setdefault(value, []).append(name)
    values = program.values
    return [(value, Record(tuple(tied), values[value].shape, values[value].dtype)) for value, tied in names.items()]


def plans(neurons: Neurons) -> list[TensorPlan]:
    """The plan of every tensor."""
    program = neurons.labelling.program
    uses = find_uses(program)
    return [_plan(neurons, value, record, uses[value]) for value, record in records(program)]


def _plan(neurons: Neurons, value: int, record: Record, use: Use) -> TensorPlan:
    labels = neurons.labelling.raw[value]
    assert labels is not None
    moving = {k: not neurons.fixed[neurons.labelling.neuron[a]].all() for k, a in enumerate(labels) if a is not None}
    implied, parts = _implied(neurons, {k: a for k, a in enumerate(labels) if a is not None and moving[k]})
    sources = _chosen(sorted(use.contracted & moving.keys()), moving, implied)
    targets = _chosen(sorted(use.produced & moving.keys()), moving, implied)
    extras = [k for k in moving if k not in use.contracted | use.produced and moving[k] and k not in implied]
    if use.contracts and not targets and extras:
        targets, extras = extras, []
    if not use.contracts and len(targets) == 2:  # nothing is summed over: both are ends alike
        sources, targets = targets[:1], targets[1:]
    override = _grouped_channels(neurons, use, record.shape)
    ends = [_end(neurons, "source", k, labels[k], override) for k in sources]
    if not ends and use.contracts:
        ends.append(_end(neurons, "source", -1, None, override, use.other))
    ends += [_end(neurons, "target", k, labels[k], override) for k in targets]
    if not targets and use.output >= 0 and not use.broadcast:
        ends.append(_end(neurons, "target", -1, None, override, use.output))
    ends += [End("extra", labels[k]) for k in extras]
    taken = {*sources, *targets, *extras, *implied}
    positions = tuple(k for k in moving if k not in taken)
    hyper = len(ends) > 2 or len({end.side for end in ends}) < len(ends)
    return TensorPlan(record, use, tuple(ends), positions, hyper, tuple(parts))


def _chosen(dims: list[int], moving: dict[int, bool], implied: set[int]) -> list[int]:
    """The ends among dimensions of one side: those that can move, else the last one."""
    free = [k for k in dims if moving[k] and k not in implied]
    return free or dims[-1:]


def _implied(neurons: Neurons, labels: dict[int, Array]) -> tuple[set[int], list[tuple[Array, Array]]]:
    """Dimensions whose neuron follows from that of another dimension (the head from its feature), and those pairs."""
    classes = {k: neurons.of(array) for k, array in labels.items()}
    found: set[int] = set()
    pairs = []
    for k, inner in classes.items():
        for j, outer in classes.items():
            if j == k or j in found or k in found or inner.shape[j] == 1:
                continue
            features, heads = np.broadcast_arrays(inner, outer)
            joined = unique_columns(np.stack([features.ravel(), heads.ravel()]))
            if joined.shape[1] == len(np.unique(joined[0])):
                found.add(j)
                pairs.append((inner, outer))
    return found, pairs


def _end(
    neurons: Neurons, side: Side, dim: int, labels: Array | None, override: tuple[Side, Array] | None,
    single: int | None = None,
) -> End:  # fmt: skip
    if override is not None and override[0] == side:
        return End(side, override[1])
    return End(side, labels, -1 if single is None else single)


def _grouped_channels(neurons: Neurons, use: Use, shape: tuple[int, ...]) -> tuple[Side, Array] | None:
    """In a grouped convolution the weight's second dimension counts channels in a group; the data's labels name them."""
    program = neurons.labelling.program
    if use.family != "convolution" or use.kind != "convolution":
        return None
    op = program.ops[use.op]
    groups = int(op.argument(8, "groups", 1))
    transposed = bool(op.argument(6, "transposed", False))
    data = op.output if transposed else op.arguments[0].value if isinstance(op.arguments[0], Reference) else -1
    raw = neurons.labelling.raw[data] if groups > 1 else None
    channels = None if raw is None else raw[1]
    if channels is None or channels.size != channels.shape[1]:
        return None
    row, column = np.ogrid[: shape[0], : shape[1]]
    index = (row // (shape[0] // groups)) * shape[1] + column
    labels = channels.ravel()[index].reshape(*shape[:2], *(1 for _ in shape[2:]))
    return ("target" if transposed else "source"), labels
