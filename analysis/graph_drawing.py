"""Pictures of a parameter graph: collapsed by layer, or every neuron of a small model.

The layout is our own: the depth of a node gives its column, neurons of a column stand under each other, constants
(where biases and gains come from) above them and parameter nodes below.
"""

from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from torch_geometric.data import Data

from analysis.theme import CATEGORICAL, FOCUS, INK, MUTED, TARGET, figure, translucent
from graphs import EDGE_KINDS, NODE_KINDS
from modelzoo.errors import UserError

MOST_NODES = 300  # more are neither readable nor quick in a browser
MOST_EDGES = 4_000
LEVELS = 4
LOOP = 0.55  # height of an edge from a node to itself
KIND_COLOURS = {
    "input": TARGET, "hidden": CATEGORICAL[2], "output": FOCUS, "input_output": CATEGORICAL[4], "fixed": CATEGORICAL[5],
    "constant": "#B8C1CC", "parameter": CATEGORICAL[3],
}  # fmt: skip


@dataclass(frozen=True)
class GraphDrawing:
    """Nodes with places and edges between them.

    Args:
        nodes: columns x, y, kind, label, size, hover.
        edges: columns source, target, label, kind, strength (0 to 1), colour, bend, hover.
        of: edges before the weakest were left out.
        written: whether labels are written beside nodes and edges.
    """

    nodes: pd.DataFrame
    edges: pd.DataFrame
    of: int
    written: bool

    def to_frame(self) -> pd.DataFrame:
        """One row an edge that is drawn."""
        return self.edges[["source", "target", "label", "strength"]]

    def plot(self) -> go.Figure:
        """Edges in bundles of like colour and strength, nodes on top; as high as what is written needs."""
        drawing = figure(height=520)
        place = self.nodes[["x", "y"]].to_numpy(np.float64)
        level = np.clip(np.ceil(self.edges["strength"].to_numpy(np.float64) * LEVELS), 1, LEVELS).astype(int)
        for colour, strength in sorted(set(zip(self.edges["colour"], level.tolist(), strict=True))):
            part = self.edges[(self.edges["colour"] == colour) & (level == strength)]
            path = curves(place[part["source"]], place[part["target"]], part["bend"].to_numpy(np.float64))
            opacity = 0.9 if self.written else 0.12 + 0.73 * (strength / LEVELS) ** 2
            drawing.add_scatter(
                x=path[..., 0].ravel(), y=path[..., 1].ravel(), mode="lines", hoverinfo="skip", showlegend=False,
                line={"color": translucent(str(colour), opacity), "width": (1 + 1.2 * strength) if self.written else 0.5 + 0.45 * strength},
            )  # fmt: skip
        if self.written:
            self._write(drawing, place)
        for kind in [kind for kind in NODE_KINDS if kind in set(self.nodes["kind"])]:
            own = self.nodes[self.nodes["kind"] == kind]
            drawing.add_scatter(
                x=own["x"], y=own["y"], mode="markers+text" if self.written else "markers", text=own["label"],
                textposition="bottom center", textfont={"size": 11, "color": INK}, name=kind.replace("_", " and "),
                hovertext=own["hover"], hoverinfo="text", cliponaxis=False,
                marker={
                    "size": own["size"], "color": KIND_COLOURS[kind], "line": {"color": "white", "width": 1.2}, "opacity": 1,
                    "symbol": "square" if kind in {"constant", "parameter"} else "circle",
                },
            )  # fmt: skip
        drawing.update_xaxes(visible=False, range=[place[:, 0].min() - 0.5, place[:, 0].max() + 0.5])
        drawing.update_yaxes(visible=False)
        if self.written:
            reach = np.concatenate([place[:, 1], *(np.asarray(trace.y, np.float64) for trace in drawing.data if trace.mode == "lines" and trace.y[0] is not None)])  # fmt: skip
            low, high = float(np.nanmin(reach)) - 0.45, float(np.nanmax(reach)) + 0.3
            drawing.update_yaxes(range=[low, high])
            drawing.update_layout(height=int(min(90 + 150 * (high - low), 900)))
        return drawing.update_layout(margin={"l": 8, "r": 8, "t": 40, "b": 24}, legend={"itemsizing": "constant"})

    def _write(self, drawing: go.Figure, place: NDArray[np.floating]) -> None:
        """An arrow head in the middle of every edge with its label, and a legend of the edges' kinds."""
        named = self.edges[self.edges["label"] != ""]
        start, end = place[named["source"]], place[named["target"]]
        middle = control(start, end, named["bend"].to_numpy(np.float64)) / 2 + (start + end) / 4
        loops = (start == end).all(1)
        middle[loops] = start[loops] + np.array([0.0, LOOP])
        step = (end - start)[:, 0]
        rising = np.where(end[:, 1] > start[:, 1], "triangle-up", "triangle-down")
        drawing.add_scatter(
            x=middle[:, 0], y=middle[:, 1], mode="markers+text", text=named["label"], textposition="top center",
            textfont={"size": 10, "color": MUTED}, hovertext=named["hover"], hoverinfo="text", showlegend=False,
            marker={
                "size": 10, "color": named["colour"],
                "symbol": np.where(loops | (step > 0), "triangle-right", np.where(step < 0, "triangle-left", rising)),
            }, cliponaxis=False,
        )  # fmt: skip
        for kind, colour in self.edges.drop_duplicates("kind")[["kind", "colour"]].itertuples(index=False):
            drawing.add_scatter(
                x=[None], y=[None], mode="lines", name=str(kind), line={"color": str(colour), "width": 3}
            )


