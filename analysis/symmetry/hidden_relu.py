"""Hidden symmetries of ReLU networks: how often permutations and scalings are all there is, and why not when they are not.

"Hidden symmetries of ReLU networks" (Grigsby, Lindsey and Rolnick, 2023; row S190). A ReLU network with P parameters
and n hidden units has functional dimension at most P − n, because every hidden unit carries one positive scale. At the
maximum, permutations and scalings are locally the only symmetries; below it there are hidden ones.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from analysis.analysis import Options, analysis
from analysis.theme import CATEGORICAL, figure
from graphs.completeness import RANK_TOLERANCE
from graphs.program import Program, evaluation_mode, trace
from graphs.verify import interpret, random_inputs

ROW = "S190"  # of the paper catalogue
CHUNK_ENTRIES = 2**23  # of the stacked Jacobians held at once


@dataclass(frozen=True)
class FunctionalDimensions:
    """Functional dimensions of random ReLU networks of several shapes.

    Args:
        shapes: widths from input to output, one a row.
        ranks: `[shape, network]` functional dimensions (lower bounds).
        maximum: `[shape]`, P minus the number of hidden units.
        points_per_parameter: inputs per parameter.
    """

    shapes: tuple[tuple[int, ...], ...]
    ranks: NDArray[np.int64]
    maximum: NDArray[np.int64]
    points_per_parameter: int

    @property
    def fractions(self) -> NDArray[np.float64]:
        """Share of networks at the maximum, `[shape]`."""
        return (self.ranks == self.maximum[:, None]).mean(1)

    def to_frame(self) -> pd.DataFrame:
        """One row a shape."""
        share = self.fractions
        return pd.DataFrame({
            "shape": ["-".join(map(str, shape)) for shape in self.shapes],
            "maximum": self.maximum,
            "fraction at maximum": share,
            "standard error": np.sqrt(share * (1 - share) / self.ranks.shape[1]),
            "mean deficiency": (self.maximum[:, None] - self.ranks).mean(1),
        })  # fmt: skip

    def plot(self) -> go.Figure:
        """Share of networks without hidden symmetries, by shape."""
        frame = self.to_frame()
        chart = figure()
        chart.add_bar(
            x=frame["shape"], y=frame["fraction at maximum"], marker_color=CATEGORICAL[0],
            error_y={"array": frame["standard error"]},
        )  # fmt: skip
        chart.update_layout(
            xaxis_title="widths", yaxis_title="networks without hidden symmetries", yaxis_range=[0, 1.05]
        )
        return chart


def relu_network(widths: Sequence[int]) -> nn.Sequential:
    """A fully connected ReLU network, linear at the end."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def initialise(module: nn.Sequential, seed: int) -> dict[str, Tensor]:
    """He weights, N(0, 2/fan_in), and biases N(0, 0.01)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, parameter in module.named_parameters():
        scale = (2 / parameter.shape[1]) ** 0.5 if parameter.ndim == 2 else 0.1
        drawn[name] = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return drawn


def functional_dimensions(
    shapes: Sequence[Sequence[int]], networks: int = 100, points_per_parameter: int = 30, seed: int = 10_000
) -> FunctionalDimensions:
    """Functional dimensions of random fully connected ReLU networks with one output.

    Args:
        shapes: widths, each ending in 1.
        networks: random networks of every shape, seeds `seed`, `seed + 1`, …
        points_per_parameter: standard normal inputs per parameter: few points underestimate the rank.
        seed: of the first network.

    Returns:
        The rank of every network's Jacobian over its inputs.
    """
    ranks = [[_rank(shape, seed + k, points_per_parameter) for k in range(networks)] for shape in shapes]
    maximum = [sum((a + 1) * b for a, b in itertools.pairwise(s)) - sum(s[1:-1]) for s in shapes]
    return FunctionalDimensions(
        tuple(map(tuple, shapes)), np.array(ranks), np.array(maximum), points_per_parameter
    )  # fmt: skip


def _rank(widths: Sequence[int], seed: int, points_per_parameter: int) -> int:
    """Rank of one network's Jacobian, from an orthogonal factor that grows point block by point block."""
    module = relu_network(widths)
    parameters = initialise(module, seed)
    count = sum(p.numel() for p in parameters.values())
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(points_per_parameter * count, widths[0], generator=generator, dtype=torch.float64)

    def output(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, values, (x,)).squeeze(-1)

    rows = vmap(grad(output), (None, 0))
    triangle = torch.zeros(0, count, dtype=torch.float64)
    for block in points.split(max(1, CHUNK_ENTRIES // count)):
        jacobian = torch.cat([g.flatten(1) for g in rows(parameters, block).values()], 1)
        triangle = torch.linalg.qr(torch.cat([triangle, jacobian]), mode="r")[1]
    values = torch.linalg.svdvals(triangle)
    return int((values > RANK_TOLERANCE * values[0]).sum())


@dataclass(frozen=True)
class HiddenMechanisms:
    """Units of a ReLU network that give it hidden symmetries, as far as random inputs show.

    Args:
        units: one row a ReLU unit: `layer` (number of the ReLU), `unit`, `active` (share of inputs on which it is on).
        apart: pairs of units of consecutive ReLUs that are never on together, though each is on somewhere.
        inputs: number of inputs looked at.
    """

    units: pd.DataFrame
    apart: pd.DataFrame
    inputs: int

    @property
    def inactive(self) -> pd.DataFrame:
        """Units that are never on: nothing that feeds them or leaves them matters."""
        return self.units[self.units["active"] == 0]

    @property
    def linear(self) -> pd.DataFrame:
        """Units that are always on: linear, so their layer carries more than a scale."""
        return self.units[self.units["active"] == 1]

    def to_frame(self) -> pd.DataFrame:
        """One row a finding."""
        named = [
            self.inactive.assign(mechanism="never active"),
            self.linear.assign(mechanism="always active"),
            self.apart.assign(mechanism="never active together"),
        ]
        return pd.concat(named, ignore_index=True)

    def plot(self) -> go.Figure:
        """How often every unit is on, by layer."""
        chart = figure()
        for layer, units in self.units.groupby("layer"):
            chart.add_scatter(x=units["unit"], y=units["active"], mode="markers", name=f"ReLU {layer}")
        chart.update_layout(
            xaxis_title="unit", yaxis_title="share of inputs on which it is on", yaxis_range=[-0.05, 1.05]
        )
        return chart


def hidden_mechanisms(
    module: nn.Module, example_inputs: Sequence[Any], batches: int = 200, seed: int = 0
) -> HiddenMechanisms:
    """Look for the mechanisms behind hidden symmetries at the ReLUs of any module.

    Args:
        module: any module that can be traced.
        example_inputs: inputs of the same shapes are drawn.
        batches: how many are drawn.
        seed: of the inputs.

    Returns:
        Units that are never on, always on, or never on together with a unit of the ReLU before.
    """
    patterns = _patterns(module, trace(module, example_inputs), example_inputs, batches, seed)
    units, apart = [], []
    for layer, on in enumerate(patterns):
        units += [
            {"layer": layer, "unit": unit, "active": share} for unit, share in enumerate(on.double().mean(0).tolist())
        ]
        if layer and len(patterns[layer - 1]) == len(on):
            before = patterns[layer - 1]
            together = before.double().T @ on.double()  # [unit before, unit]
            never = (together == 0) & before.any(0)[:, None] & on.any(0)[None]
            apart += [{"layer": layer, "unit": int(b), "unit before": int(a)} for a, b in never.nonzero().tolist()]
    return HiddenMechanisms(
        pd.DataFrame(units, columns=["layer", "unit", "active"]),
        pd.DataFrame(apart, columns=["layer", "unit", "unit before"]),
        len(patterns[0]) if patterns else 0,
    )


def _patterns(
    module: nn.Module, program: Program, example_inputs: Sequence[Any], batches: int, seed: int
) -> list[Tensor]:
    """For every ReLU which of its units are on, `[inputs, units]` (all but the first dimension are units)."""
    generator = torch.Generator().manual_seed(seed)
    relus = [op.output for op in program.ops if op.name == "aten.relu"]
    with torch.no_grad(), evaluation_mode(module):
        own = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
        tensors = {name: own[name].double() for name in program.tensors}
        found: list[list[Tensor]] = [[] for _ in relus]
        for number in range(batches):
            values = interpret(program, tensors, random_inputs(example_inputs, generator, first=number == 0))
            for column, value in zip(found, relus, strict=True):
                column.append((values[value] > 0).flatten(1))
    return [torch.cat(column) for column in found]


class HiddenReluOptions(Options):
    """Shapes of the networks, how many of each, and inputs per parameter."""

    shapes: tuple[tuple[int, ...], ...] = ((2, 4, 1), (2, 4, 4, 1), (2, 4, 4, 4, 1))
    networks: int = Field(100, ge=1)
    points_per_parameter: int = Field(30, ge=1)
    seed: int = 10_000


@analysis("hidden_relu", of="nothing", options=HiddenReluOptions, tiny={"shapes": ((2, 4, 1),), "networks": 4})
def hidden_relu(options: HiddenReluOptions) -> FunctionalDimensions:
    """How many random ReLU networks have no hidden symmetries, by shape."""
    return functional_dimensions(options.shapes, options.networks, options.points_per_parameter, options.seed)
