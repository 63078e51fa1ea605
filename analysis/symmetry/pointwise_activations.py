"""Which linear maps pass through a pointwise activation.

"A Characterization Theorem for Equivariant Networks with Point-wise Activations" (Pacini, Dong, Lepri and Santin, 2024;
row S085): σ(M x) = M' σ(x) for all x and some matrix M' only if, in the given basis, M is monomial (one entry a row and
column) with entries that σ admits. A generic σ admits 1 (permutations), a positively homogeneous one every positive
number, an odd or even one −1, a linear one every matrix at all. So no rotation by 30° passes a nonlinearity.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor
from torch.nn import functional

from analysis.analysis import Options, analysis
from analysis.theme import DIVERGING, figure
from modelzoo.errors import UnknownNameError

ROW = "S085"  # of the paper catalogue
Activation = Callable[[Tensor], Tensor]

SAMPLES = 2000
EXACT = 1e-9  # relative residual of an identity in double precision


@dataclass(frozen=True)
class Admissible:
    """What an activation lets through.

    Args:
        linear: every matrix.
        scales: positive entries other than 1.
        signs: negative entries.
    """

    linear: bool
    scales: bool
    signs: bool

    def admits(self, matrix: Tensor) -> bool:
        """Whether a matrix passes, by the theorem."""
        if self.linear:
            return True
        entries = matrix[matrix != 0]
        monomial = bool(((matrix != 0).sum(0) == 1).all() and ((matrix != 0).sum(1) == 1).all())
        return (
            monomial and (self.scales or bool((entries.abs() == 1).all())) and (self.signs or bool((entries > 0).all()))
        )

    def __str__(self) -> str:
        if self.linear:
            return "any matrix"
        return {
            (False, False): "permutations", (True, False): "non-negative monomial matrices",
            (False, True): "signed permutations", (True, True): "monomial matrices",
        }[self.scales, self.signs]  # fmt: skip


def admissible(activation: Activation) -> Admissible:
    """The class of an activation, measured on numbers: does σ(c x) stay proportional to σ(x)?

    Args:
        activation: a pointwise function.
    """
    x = torch.linspace(-3, 3, 301, dtype=torch.float64)
    x = x[x != 0]

    def proportional(scale: float) -> bool:
        return float(_residual(activation(x)[:, None], activation(scale * x)[:, None])) < EXACT

    additive = _residual(activation(x), activation(x + 0.7) - activation(torch.full_like(x, 0.7))) < EXACT
    return Admissible(bool(additive) and proportional(2), proportional(2) and proportional(0.3), proportional(-1))


def equivariance_residual(activation: Activation, matrix: Tensor, seed: int = 0) -> float:
    """How far σ(M x) is from the best M' σ(x): min_{M'} ‖σ(M X) − M' σ(X)‖ / ‖σ(M X)‖ over random inputs X.

    Args:
        activation: a pointwise function.
        matrix: M, `[d, d]`.
        seed: of the inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(SAMPLES, len(matrix), generator=generator, dtype=torch.float64)
    return _residual(activation(x), activation(x @ matrix.T.double()))


def _residual(source: Tensor, target: Tensor) -> float:
    """Relative error of the best linear map from the rows of one matrix to those of another."""
    if source.ndim == 1:
        source, target = source[:, None], target[:, None]
    fitted = source @ torch.linalg.lstsq(source, target).solution
    return float((fitted - target).norm() / target.norm().clamp_min(1e-300))


