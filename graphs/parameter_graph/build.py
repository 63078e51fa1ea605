"""From the plans of all tensors to the arrays of a parameter graph: NumPy over whole tensors, linear in their entries."""

from collections.abc import Sequence

import numpy as np
import torch

from graphs.algebra import Array
from graphs.columns import packed, unique_columns
from graphs.parameter_graph.neurons import Neurons
from graphs.parameter_graph.plan import End, TensorPlan
from graphs.parameter_graph.structure import GraphStructure
from graphs.parameter_graph.vocabulary import EDGE_KIND, EDGE_OP, NODE_KIND, POSITIONS, op_family

Edges = dict[str, Array]


def build(neurons: Neurons, plans: Sequence[TensorPlan]) -> GraphStructure:
    """The graph of planned tensors."""
    return _Builder(neurons, plans).structure()


class _Builder:
    """Collects edges tensor by tensor; nodes are numbered at the end, in the order in which edges meet them.

    Until then a node is a key: a class, then a value with a single feature, then a constant node for each tensor, then
    parameter nodes.
    """

    def __init__(self, neurons: Neurons, plans: Sequence[TensorPlan]) -> None:
        self.neurons, self.plans = neurons, plans
        self.program = neurons.labelling.program
        self.depth = depths(neurons)
        self.first_single = neurons.count
        self.first_constant = self.first_single + len(self.program.values)
        self.first_parameter = self.first_constant + len(plans)
        self.next = self.first_parameter
        self.edges: list[Edges] = []
        self.coordinates: list[list[Array]] = []  # of every tensor, one number for every edge each
        self.extra: list[Edges] = []
        self.parts: list[Array] = [neurons.parts]
        self.node_positions: list[tuple[Array, Array]] = []
        self.node_depths: list[tuple[Array, float]] = []
        self.lookups: list[Array] = []

    def structure(self) -> GraphStructure:
        for number, plan in enumerate(self.plans):
            self.tensor(number, plan)
        self.parallel()
        for edges, coordinates in zip(self.edges, self.coordinates, strict=True):
            edges["position"] = _positions(coordinates, len(edges["source"]))
        self.related(np.concatenate(self.parts, axis=1))
        columns = [*self.edges, *self.extra]
        joined = (
            {key: np.concatenate([edges[key] for edges in columns]) for key in columns[0]} if columns else _edges(0)
        )
        keys, inverse = _in_order(np.stack([joined.pop("source"), joined.pop("target")], 1).ravel())
        index = inverse.reshape(-1, 2).T
        node_class = np.where(keys < self.first_single, keys, -1)
        node = self.nodes(keys)
        edge = {f"edge_{key}": torch.from_numpy(np.ascontiguousarray(value)) for key, value in joined.items()}
        return GraphStructure(
            name=self.program.module_name,
            records=tuple(plan.record for plan in self.plans),
            node={f"node_{key}": torch.from_numpy(value) for key, value in node.items()},
            edge={"edge_index": torch.from_numpy(np.ascontiguousarray(index)), **edge},
            node_names=self.names(keys, node),
            neurons=self.neurons,
            node_class=node_class,
        )

    def tensor(self, number: int, plan: TensorPlan) -> None:
        """Add the edges of one tensor."""
        record, use, shape = plan.record, plan.use, plan.record.shape
        depth = self.depth[use.output] if use.output >= 0 else 1.0
        coordinates = [_index(shape, k) for k in plan.positions]
        ends: dict[int, Array] = {}
        for position, end in enumerate(plan.ends):
            ends[position] = self.end(end, coordinates, depth)
        self.parts += [self.pairs(first, second) for first, second in plan.parts]
        source = next((ends[k] for k, end in enumerate(plan.ends) if end.side == "source"), None)
        target = next((ends[k] for k, end in enumerate(plan.ends) if end.side == "target"), None)
        kind = use.kind
        if use.contracts and use.reads > 1 and source is not None and target is not None:
            kind = "recurrent" if np.isin(np.unique(source), np.unique(target)).any() else kind
        if use.kind == "embedding" and source is not None:
            self.lookups.append(np.unique(source))
        entry = np.arange(record.entries)
        if plan.hyper:
            own = self.next + entry
            self.next += record.entries
        else:
            own = np.full(record.entries, self.first_constant + number)
        chosen = own if plan.hyper or source is None else _filled(source, shape)
        if target is None:  # no neuron at all: a node of the tensor's own
            self.next += 1
            target = np.full((1,) * len(shape), self.next - 1)
            self.node_depths.append((np.array([self.next - 1]), depth))
        self.node_depths.append((own if plan.hyper else own[:1], depth))
        edges = _edges(record.entries)
        edges["source"], edges["target"] = chosen, _filled(target, shape)
        edges["kind"][:], edges["op"][:] = EDGE_KIND[kind], EDGE_OP[use.family]
        edges["tensor"][:], edges["entry"] = number, entry
        if record.dtype.is_complex:
            edges = {key: np.repeat(value, 2, axis=0) for key, value in edges.items()}
            coordinates = [np.repeat(_filled(c, shape), 2) for c in coordinates]
            coordinates.append(np.tile(np.arange(2), record.entries))
        else:
            coordinates = [_filled(c, shape) for c in coordinates]
        self.edges.append(edges)
        self.coordinates.append(coordinates)
        if plan.hyper:
            value_end = next((k for k, end in enumerate(plan.ends) if end.side == "target"), len(plan.ends))
            for position in ends:
                if position != value_end:
                    joint = _edges(record.entries)
                    joint["source"], joint["target"] = _filled(ends[position], shape), own
                    joint["kind"][:], joint["op"][:] = EDGE_KIND["structure"], EDGE_OP[use.family]
                    joint["position"][:, 0] = position
                    self.extra.append(joint)

    def parallel(self) -> None:
        """Tensors of one kind between the same neurons (two biases of a gate, a left and a right child) are counted."""
        alike: dict[tuple, list[int]] = {}
        for number, (edges, plan) in enumerate(zip(self.edges, self.plans, strict=True)):
            source, target = np.unique(edges["source"]), np.unique(edges["target"])
            source = source[source < self.first_constant]  # constant and parameter nodes are the tensor's own
            key = (plan.use.family, int(edges["kind"][0]), source.tobytes(), target.tobytes()) if len(target) else ()
            alike.setdefault(key, []).append(number)
        for numbers in alike.values():
            if len(numbers) > 1:
                for place, number in enumerate(sorted(numbers, key=lambda k: (self.plans[k].use.op, k))):
                    self.coordinates[number].append(np.full(len(self.edges[number]["source"]), place))

    def end(self, end: End, coordinates: list[Array], depth: float) -> Array:
        """Node keys of one end; fixed coordinates and roles are added to the edges' coordinates."""
        if end.labels is None:
            root = int(self.neurons.single[end.single])
            if end.side == "target":
                self.node_depths.append((np.array([self.first_single + root]), depth))
            return np.full((1,), self.first_single + root)
        classes = self.neurons.of(end.labels)
        keys = self.neurons.base[classes]
        for column in range(self.neurons.coordinates.shape[1]):
            values = self.neurons.coordinates[classes, column]
            if (values >= 0).any():
                coordinates.append(values)
        roles = self.neurons.roles(end.labels)
        if roles is not None:
            coordinates.append(roles)
        self.node_positions.append((keys.ravel(), _first_long(keys)))
        if end.side == "target":
            self.node_depths.append((np.unique(keys), depth))
        return keys

    def pairs(self, features: Array, heads: Array) -> Array:
        """Relations between neurons and those that they determine."""
        first, second = np.broadcast_arrays(self.neurons.base[features], self.neurons.base[heads])
        return np.stack([first.ravel(), second.ravel(), np.zeros(first.size, np.int64)])

    def related(self, relations: Array) -> None:
        """Structural edges from neurons that have edges to their free coordinates, and from those to theirs."""
        met = np.unique(np.concatenate([np.empty(0, np.int64), *(e["target"] for e in (*self.edges, *self.extra)),
                                        *(e["source"] for e in (*self.edges, *self.extra))]))  # fmt: skip
        relations = unique_columns(relations)
        _, first = np.unique(packed(relations[:2]), return_index=True)
        relations = relations[:, first]
        while True:
            chosen = np.isin(relations[0], met)
            further = np.union1d(met, relations[1, chosen])
            if len(further) == len(met):
                break
            met = further
        edges = _edges(int(chosen.sum()))
        edges["source"], edges["target"] = relations[0, chosen], relations[1, chosen]
        edges["kind"][:] = EDGE_KIND["structure"]
        edges["position"][:, 0] = relations[2, chosen]
        if chosen.any():
            edges["position"][:, 1] = self.neurons.ranks(edges["source"], edges["target"])
        self.extra.append(edges)

    def nodes(self, keys: Array) -> dict[str, Array]:
        """Kind, depth and position of every node."""
        neurons, count = self.neurons, len(keys)
        is_class = keys < self.first_single
        classes = np.where(is_class, keys, 0)
        fixed = neurons.fixed[classes] & is_class if neurons.count else np.zeros(count, bool)
        looked_up = np.isin(keys, np.concatenate([np.empty(0, np.int64), *self.lookups]))
        reads = self.member(keys, "input", self.program.inputs) | (looked_up & fixed)
        writes = self.member(keys, "output", self.program.outputs)
        kind = np.full(count, NODE_KIND["hidden"])
        kind[fixed] = NODE_KIND["fixed"]
        kind[reads] = NODE_KIND["input"]
        kind[writes] = NODE_KIND["output"]
        kind[reads & writes] = NODE_KIND["input_output"]
        kind[(keys >= self.first_constant) & (keys < self.first_parameter)] = NODE_KIND["constant"]
        kind[keys >= self.first_parameter] = NODE_KIND["parameter"]
        place = np.full(self.next, -1)
        for found, position in reversed(self.node_positions):
            place[found] = position
        depth = np.full(self.next, np.inf)
        for found, value in self.node_depths:
            depth[found] = np.minimum(depth[found], value)
        parts = self.extra[-1]
        for _ in range(2):  # coordinates lie where the neurons do that they are coordinates of
            np.minimum.at(
                depth, parts["target"], np.where(np.isinf(depth[parts["source"]]), np.inf, depth[parts["source"]])
            )
        depth[np.isinf(depth)] = 0.0
        single = (keys >= self.first_single) & (keys < self.first_constant)
        position = np.where(single, 0, np.where(fixed, place[keys], -1))
        return {"kind": kind, "depth": depth[keys].astype(np.float32), "position": position}

    def member(self, keys: Array, why: str, values: Sequence[int]) -> Array:
        """Which nodes are positions of the module's inputs (or outputs)."""
        found = np.zeros(self.next, bool)
        found[: self.first_single] = self.neurons.positions_of(values, why)
        found[self.first_single + self.neurons.single[list(values)]] = True
        return found[keys]

    def names(self, keys: Array, node: dict[str, Array]) -> tuple[str, ...]:
        """Names of all nodes, for people."""
        kinds = list(NODE_KIND)
        seen: dict[str, int] = {}
        found = []
        for key, kind, position in zip(keys.tolist(), node["kind"].tolist(), node["position"].tolist(), strict=True):
            name = kinds[kind]
            if name == "constant":
                found.append(f"constant {self.plans[key - self.first_constant].record.names[0]}")
                continue
            seen[name] = seen.get(name, -1) + 1
            found.append(f"{name} {position if position >= 0 and name != 'fixed' else seen[name]}")
        return tuple(found)


