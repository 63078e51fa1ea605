"""Reading the permutation group off the relations of the label algebra: a product of symmetric and wreath groups.

The labels with their marks, ties and parts are a coloured graph, and its automorphisms are permutation symmetries of the
network. Colour refinement tells labels apart; labels tied one to one become one *unit*; relations between two colour
cells that hold for all pairs say nothing and are dropped. What is left falls into connected components; isomorphic
components are interchangeable, S_m, and the same is repeated inside each of them, which gives wreath products. A unit
that is nothing but a pair of others (a merged dimension of two free ones) is *derived* and moves with its parts.
Whatever cannot be split this way stays fixed: the group found is always a subgroup of the true one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphs.algebra import Algebra, Array
from graphs.columns import count_columns, equal_columns, packed, ranks, unique_columns
from graphs.unions import Unions

Hashes = NDArray[np.uint64]


def _mix(x: Hashes) -> Hashes:
    """A 64-bit finalizer (splitmix64), elementwise."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _hash(numbers: Array | int, salt: int) -> Hashes:
    """A hash of numbers; the salt is mixed twice so that number and salt cannot change places."""
    return _mix(_mix(np.asarray(numbers).astype(np.uint64)) ^ _mix(_mix(np.asarray(salt, np.uint64))))


@dataclass(frozen=True)
class Level:
    """Interchangeable blocks: S_m in each of several copies.

    Args:
        nodes: `[copies, m, size]` labels; block e of copy c holds `nodes[c, e]`, in an order that matches all others.
        parent: index of the level whose blocks these copies lie in, −1 at the top.
        depth: 0 at the top.
    """

    nodes: Array
    parent: int = -1
    depth: int = 0

    @property
    def copies(self) -> int:
        """Number of sets of blocks that are permuted independently."""
        return int(self.nodes.shape[0])

    @property
    def count(self) -> int:
        """Number of interchangeable blocks in a copy."""
        return int(self.nodes.shape[1])


@dataclass(frozen=True)
class Structure:
    """The relations as one coloured graph, and the levels of its automorphism group that were found.

    Args:
        count: number of labels.
        colour: a hash for every label; automorphisms keep it.
        edges: `[3, edges]`: two labels and the tag of the relation between them.
        levels: parents before children.
        derived: labels that move as their parts do, with the parts, `[labels, 1 + parts]`, −1 for no part.
        stuck: labels in components that could not be split further.
    """

    count: int
    colour: Hashes
    edges: Array
    levels: tuple[Level, ...]
    derived: tuple[Array, ...]
    stuck: Array

    def move(self, level: int, permutation: Array) -> Array:
        """The label permutation of one level's element.

        Args:
            level: which level.
            permutation: `[..., copies, m]`: block e goes to where block `permutation[c, e]` was.

        Returns:
            `[..., labels]`: where each label goes.
        """
        nodes = self.levels[level].nodes
        lead = permutation.shape[:-2]
        sigma = np.tile(np.arange(self.count), (*lead, 1))
        target = np.take_along_axis(np.broadcast_to(nodes, (*lead, *nodes.shape)), permutation[..., None], -2)
        sigma[..., nodes.ravel()] = target.reshape(*lead, -1)
        return self.complete(sigma)

    def complete(self, sigma: Array) -> Array:
        """Fill in where derived labels go, given where all others go (leading axes are a batch)."""
        for table, keys, order in self._derived_keys:
            names, parts = table[:, 0], table[:, 1:]
            image = self._key(names, np.where(parts < 0, parts, sigma[..., np.maximum(parts, 0)]))
            place = np.minimum(np.searchsorted(keys, image), len(keys) - 1)
            sigma[..., names] = np.where(keys[place] == image, names[order][place], names)
        return sigma

    @cached_property
    def _derived_keys(self) -> list[tuple[Array, Hashes, Array]]:
        """For every table of derived labels their sorted keys and the order that sorts them."""
        found = []
        for table in self.derived:
            keys = self._key(table[:, 0], table[:, 1:])
            order = np.argsort(keys)
            found.append((table, keys[order], order))
        return found

    def _key(self, names: Array, parts: Array) -> Hashes:
        """A hash of a derived label's colour and parts, which name it."""
        key = self.colour[names]
        for column in range(parts.shape[-1]):
            key = _mix(key ^ _hash(parts[..., column], 9 + column))
        return key

    def keeps(self, sigma: Array) -> bool:
        """Whether a label permutation is an automorphism: it keeps every colour and every relation."""
        if not (self.colour[sigma] == self.colour).all() or (np.bincount(sigma, minlength=self.count) != 1).any():
            return False
        moves = sigma != np.arange(self.count)
        touched = self.edges[:, moves[self.edges[0]] | moves[self.edges[1]]]  # all others are sent to themselves
        moved = np.stack([sigma[touched[0]], sigma[touched[1]], touched[2]])
        return bool(np.array_equal(unique_columns(moved), unique_columns(touched)))


