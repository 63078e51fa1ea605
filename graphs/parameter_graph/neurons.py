"""The neurons of a labelled program as nodes of a graph.

One class of the labelling is one neuron. A neuron of a merged dimension (an entry of a flattened feature map, a feature
of a head) is named by its coordinates: if only one of them is free, it *is* that neuron, seen at a fixed position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graphs.algebra import Array, compress
from graphs.columns import count_columns, packed, ranks, unique_columns
from graphs.labels import Labelling
from graphs.parameter_graph.vocabulary import CONTRACTIONS, op_family
from graphs.permutations import Structure

COORDINATES = 4  # fixed coordinates a merged dimension can have


@dataclass(frozen=True)
class Neurons:
    """Classes of labels as nodes.

    Args:
        labelling: the neuron of every label.
        structure: the colours, which tell labels apart that no symmetry exchanges.
    """

    labelling: Labelling
    structure: Structure

    @cached_property
    def count(self) -> int:
        """Number of classes."""
        return int(self.labelling.neuron.max(initial=-1)) + 1

    @cached_property
    def fixed(self) -> NDArray[np.bool_]:
        """`[class]`: whether no symmetry can move it (one of its labels has a colour of its own)."""
        _, inverse, number = np.unique(self.structure.colour, return_inverse=True, return_counts=True)
        found = np.zeros(self.count, bool)
        found[self.labelling.neuron[number[inverse] == 1]] = True
        return found

    def positions_of(self, values: Sequence[int], why: str) -> NDArray[np.bool_]:
        """`[class]`: whether it is a position of one of these values, or was made of such positions.

        Args:
            values: ids of the module's inputs or outputs.
            why: how the labelling names the positions it pins on them.
        """
        found = np.zeros(self.count, bool)
        for labels, reason in self.labelling.algebra.pins:
            if reason.startswith(why):
                found[self.labelling.neuron[labels]] = True
        for value in values:
            for array in self.labelling.raw[value] or ():
                if array is not None:
                    found[self.labelling.neuron[array]] = True
        return found

    @cached_property
    def _resolved(self) -> tuple[Array, Array, Array]:
        """Base class and fixed coordinates of every class, and the relations between classes and their parts."""
        neuron, fixed = self.labelling.neuron, self.fixed
        base = np.arange(self.count)
        own = np.full((self.count, COORDINATES), -1)
        relations: list[Array] = []
        best = np.full(self.count, -1)
        for table in self.labelling.algebra.decompositions.values():
            if not len(table.wholes):
                continue
            wholes, first = np.unique(neuron[table.wholes], return_index=True)
            parts = table.parts[first]
            known = parts >= 0
            classes = np.where(known, neuron[np.maximum(parts, 0)], -1)
            is_fixed = known & fixed[np.maximum(classes, 0)]
            free = known & ~is_fixed
            single = (free.sum(1) == 1) & ~(classes == wholes[:, None]).any(1) & ~fixed[wholes]
            chosen = single & (is_fixed.sum(1) > best[wholes])
            base[wholes[chosen]] = classes[chosen][free[chosen]]
            ranks = np.stack([_ranks(classes[:, k], is_fixed[:, k]) for k in range(parts.shape[1])], 1)
            better = (chosen | ((best[wholes] < 0) & (free.sum(1) > 1))) & is_fixed.any(1)
            own[wholes[better]] = _leading(ranks[better])
            best[wholes[chosen]] = is_fixed[chosen].sum(1)
            for column in range(parts.shape[1]):
                linked = free[:, column] & ~single & ~fixed[wholes] & (classes[:, column] != wholes)
                size = int(linked.sum())
                relations.append(np.stack([wholes[linked], classes[linked, column], np.full(size, column)]))
        return base, own, np.concatenate([np.empty((3, 0), np.int64), *relations], axis=1)

    @cached_property
    def _bases(self) -> tuple[Array, Array]:
        """Base class and fixed coordinates of every class, followed to the end."""
        base, own, _ = self._resolved
        current, coordinates = base.copy(), own.copy()
        moving = np.flatnonzero(current != np.arange(self.count))
        for _ in range(self.count):  # a part of a merged dimension can itself be merged
            if not len(moving):
                break
            merged = np.concatenate([own[current[moving]], coordinates[moving]], 1)
            coordinates[moving] = _leading(merged)
            further = base[current[moving]]
            moving, further = moving[further != current[moving]], further[further != current[moving]]
            current[moving] = further
        return current, coordinates

    @property
    def base(self) -> Array:
        """`[class]`: the neuron that it is, seen at fixed coordinates."""
        return self._bases[0]

    @property
    def coordinates(self) -> Array:
        """`[class, COORDINATES]`: its fixed coordinates, −1 where there is none."""
        return self._bases[1]

    @cached_property
    def parts(self) -> Array:
        """`[3, relations]`: neuron, a free coordinate of it, and which coordinate that is."""
        _, _, relations = self._resolved
        relations = np.stack([self.base[relations[0]], self.base[relations[1]], relations[2]])
        return unique_columns(relations[:, relations[0] != relations[1]])

    def ranks(self, members: Array, group: Array) -> Array:
        """For classes in groups (queries and keys that share a feature) their rank in the group, alike ranking alike."""
        colour = np.zeros(self.count, np.uint64)
        np.add.at(colour, self.labelling.neuron, self.structure.colour)
        _, first, cell = np.unique(colour, return_index=True, return_inverse=True)
        return _local_ranks(first[cell.ravel()][members], group)

    def of(self, labels: Array) -> Array:
        """The class of every label of an array, of size 1 along dimensions that it does not depend on."""
        return compress(self.labelling.neuron[labels])

    def roles(self, labels: Array) -> Array | None:
        """Which of several roles every label of a dimension has, None if there is one role only.

        Labels of different colour play different roles: gates in a packed matrix, queries, keys and values, the pieces
        of a concatenation. Neurons that can move are told apart by nothing else; a fixed neuron has its position, and
        only several labels of its own are counted.
        """
        classes = self.of(labels)
        free = tuple(k for k, size in enumerate(classes.shape) if size == 1)
        colour = self.structure.colour[labels].sum(axis=free, keepdims=True).ravel()
        flat = classes.ravel()
        own = np.where(self.fixed[self.base[flat]], self.base[flat], -1)
        group = ranks(packed(np.column_stack([own, self.coordinates[flat]]).T))
        _, first, cell = np.unique(colour, return_index=True, return_inverse=True)
        role = _local_ranks(first[cell.ravel()], group)
        return role.reshape(classes.shape) if role.any() else None

    @cached_property
    def single(self) -> Array:
        """`[value]`: one number for all values whose single feature (of a dimension of size 1) is the same neuron."""
        program = self.labelling.program
        live = program.depends_on_inputs()
        root = list(range(len(program.values)))

        def find(value: int) -> int:
            while root[value] != value:
                root[value] = value = root[root[value]]
            return value

        for op in program.ops:
            if op_family(op) in CONTRACTIONS | {"reduction"}:
                continue
            operands = [value for value in (*op.inputs, *op.outputs) if value is not None and live[value]]
            for other in operands[1:]:
                root[find(other)] = find(operands[0])
        return np.array([find(value) for value in range(len(root))], np.int64)


def _ranks(classes: Array, chosen: NDArray[np.bool_]) -> Array:
    """The rank of every chosen class among the chosen ones, −1 elsewhere."""
    found = np.full(len(classes), -1)
    found[chosen] = np.unique(classes[chosen], return_inverse=True)[1].ravel()
    return found


def _local_ranks(keys: Array, group: Array) -> Array:
    """The rank of every key among the distinct keys of its group."""
    pairs, inverse, _ = count_columns(np.stack([group, keys]))
    _, start = np.unique(pairs[0], return_index=True)
    return inverse - np.repeat(start, np.diff([*start, pairs.shape[1]]))[inverse]


def _leading(rows: Array) -> Array:
    """Known entries of every row moved to the front, cut or filled to `COORDINATES`."""
    order = np.argsort(rows < 0, axis=1, kind="stable")
    packed = np.take_along_axis(rows, order, 1)
    if packed.shape[1] > COORDINATES and (packed[:, COORDINATES:] >= 0).any():
        raise AssertionError(f"a merged dimension has more than {COORDINATES} fixed coordinates")
    packed = packed[:, :COORDINATES]
    return np.pad(packed, ((0, 0), (0, COORDINATES - packed.shape[1])), constant_values=-1)