def depths(neurons: Neurons) -> Array:
    """`[value]`: length of the longest path of computing operators to each value, relative to the longest of all."""
    program = neurons.labelling.program
    live = program.depends_on_inputs()
    found = np.zeros(len(program.values))
    for op in program.ops:
        deepest = max((found[value] for value in op.inputs if live[value]), default=0.0)
        for output in op.outputs:
            if output is not None:
                found[output] = deepest + (op_family(op) != "shape")
    return found / max(found.max(initial=0.0), 1.0)


def _edges(count: int) -> Edges:
    """Attributes of edges without tensor, kind and positions."""
    return {
        "source": np.zeros(count, np.int64),
        "target": np.zeros(count, np.int64),
        "kind": np.zeros(count, np.int64),
        "op": np.zeros(count, np.int64),
        "position": np.full((count, POSITIONS), -1),
        "tensor": np.full(count, -1),
        "entry": np.full(count, -1),
    }


def _index(shape: tuple[int, ...], axis: int) -> Array:
    """The index along one dimension, of size 1 along all others."""
    return np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))])


def _filled(array: Array, shape: tuple[int, ...]) -> Array:
    """An array over a tensor's dimensions as one number for every entry."""
    return np.ascontiguousarray(np.broadcast_to(array if shape else array.reshape(()), shape)).reshape(-1)


def _first_long(keys: Array) -> Array:
    """The index along the last long dimension of an array, flat."""
    axis = max(range(keys.ndim), key=lambda k: (keys.shape[k] > 1, k), default=0)
    return np.ascontiguousarray(np.broadcast_to(_index(keys.shape, axis), keys.shape)).reshape(-1)


def _positions(coordinates: Sequence[Array], count: int) -> Array:
    """The coordinates as `[edge, POSITIONS]`; those that have no room share the last place in mixed radix."""
    found = np.full((count, POSITIONS), -1)
    for k, column in enumerate(coordinates[: POSITIONS - 1]):
        found[:, k] = column
    rest = coordinates[POSITIONS - 1 :]
    if rest:
        found[:, -1] = rest[0]
    for column in rest[1:]:
        found[:, -1] = (found[:, -1] + 1) * (column.max(initial=0) + 2) + column + 1
    return found


def _in_order(keys: Array) -> tuple[Array, Array]:
    """Distinct keys in the order in which they are first met, and for every key its place among them."""
    values, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return values[order], rank[inverse.ravel()]