def read(algebra: Algebra, seed: int = 0) -> Structure:
    """Find the permutation group of a labelled program.

    Every level is checked exactly on random elements: all colours and relations must be kept, or it is left out.

    Args:
        algebra: the relations that the rules recorded.
        seed: for the random elements of the check.
    """
    count = algebra.count
    edges = _edges(algebra)
    colour = _refine(_initial(algebra), edges)
    reader = _Reader(colour, edges)
    while len(twisted := reader.contract()):  # labels tied to each other in a cycle: fix them and look again
        colour[twisted] = _hash(twisted, 77)
        colour = _refine(colour, edges)
        reader = _Reader(colour, edges)
    levels, derived, stuck = reader.levels()
    found = Structure(count, colour, edges, tuple(levels), tuple(derived), stuck)
    return _checked(found, seed)


def _checked(found: Structure, seed: int) -> Structure:
    generator = np.random.default_rng(seed)
    kept: dict[int, int] = {}
    levels: list[Level] = []
    for index, level in enumerate(found.levels):
        order = np.tile(np.arange(level.count), (level.copies, 1))
        tries = [np.roll(order, 1, 1), generator.permuted(order, axis=1)]
        good = (level.parent < 0 or level.parent in kept) and all(found.keeps(found.move(index, p)) for p in tries)
        if good:
            kept[index] = len(levels)
            levels.append(Level(level.nodes, kept.get(level.parent, -1), level.depth))
    return Structure(found.count, found.colour, found.edges, tuple(levels), found.derived, found.stuck)


def _edges(algebra: Algebra) -> Array:
    """All relations as `[3, edges]`, without repeats and without those between pinned labels."""
    tables = [np.empty((3, 0), np.int32)]

    def add(first: Array, second: Array, tag: int) -> None:
        loose = ~(algebra.pinned(first) & algebra.pinned(second))
        table = np.full((3, int(loose.sum())), tag, np.int32)  # half the memory: there are many
        table[0], table[1] = first[loose], second[loose]
        tables.append(unique_columns(table))

    for first, second, tag in algebra.same:
        add(first.ravel(), second.ravel(), tag)
    tag = algebra.tag()
    for parted in algebra.decompositions.values():
        for column in range(parted.parts.shape[1]):
            chosen = parted.parts[:, column] >= 0
            add(parted.wholes[chosen], parted.parts[chosen, column], tag)
            tag = algebra.tag()
    return np.concatenate(tables, axis=1)


def _initial(algebra: Algebra) -> Hashes:
    """Colours from the marks; pinned labels are all different."""
    colour = np.zeros(algebra.count, np.uint64)
    for labels, tag in algebra.marks:
        np.add.at(colour, labels.ravel(), _hash(tag, 1))
    every = np.arange(algebra.count)
    pinned = algebra.pinned(every)
    colour[pinned] = _hash(every[pinned], 2)
    return colour


def _refine(colour: Hashes, edges: Array) -> Hashes:
    """Colour refinement: labels of one colour have the same relations to labels of every colour."""
    first, second = edges[0], edges[1]
    out, back = _hash(edges[2], 3), _hash(edges[2], 4)
    cells = len(np.unique(colour))
    while True:
        collected = np.zeros(len(colour), np.uint64)
        np.add.at(collected, first, _mix(colour[second] ^ out))
        np.add.at(collected, second, _mix(colour[first] ^ back))
        colour = _mix(_mix(colour) ^ collected)
        now = len(np.unique(colour))
        if now == cells:
            return colour
        cells = now