def control(start: NDArray[np.floating], end: NDArray[np.floating], bend: NDArray[np.floating]) -> NDArray[np.floating]:
    """`[edge, 2]`: control points of the curves; a vertical edge bends sideways, so that its ends do not hide it."""
    middle = (start + end) / 2
    upright = start[:, 0] == end[:, 0]
    middle[:, 0] += np.where(upright, bend, 0.0)
    middle[:, 1] += np.where(upright, 0.0, bend)
    return middle


def curves(start: NDArray[np.floating], end: NDArray[np.floating], bend: NDArray[np.floating]) -> NDArray[np.floating]:
    """Quadratic Bézier curves with a gap after each; an edge from a node to itself becomes a loop above it.

    Args:
        start, end: `[edge, 2]`.
        bend: `[edge]` height of the control point over the middle of the chord.

    Returns:
        `[edge, point, 2]`, the last point of every edge NaN.
    """
    steps = 40 if (bend != 0).any() or (start == end).all(1).any() else 2
    t = np.linspace(0, 1, steps)[:, None]
    middle = control(start, end, bend)
    points = ((1 - t) ** 2) * start[:, None] + 2 * t * (1 - t) * middle[:, None] + t**2 * end[:, None]
    loops = (start == end).all(1)
    angle = 2 * np.pi * t[:, 0]
    points[loops] = start[loops][:, None] + np.stack([LOOP / 3 * np.sin(angle), LOOP / 2 * (1 - np.cos(angle))], 1)
    return np.concatenate([points, np.full_like(points[:, :1], np.nan)], 1)


def columns_of(depth: NDArray[np.floating]) -> NDArray[np.int64]:
    """The rank of every depth among the distinct ones."""
    return np.unique(np.round(depth, 6), return_inverse=True)[1].astype(np.int64)


def arrays(data: Data) -> dict[str, NDArray[Any]]:
    """The attributes of a parameter graph as NumPy arrays, by name."""
    names = ("node_kind", "node_depth", "edge_index", "edge_value", "edge_kind", "edge_tensor")
    return {name: getattr(data, name).detach().cpu().numpy() for name in names}


def layer_drawing(layers: "nx.MultiDiGraph[int]") -> GraphDrawing:
    """The layer-level graph: one node a group of neurons, one edge a tensor between two of them.

    What comes from the one constant node (biases, gains) is drawn as a small square beside each group it goes to.

    Args:
        layers: a graph of `graphs.layer_graph`.

    Raises:
        UserError: more than `MOST_NODES` groups.
    """
    if len(layers) > MOST_NODES:
        raise UserError(f"this graph has {len(layers)} layers, at most {MOST_NODES} are drawn; look at its tensors on the Weights view.")  # fmt: skip
    own = [node for node, data in layers.nodes(data=True) if data["kind"] != "constant"]
    place = {node: number for number, node in enumerate(own)}
    nodes = pd.DataFrame([layers.nodes[node] for node in own])
    column = columns_of(nodes["depth"].to_numpy(np.float64))
    nodes["x"] = column.astype(np.float64)
    rank, crowd = (nodes.groupby(column)["kind"].transform(how).to_numpy() for how in ("cumcount", "size"))
    nodes["y"] = (crowd - 1) / 2 - rank
    nodes["hover"] = [f"{row.name_}<br>{row.size_:,} {row.kind} neurons, {row.movable:,} of them movable" for row in nodes.rename(columns={"name": "name_", "size": "size_"}).itertuples()]  # fmt: skip
    nodes["label"] = [f"{name}<br>{size:,}" for name, size in zip(nodes["name"], nodes["size"], strict=True)]
    nodes["size"] = 15 + 5 * np.log2(1 + nodes["size"].astype(np.float64))
    rows: list[dict[str, Any]] = []
    squares: dict[int, list[dict[str, Any]]] = {}
    for source, target, data in layers.edges(data=True):
        if source not in place or target not in place:
            squares.setdefault(place.get(target, place.get(source, 0)), []).append(data)
            continue
        rows.append({"source": place[source], "target": place[target], **described(data)})
    for target, tensors in squares.items():
        beside = {"x": nodes["x"][target] - 0.24, "y": nodes["y"][target] + 0.42, "kind": "constant", "size": 9.0, "label": ""}  # fmt: skip
        beside["hover"] = "<br>".join(described(data)["hover"] for data in tensors)
        nodes.loc[len(nodes)] = beside
        largest = max((described(data) for data in tensors), key=lambda entry: entry["entries"])
        rows.append({"source": len(nodes) - 1, "target": target, **largest, "label": ""})
    edges = pd.DataFrame(rows, columns=["source", "target", "label", "kind", "hover", "entries", "colour"])
    edges["strength"] = np.log1p(edges["entries"]) / max(float(np.log1p(edges["entries"].max())), 1e-9)
    span = nodes["x"].to_numpy()[edges["target"]] - nodes["x"].to_numpy()[edges["source"]]
    between = edges.groupby(["source", "target"])["label"]
    spread = between.cumcount().to_numpy() - (between.transform("size").to_numpy() - 1) / 2
    edges["bend"] = np.where(span > 1.5, -0.45 * span, np.where(span < 0, 1.2, 0.0)) + 0.8 * spread
    return GraphDrawing(nodes, edges, len(edges), written=True)