@dataclass(frozen=True)
class EquivarianceTable:
    """Verdicts of the theorem beside measured residuals.

    Args:
        activations: names, one a row.
        matrices: names, one a column.
        classes: what each activation admits.
        admitted: `[activation, matrix]` what the theorem says.
        residuals: `[activation, matrix]` what was measured.
    """

    activations: tuple[str, ...]
    matrices: tuple[str, ...]
    classes: tuple[Admissible, ...]
    admitted: np.ndarray
    residuals: np.ndarray

    @property
    def agree(self) -> bool:
        """Whether a residual vanishes exactly where the theorem says so."""
        return bool(((self.residuals < EXACT) == self.admitted).all())

    def to_frame(self) -> pd.DataFrame:
        """One row a pair."""
        return pd.DataFrame([
            {"activation": a, "admits": str(self.classes[i]), "matrix": m, "admitted": bool(self.admitted[i, j]),
             "residual": float(self.residuals[i, j])}
            for i, a in enumerate(self.activations) for j, m in enumerate(self.matrices)
        ])  # fmt: skip

    def plot(self) -> go.Figure:
        """Residuals on a logarithmic scale; a circle marks what the theorem admits."""
        chart = figure(height=60 + 28 * len(self.activations))
        logs = np.log10(np.maximum(self.residuals, 1e-17))
        chart.add_heatmap(
            z=logs, x=self.matrices, y=self.activations, colorscale=DIVERGING, zmin=-17, zmax=1,
            colorbar={"title": "log10 residual", "thickness": 10, "outlinewidth": 0},
        )  # fmt: skip
        rows, columns = np.nonzero(self.admitted)
        chart.add_scatter(
            x=[self.matrices[j] for j in columns], y=[self.activations[i] for i in rows], mode="markers",
            marker={"symbol": "circle-open", "size": 11, "color": "white", "line": {"width": 2}}, hoverinfo="skip",
        )  # fmt: skip
        return chart.update_layout(yaxis_autorange="reversed", showlegend=False)


def equivariance_table(activations: Mapping[str, Activation], matrices: Mapping[str, Tensor]) -> EquivarianceTable:
    """Every activation against every matrix.

    Args:
        activations: pointwise functions by name.
        matrices: `[d, d]` each, by name.
    """
    classes = [admissible(activation) for activation in activations.values()]
    return EquivarianceTable(
        tuple(activations), tuple(matrices), tuple(classes),
        np.array([[found.admits(matrix) for matrix in matrices.values()] for found in classes]),
        np.array([[equivariance_residual(f, matrix) for matrix in matrices.values()] for f in activations.values()]),
    )  # fmt: skip


def standard_matrices() -> dict[str, Tensor]:
    """Representations worth trying, in two dimensions."""
    angle = torch.tensor(np.pi / 6, dtype=torch.float64)
    c, s = torch.cos(angle), torch.sin(angle)

    def matrix(rows: Sequence[Sequence[float]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64)

    return {
        "trivial": matrix([[1, 0], [0, 1]]),
        "permutation": matrix([[0, 1], [1, 0]]),
        "diag(2, 3)": matrix([[2, 0], [0, 3]]),
        "signed permutation": matrix([[0, -1], [1, 0]]),
        "negative monomial": matrix([[0, -2], [3, 0]]),
        "rotation by 30°": torch.stack([torch.stack([c, -s]), torch.stack([s, c])]),
        "shear": matrix([[1, 1], [0, 1]]),
    }


STANDARD: dict[str, Activation] = {
    "identity": lambda x: x, "relu": functional.relu, "leaky relu": lambda x: functional.leaky_relu(x, 0.2),
    "abs": torch.abs, "square": torch.square, "cube": lambda x: x**3, "tanh": torch.tanh, "sin": torch.sin,
    "cos": torch.cos, "sigmoid": torch.sigmoid, "softplus": functional.softplus, "gelu": functional.gelu,
    "silu": functional.silu, "elu": functional.elu,
}  # fmt: skip


class PointwiseActivationsOptions(Options):
    """Which of the standard activations to look at; none means all."""

    activations: tuple[str, ...] = ()


@analysis(
    "pointwise_activations", of="nothing", options=PointwiseActivationsOptions, tiny={"activations": ("relu", "tanh")}
)
def pointwise_activations(options: PointwiseActivationsOptions) -> EquivarianceTable:
    """Which linear maps pass a pointwise activation: the theorem's verdict beside the measured residual."""
    for name in options.activations:
        if name not in STANDARD:
            raise UnknownNameError("activation", name, STANDARD)
    chosen = {name: STANDARD[name] for name in options.activations or STANDARD}
    return equivariance_table(chosen, standard_matrices())