class _Reader:
    """Units, and the recursion over components."""

    def __init__(self, colour: Hashes, edges: Array) -> None:
        self.colour = colour
        self.cell = ranks(colour).astype(np.int32)
        self.size = np.bincount(self.cell)
        loose = (self.size[self.cell[edges[0]]] > 1) & (self.size[self.cell[edges[1]]] > 1)
        self.edges = edges[:, loose]  # a relation to a fixed label holds for the whole cell
        self.unit = np.arange(len(colour), dtype=np.int32)

    def contract(self) -> Array:
        """Join labels that are tied one to one into units; returns labels whose ties are twisted."""
        first, second, tag = self.edges
        order, starts, number = equal_columns(np.stack([self.cell[first], self.cell[second], tag]))
        left, right = self.cell[first[order[starts]]], self.cell[second[order[starts]]]
        matching = (number == self.size[left]) & (number == self.size[right]) & (left != right)
        chosen = order[np.repeat(matching, number)]
        unions = Unions(len(self.cell))
        unions.join(first[chosen], second[chosen])
        self.unit = unions.classes()
        cells = len(self.size)
        pairs = np.sort(self.unit * np.int64(cells) + self.cell)
        bad = np.unique(pairs[1:][pairs[1:] == pairs[:-1]] // max(cells, 1))
        return np.flatnonzero(np.isin(self.unit, bad)) if len(bad) else bad

    def levels(self) -> tuple[list[Level], list[Array], Array]:
        """Levels of interchangeable components, derived labels, and what is stuck."""
        units = int(self.unit.max(initial=-1)) + 1
        kind = np.zeros(units, np.uint64)
        np.add.at(kind, self.unit, _mix(self.colour))
        self.kind = ranks(kind)
        order = np.lexsort((self.colour, self.unit))
        self.order, self.starts = order, np.append(np.flatnonzero(np.diff(self.unit[order], prepend=-1)), len(order))
        first, second, tag = self.edges[:, self.unit[self.edges[0]] != self.unit[self.edges[1]]]
        relation = ranks(_mix(_hash(tag, 5) ^ self.colour[first]) + _mix(self.colour[second] ^ np.uint64(6)))
        edges = unique_columns(np.stack([self.unit[first], self.unit[second], relation.astype(np.int32)]))
        first = np.full(units, len(self.unit), np.int64)
        np.minimum.at(first, self.unit, np.arange(len(self.unit)))
        self.first = first
        self.derived_units: list[Array] = []
        self.stuck_units: list[int] = []
        self.found: list[Level] = []
        loose = np.bincount(self.kind)[self.kind] > 1
        everything = np.flatnonzero(loose)
        if len(everything):
            self._descend([everything], edges, -1, 0)
        widths = sorted({rows.shape[1] for rows in self.derived_units})
        derived = [
            self._labels_of_derived(np.concatenate([rows for rows in self.derived_units if rows.shape[1] == width]))
            for width in widths
        ]
        stuck = np.concatenate([self.members(u) for u in self.stuck_units] or [np.empty(0, np.int64)])
        return self.found, derived, stuck

    def members(self, unit: int) -> Array:
        """The labels of a unit."""
        return self.order[self.starts[unit] : self.starts[unit + 1]]

    def _descend(self, blocks: Sequence[Array], edges: Array, parent: int, depth: int) -> list[Array]:
        """Split isomorphic blocks of units into components, all blocks alike.

        Returns:
            for every block its units in an order that matches the other blocks'.
        """
        if len(blocks[0]) == 1:
            return list(blocks)
        where = np.full(len(self.kind), -1, np.int64)
        for number, block in enumerate(blocks):
            where[block] = number
        inside = (where[edges[0]] >= 0) & (where[edges[0]] == where[edges[1]])
        edges = edges[:, inside]
        kept, derived = self._drop_complete(where, edges)
        whole = np.concatenate(blocks)
        free = np.setdiff1d(whole, derived)
        local = np.full(len(self.kind), -1, np.int64)
        local[free] = np.arange(len(free))
        graph = coo_array((np.ones(kept.shape[1], bool), (local[kept[0]], local[kept[1]])), (len(free), len(free)))
        component = connected_components(graph, directed=False)[1]
        order = np.argsort(component, kind="stable")
        starts = np.flatnonzero(np.diff(component[order], prepend=-1))
        ordered_units = free[order]
        parts = np.split(ordered_units, starts[1:])
        if len(parts) == len(blocks) and len(parts[0]) > 1:
            self.stuck_units += [int(unit) for part in parts for unit in part]
            return [part[np.lexsort((self.first[part], self.kind[part]))] for part in parts]
        signature = np.add.reduceat(_hash(self.kind[ordered_units], 8), starts)
        home = where[ordered_units[starts]]
        start = np.minimum.reduceat(self.first[ordered_units], starts)
        result: list[list[Array]] = [[] for _ in blocks]
        for value in np.unique(signature):
            alike = np.flatnonzero(signature == value)
            alike = alike[np.lexsort((start[alike], home[alike]))]
            m = len(alike) // len(blocks)
            index = -1
            if m > 1:
                index = len(self.found)
                self.found.append(Level(np.empty((0, 0, 0), np.int32), parent, depth))
            ordered = self._descend([parts[k] for k in alike], kept, index if m > 1 else parent, depth + (m > 1))
            if m > 1:
                labels = [np.concatenate([self.members(unit) for unit in units]) for units in ordered]
                nodes = np.stack(labels).astype(np.int32).reshape(len(blocks), m, -1)
                self.found[index] = Level(nodes, parent, depth)
            for number, units in enumerate(ordered):
                result[number // m].append(units)
        return [np.concatenate(units) for units in result]

    def _drop_complete(self, where: Array, edges: Array) -> tuple[Array, Array]:
        """Relations that say something inside the blocks, and the units that are derived from others."""
        cell = _pair_ranks(where, self.kind)
        size = np.bincount(cell, minlength=int(cell.max()) + 1)
        kinds = np.stack([cell[edges[0]], cell[edges[1]], edges[2]])
        groups, inverse, number = count_columns(kinds)
        complete = number == size[groups[0]] * size[groups[1]]
        edges, kinds = edges[:, ~complete[inverse]], kinds[:, ~complete[inverse]]
        derived, implied = self._products(edges, kinds, size)
        self.derived_units += derived
        gone = np.unique(np.concatenate([rows[:, 0] for rows in derived] or [np.empty(0, np.int64)]))
        edges = np.concatenate([edges, *implied], axis=1)
        return unique_columns(edges[:, ~np.isin(edges[0], gone) & ~np.isin(edges[1], gone)]), gone

    def _products(self, edges: Array, kinds: Array, size: Array) -> tuple[list[Array], list[Array]]:
        """Cells whose units are exactly the tuples of units of other cells (of distinct units, perhaps).

        Returns:
            rows (unit, parts) of every such cell, and the relations between other units that they imply.
        """
        ends = np.concatenate([edges[:2], edges[1::-1]], axis=1)
        kinds = np.concatenate([kinds, np.stack([kinds[1], kinds[0], -1 - kinds[2]])], axis=1)
        found: list[Array] = []
        implied: list[Array] = []
        for source in np.unique(kinds[0]):
            own = kinds[0] == source
            number = int(own.sum())
            columns: list[tuple[int, Array]] = []
            for target, tag in unique_columns(kinds[1:, own]).T:
                chosen = own & (kinds[1] == target) & (kinds[2] == tag)
                order = np.argsort(ends[0, chosen])
                units, column = ends[0, chosen][order], ends[1, chosen][order]
                if len(units) != size[source] or (np.diff(units) == 0).any():
                    break
                if not any(target == other and np.array_equal(column, known) for other, known in columns):
                    columns.append((int(target), column))
                number -= len(units)
            parts: list[tuple[int, Array]] = []
            relations: list[Array] = []
            for target, column in sorted(columns, key=lambda entry: -size[entry[0]]):
                for _, part in parts:  # a column that another determines is no part
                    pairs = unique_columns(np.stack([part, column]))
                    if pairs.shape[1] == len(np.unique(part)):
                        relations.append(np.concatenate([pairs, np.full((1, pairs.shape[1]), -7)]))
                        break
                else:
                    parts.append((target, column))
            if number or len(parts) < 2 or size[source] not in _tuples(parts):
                continue
            rows = np.column_stack([units, *(part for _, part in parts)])
            if len(np.unique(packed(rows[:, 1:].T))) == len(rows):
                found.append(rows)
                implied += relations
        return found, implied

    def _labels_of_derived(self, rows: Array) -> Array:
        """Derived units as derived labels: every member moves as the parts' first members do."""
        parts = np.column_stack([[self.members(unit)[0] for unit in column] for column in rows[:, 1:].T])
        tables = [np.column_stack([np.full(len(self.members(unit)), 0), self.members(unit)]) for unit in rows[:, 0]]
        names = np.concatenate([table[:, 1] for table in tables])
        repeat = np.repeat(np.arange(len(rows)), [len(table) for table in tables])
        return np.column_stack([names, parts[repeat]])


def _tuples(parts: Sequence[tuple[int, Array]]) -> tuple[int, int]:
    """How many tuples there are of units that occur in some columns: all, and all without repeats of a cell's unit."""
    every = without = 1
    for position, (cell, column) in enumerate(parts):
        count = len(np.unique(column))
        every *= count
        without *= count - sum(other == cell for other, _ in parts[:position])
    return every, without


def _pair_ranks(first: Array, second: Array) -> Array:
    """One number for every distinct pair."""
    return ranks(packed(np.stack([first, second])))