def described(data: dict[str, Any]) -> dict[str, Any]:
    """Label, hover text, number of entries and colour of a tensor's edge."""
    shape = " × ".join(map(str, data["shape"])) or "scalar"
    norm = f", norm {data['norm']:.4g}" if "norm" in data else ""
    return {
        "label": shape,
        "kind": data["kind"],
        "hover": f"{data['tensor']}<br>{data['kind']} {shape}{norm}",
        "entries": int(np.prod(data["shape"])),
        "colour": CATEGORICAL[EDGE_KINDS.index(data["kind"]) % len(CATEGORICAL)],
    }


def neuron_drawing(data: Data) -> GraphDrawing:
    """Every neuron of a small model; edges between the same two neurons are added up.

    Args:
        data: a graph of `graphs.parameter_graph`.

    Raises:
        UserError: more than `MOST_NODES` nodes.
    """
    a = arrays(data)
    count = len(a["node_kind"])
    if count > MOST_NODES:
        raise UserError(f"this graph has {count:,} nodes, at most {MOST_NODES} are drawn one by one; look at it collapsed by layer.")  # fmt: skip
    column = columns_of(a["node_depth"])
    kinds = [NODE_KINDS[kind] for kind in a["node_kind"]]
    y = np.zeros(count)
    for c in np.unique(column):
        own = np.flatnonzero(column == c)
        own = own[np.argsort([kinds[node] != "constant" for node in own], kind="stable")]
        y[own] = ((len(own) - 1) / 2 - np.arange(len(own))) / max(len(own) - 1, 8)
    edges = pd.DataFrame({"source": a["edge_index"][0], "target": a["edge_index"][1], "value": a["edge_value"].astype(np.float64)})  # fmt: skip
    edges["square"] = edges["value"] ** 2
    edges = edges.groupby(["source", "target"], as_index=False).sum()
    edges = edges[edges["source"] != edges["target"]]
    of = len(edges)
    edges = edges.nlargest(MOST_EDGES, "square").reset_index(drop=True)
    size = np.sqrt(edges["square"])
    edges["strength"] = size / max(float(size.quantile(0.99)) if len(size) else 1.0, 1e-300)
    edges["strength"] = edges["strength"].clip(0, 1)
    edges["colour"] = np.where(edges["value"] < 0, TARGET, FOCUS)
    edges["label"], edges["kind"], edges["hover"] = "", "", ""
    nodes = pd.DataFrame({"x": column.astype(np.float64), "y": y, "kind": kinds, "label": ""})
    nodes.loc[nodes["kind"] == "constant", "x"] -= 0.3
    edges["bend"] = np.where(
        nodes["x"].to_numpy()[edges["source"]] == nodes["x"].to_numpy()[edges["target"]], 0.25, 0.0
    )
    nodes["size"] = np.where(nodes["kind"] == "constant", 7, 10 if count <= 120 else 7)
    place = pd.Series(column).groupby([column, a["node_kind"]]).cumcount()
    nodes["hover"] = [f"{kind} {number}" for kind, number in zip(kinds, place, strict=True)]
    return GraphDrawing(nodes, edges, of, written=False)
