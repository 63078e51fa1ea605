"""The kernel of sign descent, and how well few random directions keep the tangent kernel.

"A Kernel-Based View of Language Model Fine-Tuning" (Malladi, Wettig, Yu, Chen and Arora, 2023; row S139). Adam without
averages steps along the sign of the gradient, and the output then moves by the asymmetric kernel

    K_sign(x, x') = ⟨∇f(x), sign ∇f(x')⟩;

the tangent kernel is invariant under every orthogonal map of the parameters, K_sign under signed permutations alone. In r
random directions (as low-rank adaptation moves in) the tangent kernel survives up to an error of the order r^(−1/2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from pydantic import Field
from torch import Tensor, nn

from analysis.analysis import Options, analysis
from analysis.ntk.remainder import jacobians
from analysis.theme import CATEGORICAL, DIVERGING, styled
from graphs.program import evaluation_mode
from graphs.subjects import Subject
from modelzoo.errors import UserError

ROW = "S139"  # of the paper catalogue
MOST_ENTRIES = 2**27  # of Jacobians held at once


def gradients(module: nn.Module, inputs: Sequence[Tensor], output: int = 0) -> Tensor:
    """∇f_o(x_n) with respect to all parameters, `[N, P]`.

    Args:
        module: any module.
        inputs: of N samples.
        output: o.

    Raises:
        UserError: the gradients of all samples are too large to hold.
    """
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    size = sum(p.numel() for p in module.parameters())
    if size * len(inputs[0]) > MOST_ENTRIES:
        raise UserError(f"gradients of {len(inputs[0])} samples with {size:,} parameters are too large to hold; take fewer samples.")  # fmt: skip
    with evaluation_mode(module), torch.no_grad():
        first = module(*(x[:1] for x in inputs))
        unit = torch.zeros(1, first[0].numel(), dtype=first.dtype)
        unit[0, output] = 1
    with evaluation_mode(module):
        return jacobians(module, inputs, names, unit, True)[0][0]


def sign_kernel_matrix(left: Tensor, right: Tensor | None = None) -> Tensor:
    """⟨g_n, sign g'_m⟩ of gradients `[N, P]` and `[M, P]` (None: the same), `[N, M]`."""
    return left @ (left if right is None else right).sign().T


def projection_errors(rows: Tensor, ranks: Sequence[int], repeats: int = 8, seed: int = 0) -> Tensor:
    """‖G R Rᵀ Gᵀ / r − G Gᵀ‖ / ‖G Gᵀ‖ for Gaussian R `[P, r]`, the mean over draws, `[rank]`.

    Args:
        rows: gradients G, `[N, P]`.
        ranks: r.
        repeats: draws of R.
        seed: of them.
    """
    draw = torch.Generator().manual_seed(seed)
    kernel = rows @ rows.T
    found = []
    for rank in ranks:
        errors = []
        for _ in range(repeats):
            small = rows @ torch.randn(rows.shape[1], rank, generator=draw, dtype=rows.dtype) / rank**0.5
            errors.append((small @ small.T - kernel).norm() / kernel.norm())
        found.append(torch.stack(errors).mean())
    return torch.stack(found)


@dataclass(frozen=True)
class SignKernel:
    """Both kernels of one output.

    Args:
        subject: the model's name.
        tangent: ⟨∇f, ∇f⟩, `[N, N]`.
        sign: ⟨∇f, sign ∇f⟩, `[N, N]`.
        projections: one row a rank: `rank`, `error`.
    """

    subject: str
    tangent: np.ndarray
    sign: np.ndarray
    projections: pd.DataFrame

    @property
    def asymmetry(self) -> float:
        """‖K − Kᵀ‖ / ‖K‖ of the sign kernel."""
        return float(np.linalg.norm(self.sign - self.sign.T) / np.linalg.norm(self.sign))

    @property
    def exponent(self) -> float:
        """Slope of the logarithm of the projection's error against that of the rank."""
        return float(np.polyfit(np.log(self.projections["rank"]), np.log(self.projections["error"]), 1)[0])

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        return f"the sign kernel is asymmetric by {self.asymmetry:.1%} of its norm; in r random directions the tangent kernel has an error ∝ r^{self.exponent:.2f}."

    def to_frame(self) -> pd.DataFrame:
        """One row a rank."""
        return self.projections.assign(asymmetry=self.asymmetry)

    def plot(self) -> go.Figure:
        """The sign kernel and the errors of projections."""
        drawing = make_subplots(1, 2, subplot_titles=("sign kernel", "error in r random directions"), horizontal_spacing=0.16)  # fmt: skip
        limit = float(np.abs(self.sign).max())
        drawing.add_trace(
            go.Heatmap(z=self.sign, colorscale=DIVERGING, zmin=-limit, zmax=limit, colorbar={"thickness": 10, "x": 0.43, "outlinewidth": 0}),
            row=1, col=1,
        )  # fmt: skip
        drawing.add_trace(
            go.Scatter(x=self.projections["rank"], y=self.projections["error"], mode="lines+markers", line_color=CATEGORICAL[1]),
            row=1, col=2,
        )  # fmt: skip
        drawing.update_yaxes(autorange="reversed", row=1, col=1)
        drawing.update_xaxes(type="log", dtick=1, title_text="r", row=1, col=2)
        drawing.update_yaxes(type="log", dtick=1, row=1, col=2)
        return styled(drawing, height=340)


class SignKernelOptions(Options):
    """Samples, which output, and ranks of the random projections."""

    samples: int = Field(32, ge=2)
    output: int = Field(0, ge=0)
    ranks: tuple[int, ...] = (4, 16, 64, 256, 1024)
    seed: int = 0


@analysis("sign_kernel", of="module", options=SignKernelOptions, tiny={"samples": 6, "ranks": (4, 16)})
def sign_kernel(subject: Subject, options: SignKernelOptions) -> SignKernel:
    """The asymmetric kernel of sign descent of a model, and its tangent kernel in few random directions."""
    inputs = subject.real(options.samples) if subject.real else subject.inputs
    if len({len(x) for x in inputs}) > 1:
        raise UserError(f"{subject.name!r} takes one coupled sample such as a graph; the sign kernel needs separate samples.")  # fmt: skip
    rows = gradients(subject.module, inputs, options.output).double()
    errors = projection_errors(rows, options.ranks, seed=options.seed)
    projections = pd.DataFrame({"rank": list(options.ranks), "error": errors.tolist()})
    return SignKernel(subject.name, (rows @ rows.T).numpy(), sign_kernel_matrix(rows).numpy(), projections)
