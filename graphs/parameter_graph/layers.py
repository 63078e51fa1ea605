"""The layer-level graph: the parameter graph with every group of neurons drawn as one node and every tensor as one edge."""

from collections.abc import Mapping

import networkx as nx
import numpy as np
from torch import Tensor

from graphs.group import SymmetryGroup
from graphs.parameter_graph.build import depths
from graphs.parameter_graph.plan import End, TensorPlan, plans
from graphs.parameter_graph.structure import neurons_of
from graphs.program import Program
from graphs.unions import Unions
from modelzoo.errors import UserError


def layer_graph(
    program_or_group: Program | SymmetryGroup, tensors: Mapping[str, Tensor] | None = None
) -> "nx.MultiDiGraph[int]":
    """The layer-level graph of a module; its cost grows with the dimensions of the tensors, not with their entries.

    Args:
        program_or_group: a traced module, or its symmetry group.
        tensors: parameters and state buffers by name, for the norms; `None` leaves norms out.

    Returns:
        Nodes are groups of neurons that some tensor's dimension holds together: `name`, `kind` (of `NODE_KINDS`),
        `size`, `movable` (how many of them some symmetry could move), `depth`. Edges are tensors from input side to
        output side: `tensor`, `shape`, `kind`, `op`, and `norm` (Frobenius) and `rms` when tensors are given. Biases and
        gains come from the one constant node.

    Raises:
        UserError: `tensors` lacks a tensor.
    """
    neurons = neurons_of(program_or_group)
    program = neurons.labelling.program
    planned = plans(neurons)
    depth = depths(neurons)
    constant = neurons.count + len(program.values)
    ends = [end for plan in planned for end in plan.ends]

    def members(end: End) -> np.ndarray:
        if end.labels is None:
            return np.array([neurons.count + neurons.single[end.single]])
        return np.unique(neurons.base[neurons.of(end.labels)])

    held = [members(end) for end in ends]
    unions = Unions(constant + 1)
    for keys in held:
        unions.join(np.full(len(keys), keys[0]), keys)
    group = unions.classes()
    met = np.unique(np.concatenate([np.empty(0, np.int64), *held]))
    reads = neurons.positions_of(program.inputs, "input")
    writes = neurons.positions_of(program.outputs, "output")
    singles = [
        set((neurons.count + neurons.single[list(values)]).tolist()) for values in (program.inputs, program.outputs)
    ]
    graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
    numbers: dict[int, int] = {}
    for plan in planned:
        for end in plan.ends:
            root = int(group[members(end)[0]])
            if root in numbers:
                continue
            own = met[group[met] == root]
            classes = own[own < neurons.count]
            looked_up = plan.use.kind == "embedding" and end.side == "source"
            is_input = bool(reads[classes].any()) or looked_up or bool(singles[0] & set(own.tolist()))
            is_output = bool(writes[classes].any()) or bool(singles[1] & set(own.tolist()))
            movable = int((~neurons.fixed[classes]).sum())
            numbers[root] = len(numbers)
            graph.add_node(
                numbers[root], kind=_kind(is_input, is_output, movable), size=len(own), movable=movable, depth=0.0,
                name="",
            )  # fmt: skip
    for plan in planned:
        _add(graph, plan, {id(end): numbers[int(group[members(end)[0]])] for end in plan.ends}, depth, tensors)
    _name(graph)
    return graph


def _kind(is_input: bool, is_output: bool, movable: int) -> str:
    if is_input or is_output:
        return "input_output" if is_input and is_output else "input" if is_input else "output"
    return "hidden" if movable else "fixed"


def _add(
    graph: "nx.MultiDiGraph[int]", plan: TensorPlan, number: Mapping[int, int], depth: np.ndarray,
    tensors: Mapping[str, Tensor] | None,
) -> None:  # fmt: skip
    """Add a tensor as an edge (one to every further group if its entries have more than two ends)."""
    record, use = plan.record, plan.use
    sources = [number[id(end)] for end in plan.ends if end.side == "source"]
    targets = [number[id(end)] for end in plan.ends if end.side == "target"]
    sources += [number[id(end)] for end in plan.ends if end.side == "extra"]
    attributes: dict[str, object] = {
        "tensor": record.names[0],
        "shape": list(record.shape),
        "kind": use.kind,
        "op": use.family,
    }
    if len(record.names) > 1:
        attributes["tied"] = list(record.names[1:])
    if use.contracts and use.reads > 1 and set(sources) & set(targets):
        attributes["kind"] = "recurrent"
    if tensors is not None:
        tensor = next((tensors[name] for name in record.names if name in tensors), None)
        if tensor is None:
            raise UserError(
                f"tensor {record.names[0]!r} is missing; pass all parameters and state buffers of the module."
            )
        norm = float(tensor.detach().abs().double().square().sum().sqrt())
        attributes |= {"norm": norm, "rms": norm / max(record.entries, 1) ** 0.5}
    for target in targets:
        found = float(depth[use.output]) if use.output >= 0 else 0.0
        graph.nodes[target]["depth"] = min(graph.nodes[target]["depth"] or found, found)
    if not sources or not targets:
        constant = next((node for node, data in graph.nodes(data=True) if data["kind"] == "constant"), None)
        if constant is None:
            constant = graph.number_of_nodes()
            graph.add_node(constant, kind="constant", size=1, movable=0, depth=0.0, name="")
        sources, targets = sources or [constant], targets or [constant]
    for target in targets:
        for source in sources:
            graph.add_edge(source, target, **attributes)


def _name(graph: "nx.MultiDiGraph[int]") -> None:
    """Name every group after its role, or after the module whose weights produce it."""
    taken: dict[str, int] = {}
    for node, data in graph.nodes(data=True):
        made = [edge for *_, edge in graph.in_edges(node, data=True)] or [
            e for *_, e in graph.out_edges(node, data=True)
        ]
        made.sort(key=lambda edge: edge["kind"] in ("bias", "gain", "mean", "variance", "other"))
        name = data["kind"].replace("input_output", "input = output")
        if data["kind"] in ("hidden", "fixed") and made:
            name = made[0]["tensor"].rpartition(".")[0] or made[0]["tensor"]
        taken[name] = taken.get(name, 0) + 1
        data["name"] = name if taken[name] == 1 else f"{name} #{taken[name]}"
