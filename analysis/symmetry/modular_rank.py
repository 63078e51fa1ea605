"""A certificate for the functional dimension of ReLU networks with whole weights: the rank modulo a prime.

At whole weights and inputs the Jacobian of a ReLU network is a matrix of whole numbers, known exactly with the signs of
all pre-activations. Its rank modulo a prime is at most its rank, and that at most the functional dimension: unlike a
rank by singular values the number needs no tolerance, so parameters − rank bounds the dimension of all symmetries at
these weights from above. "Functional dimension of feedforward ReLU neural networks" (Grigsby, Lindsey, Meyerhoff and Wu,
2022).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from pydantic import Field

from analysis.analysis import Options, analysis
from analysis.theme import CATEGORICAL, REFERENCE, figure
from graphs.program import Op, Reference, trace
from graphs.subjects import Subject
from modelzoo.errors import UserError

PRIME = 2**31 - 1  # products of two residues fit 64 bits
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Certificate:
    """A certified lower bound of a functional dimension.

    Args:
        parameters: number of scalars.
        units: hidden units; every one carries a scale, so no rank exceeds `parameters − units`.
        points: inputs whose Jacobians were reduced, growing.
        ranks: modulo the prime, of the Jacobian at that many points.
        prime: the modulus.
    """

    parameters: int
    units: int
    points: tuple[int, ...]
    ranks: tuple[int, ...]
    prime: int

    @property
    def rank(self) -> int:
        """At all points."""
        return self.ranks[-1]

    @property
    def sentence(self) -> str:
        """The bound in one sentence."""
        most = self.parameters - self.units
        what = "which no ReLU network exceeds" if self.rank == most else f"of {most} that a ReLU network can have"
        first = self.points[self.ranks.index(self.rank)]
        return f"the functional dimension is at least {self.rank}, {what} ({self.parameters} parameters, {self.units} hidden units): rank modulo {self.prime}, exact, reached at {first} of {self.points[-1]} points."

    def to_frame(self) -> pd.DataFrame:
        """One row a number of points."""
        most = self.parameters - self.units
        return pd.DataFrame(
            {"points": self.points, "rank": self.ranks, "missing": [most - rank for rank in self.ranks]}
        )

    def plot(self) -> go.Figure:
        """The rank against the number of points, below the most that a ReLU network can have."""
        chart = figure()
        chart.add_scatter(x=self.points, y=self.ranks, mode="lines+markers", marker_color=CATEGORICAL[0], name="rank")
        most = self.parameters - self.units
        chart.add_hline(y=most, line={"color": REFERENCE, "dash": "dash"}, annotation_text=f"parameters − hidden units = {most}")  # fmt: skip
        chart.update_layout(
            xaxis={"title": "inputs", "type": "log", "tickvals": self.points},
            yaxis={"title": "certified rank", "range": [0, 1.1 * most]},
        )
        return chart


def echelon(matrix: Whole, prime: int = PRIME) -> Whole:
    """Rows in echelon form modulo a prime below 2³¹ that span those of a matrix; their number is its rank.

    Args:
        matrix: `[rows, columns]`.
        prime: the modulus.
    """
    rest, rank = matrix % prime, 0
    for column in range(rest.shape[1]):
        if rank == len(rest):
            break
        filled = rank + np.flatnonzero(rest[rank:, column])
        if not len(filled):
            continue
        pivot = rest[filled[0], column:] * pow(int(rest[filled[0], column]), -1, prime) % prime
        rest[filled[0]] = rest[rank]
        rest[rank, column:], rest[rank, :column] = pivot, 0
        others = filled[1:]
        factors = prime - rest[others, column : column + 1]
        rest[others, column:] = (rest[others, column:] + factors * pivot) % prime
        rank += 1
    return rest[:rank]


def rank_modulo(matrix: Whole, prime: int = PRIME) -> int:
    """Rank of a matrix `[rows, columns]` of whole numbers modulo a prime, by elimination."""
    return len(echelon(matrix, prime))


def whole_jacobian(weights: Sequence[Whole], biases: Sequence[Whole], points: Whole, prime: int = PRIME) -> Whole:
    """∂f_o(x_n)/∂θ modulo a prime of f = W_L relu(… relu(W_1 x + b_1)) + b_L, `[N · O, P]`, weights before biases by layer.

    Args:
        weights: W_l `[out, in]`, whole.
        biases: b_l `[out]`, whole.
        points: x `[N, in]`, whole.
        prime: the modulus.

    Raises:
        UserError: numbers grow past 64 bits, or a pre-activation is exactly 0 (there the network has no derivative).
    """
    bound = int(np.abs(points).max(initial=1))
    entered, patterns, h = [], [], points
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        bound = bound * int(np.abs(weight).sum(1).max(initial=1)) + int(np.abs(bias).max(initial=0))
        if bound >= 2**62:
            raise UserError("whole weights and inputs this large need more than 64 bits; take smaller ones.")
        entered.append(h)
        h = h @ weight.T + bias
        if number < len(weights) - 1:
            if (h == 0).any():
                raise UserError("a pre-activation is exactly 0 at one of the points; take other points.")
            patterns.append(h > 0)
            h = np.maximum(h, 0)
    outputs = len(biases[-1])
    slope = np.broadcast_to(np.eye(outputs, dtype=np.int64), (len(points), outputs, outputs))  # [N, O, out]
    blocks: list[Whole] = []
    for layer in reversed(range(len(weights))):
        own = slope[..., None] * (entered[layer] % prime)[:, None, None] % prime
        blocks = [own.reshape(len(points) * outputs, -1), slope.reshape(len(points) * outputs, -1), *blocks]
        if layer:
            slope = _product(slope, weights[layer] % prime, prime) * patterns[layer - 1][:, None]
    return np.concatenate(blocks, 1)


def _product(left: Whole, right: Whole, prime: int) -> Whole:
    """A product of matrices of residues, one term of the sum at a time so that nothing leaves 64 bits."""
    total = np.zeros((*left.shape[:-1], right.shape[1]), dtype=np.int64)
    for k in range(right.shape[0]):
        total = (total + left[..., k : k + 1] * right[k] % prime) % prime
    return total


def certify(
    weights: Sequence[Whole], biases: Sequence[Whole], points: int = 0, largest: int = 1000, seed: int = 0
) -> Certificate:
    """Certify a lower bound of the functional dimension of a ReLU network at whole weights.

    Args:
        weights: W_l `[out, in]`.
        biases: b_l `[out]`.
        points: random inputs (they spread over four scales up to `largest`); 0: they are doubled until the rank stands
            still. Inputs at which a pre-activation is exactly 0 are left out.
        largest: of the inputs' entries.
        seed: of the inputs.
    """
    count = sum(w.size for w in weights) + sum(b.size for b in biases)
    units = sum(b.size for b in biases[:-1])
    reduced = np.zeros((0, count), dtype=np.int64)
    taken, counts, ranks = 0, [], []
    for x in _inputs(weights, biases, points or 64 * count, -(-2 * count // len(biases[-1])), largest, seed):
        reduced = echelon(np.concatenate([reduced, whole_jacobian(weights, biases, x)]))
        taken += len(x)
        counts.append(taken)
        ranks.append(len(reduced))
        if len(reduced) == count - units or (not points and len(ranks) > 1 and ranks[-1] == ranks[-2]):
            break
    return Certificate(count, units, tuple(counts), tuple(ranks), PRIME)


def _inputs(
    weights: Sequence[Whole], biases: Sequence[Whole], points: int, first: int, largest: int, seed: int
) -> Iterator[Whole]:
    """Blocks of inputs, each as large as all before, with no pre-activation exactly 0."""
    generator = np.random.default_rng(seed)
    scales = np.array([largest, max(1, largest // 10), max(1, largest // 100), max(1, largest // 300)])
    drawn = 0
    while drawn < points:
        size = min(max(first, drawn), points - drawn)
        scale = scales[np.arange(drawn, drawn + size) % len(scales)][:, None]
        h = x = generator.integers(-scale, scale + 1, (size, weights[0].shape[1]))
        keep = np.ones(size, dtype=bool)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            h = h @ weight.T + bias
            keep &= (h != 0).all(1)
            h = np.maximum(h, 0)
        drawn += size
        yield x[keep]


def relu_layers(found: Subject) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Weights and biases of a fully connected ReLU network, read from its program.

    Args:
        found: the module with example inputs.

    Raises:
        UserError: the module does anything else.
    """
    program = trace(found.module, found.inputs)
    names = {value: name for name, value in program.tensors.items()}
    tensors = {**dict(found.module.named_parameters()), **dict(found.module.named_buffers())}
    turned: dict[int, str] = {}  # values that are a transposed tensor
    weights: list[NDArray[np.float64]] = []
    biases: list[NDArray[np.float64]] = []
    (current, *more), rectified = program.inputs, True

    def refuse(op: Op | None) -> UserError:
        what = f"{op.name} in {op.module or 'the root module'}" if op else "another form"
        return UserError(f"modular_rank is for fully connected ReLU networks with biases; {found.name} has {what}.")

    for op in program.ops:
        ids = [argument.value for argument in op.arguments if isinstance(argument, Reference)]
        if op.name == "aten.permute" and ids[0] in names:
            turned[op.outputs[0] or 0] = names[ids[0]]
            continue
        if op.name == "aten.view" and not weights and ids == [current]:
            pass
        elif op.name == "aten.addmm" and rectified and ids[1] == current and ids[0] in names and ids[2] in turned:
            weights.append(tensors[turned[ids[2]]].detach().double().numpy())
            biases.append(tensors[names[ids[0]]].detach().double().numpy())
            rectified = False
        elif op.name == "aten.relu" and not rectified and ids == [current]:
            rectified = True
        else:
            raise refuse(op)
        current = op.outputs[0] or 0
    if more or rectified or (current,) != tuple(program.outputs):
        raise refuse(None)
    return weights, biases


