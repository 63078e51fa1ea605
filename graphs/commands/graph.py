"""`metazoo graph`: the parameter graph of a family or of a model of a zoo."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzoo.console import console, print_json, print_table
from modelzoo.errors import UserError

if TYPE_CHECKING:
    import networkx as nx
    from torch import nn
    from torch_geometric.data import Data

MAX_EDGES = 2_000_000


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def graph(
        what: Annotated[str, typer.Argument(help="A family (or family.variant), or the folder of a zoo.")],
        model: Annotated[str | None, typer.Argument(help="POPULATION/ID, when the first argument is a zoo.")] = None,
        levels: Annotated[
            bool, typer.Option("--levels", help="Only the layer-level graph, one edge a tensor.")
        ] = False,
        networkx: Annotated[Path | None, typer.Option(help="Write the graph as GraphML to this file.")] = None,
        max_edges: Annotated[int, typer.Option(help="Refuse larger parameter graphs.")] = MAX_EDGES,
        json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    ) -> None:
        """Show the parameter graph of a family, or of one model of a zoo."""
        from graphs.parameter_graph import graph_structure, layer_graph, to_networkx
        from graphs.program import trace

        module, inputs, name = _subject(what, model)
        program = trace(module, inputs)
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        tensors = {key: value.detach() for key, value in state.items()}
        layers = layer_graph(program, tensors)
        data = None if levels else graph_structure(program, max_edges=max_edges).data(tensors)
        if networkx is not None:
            _write(layers if data is None else to_networkx(data), networkx)
        report = {
            "model": name,
            **({} if data is None else _counts(data)),
            "layers": _nodes(layers),
            "tensors": _edges(layers),
        }
        if json:
            print_json(report)
            return
        if data is not None:
            console.print(
                f"parameter graph of {name}: {data.num_nodes:,} nodes, {data.num_edges:,} edges", highlight=False
            )
            print_table(report["nodes by kind"], "nodes by kind")
            print_table(report["edges by kind"], "edges by kind")
        print_table(report["layers"], f"layers of {name}")
        print_table(report["tensors"], "tensors")
        if networkx is not None:
            console.print(f"wrote {networkx}", highlight=False)


def _subject(what: str, model: str | None) -> "tuple[nn.Module, tuple[Any, ...], str]":
    """The module to draw, example inputs, and its name."""
    if model is None:
        from modelzoo.family import resolve
        from modelzoo.task import task

        family, fields = resolve(what)
        chosen = task(family.task)
        return family.build(family.configure(chosen, fields), seed=0), chosen.example_inputs(), what
    from modelzoo.store import Zoo

    name, _, number = model.partition("/")
    population = Zoo.open(what)[name]
    if not number.isdigit():
        raise UserError(
            f"model {model!r} has no number; write POPULATION/ID, metazoo show {what} {name} lists them.", 2
        )
    row = int(population.positions([int(number)])[0])
    return population.module(row), population.example_inputs(), model


def _counts(data: "Data") -> dict[str, Any]:
    """Nodes and edges by kind, with the range of what they carry."""
    from graphs.parameter_graph import EDGE_KINDS, EDGE_OPS, NODE_KINDS

    nodes = []
    for code, kind in enumerate(NODE_KINDS):
        chosen = data.node_kind == code
        if chosen.any():
            positions, depth = data.node_position[chosen], data.node_depth[chosen]
            interchangeable = int((positions < 0).sum())
            nodes.append({
                "kind": kind, "nodes": int(chosen.sum()), "without position": interchangeable,
                "depth": f"{depth.min():.2f} – {depth.max():.2f}",
            })  # fmt: skip
    pairs = Counter(zip(data.edge_kind.tolist(), data.edge_op.tolist(), strict=True))
    edges = []
    for (kind, op), count in sorted(pairs.items()):
        chosen = (data.edge_kind == kind) & (data.edge_op == op)
        values, positions = data.edge_value[chosen], data.edge_position[chosen]
        edges.append({
            "kind": EDGE_KINDS[kind], "read by": EDGE_OPS[op], "edges": count,
            "positions": " × ".join(str(int(column.max()) + 1) for column in positions.T if column.max() >= 0) or None,
            "mean": values.mean(), "rms": values.square().mean().sqrt(),
        })  # fmt: skip
    return {"num_nodes": data.num_nodes, "num_edges": data.num_edges, "nodes by kind": nodes, "edges by kind": edges}


def _nodes(layers: "nx.MultiDiGraph[int]") -> list[dict[str, Any]]:
    columns = ("name", "kind", "size", "movable", "depth")
    return [{key: data[key] for key in columns} for _, data in layers.nodes(data=True)]


def _edges(layers: "nx.MultiDiGraph[int]") -> list[dict[str, Any]]:
    names = {node: data["name"] for node, data in layers.nodes(data=True)}
    return [
        {
            "tensor": data["tensor"], "from": names[source], "to": names[target],
            "shape": " × ".join(map(str, data["shape"])) or "scalar", "kind": data["kind"], "read by": data["op"],
            "rms": data["rms"],
        }
        for source, target, data in layers.edges(data=True)
    ]  # fmt: skip


def _write(graph: "nx.MultiDiGraph[int]", path: Path) -> None:
    """Write GraphML, with lists as text."""
    import networkx as nx

    if not path.parent.is_dir():
        raise UserError(f"folder {str(path.parent)!r} is not there; make it, or write the GraphML file elsewhere.")
    for *_, attributes in graph.edges(data=True):
        attributes.update({key: str(value) for key, value in attributes.items() if isinstance(value, list)})
    nx.write_graphml(graph, path)