def rounded(
    weights: Sequence[NDArray[np.float64]], biases: Sequence[NDArray[np.float64]], scale: int
) -> tuple[list[Whole], list[Whole]]:
    """Whole weights ⌊s W_l⌉ and biases ⌊s^(l+1) b_l⌉ of nearly the same network: its function at x is f(x / s) s^(L+1).

    Args:
        weights: W_l `[out, in]`.
        biases: b_l `[out]`.
        scale: s, of weights and of inputs.

    Raises:
        UserError: a number needs more than 64 bits.
    """
    sizes = [float(scale) ** (layer + 2) * np.abs(bias).max(initial=0) for layer, bias in enumerate(biases)]
    if max(sizes) >= 2**62:
        raise UserError(f"at scale {scale} whole weights need more than 64 bits; take a smaller scale.")
    whole = [np.rint(scale * weight).astype(np.int64) for weight in weights]
    shifts = [np.rint(float(scale) ** (layer + 2) * bias).astype(np.int64) for layer, bias in enumerate(biases)]
    return whole, shifts


class ModularRankOptions(Options):
    """`scale`: weights are rounded to multiples of 1/scale. `points`: 0 doubles them until the rank stands still."""

    scale: int = Field(100, ge=1)
    points: int = Field(0, ge=0)
    largest: int = Field(3000, ge=1)
    max_parameters: int = Field(1500, ge=1)
    seed: int = 0


@analysis("modular_rank", of="module", options=ModularRankOptions, tiny={"points": 12})
def modular_rank(subject: Subject, options: ModularRankOptions) -> Certificate:
    """A certified lower bound of a ReLU network's functional dimension: exact rank modulo a prime at rounded weights."""
    weights, biases = rounded(*relu_layers(subject), options.scale)
    count = sum(w.size for w in weights) + sum(b.size for b in biases)
    if not options.points and count > options.max_parameters:
        raise UserError(f"{subject.name} has {count:,} parameters; elimination costs their cube and is done up to {options.max_parameters:,}; raise max_parameters, or name a number of points.")  # fmt: skip
    return certify(weights, biases, options.points, options.largest, options.seed)
