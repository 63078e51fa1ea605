"""Eigenvectors of bilinear networks: what each output looks for, from the weights alone.

A bilinear layer g(x) = (W x) ⊙ (V x) read out by P is a quadratic form for each output, u_kᵀ P g(x) = xᵀ Q_k x with
Q_k = ½ Σ_a P_ka (w_a v_aᵀ + v_a w_aᵀ). "Bilinear MLPs enable weight-based mechanistic interpretability" (Pearce,
Dooms, Rigg, Oramas and Sharkey, 2024; row S049).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isqrt, prod

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from pydantic import Field
from torch import Tensor, nn

from analysis.analysis import Options, analysis
from analysis.theme import CATEGORICAL, DIVERGING, figure, styled
from graphs.program import evaluation_mode
from graphs.subjects import Subject
from modelzoo.errors import UserError

ROW = "S049"
QUADRATIC = 1e-6  # relative error up to which a function is the quadratic form read off at the origin
PICTURES = 3  # eigenvectors drawn an output


def interaction_matrices(left: Tensor, right: Tensor, directions: Tensor) -> Tensor:
    """Q_k = ½ Σ_a p_ka (w_a v_aᵀ + v_a w_aᵀ) of one bilinear layer.

    Args:
        left, right: W and V, `[h, d]`.
        directions: p, `[k, h]`: rows of the read-out, or any directions of the layer's output.

    Returns:
        `[k, d, d]`, symmetric.
    """
    product = torch.einsum("ka,ai,aj->kij", directions, left, right)
    return (product + product.transpose(1, 2)) / 2


def quadratic_forms(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """A module's outputs as y = c + G x + xᵀ Q x, from its derivatives at the origin: no data is looked at.

    Args:
        module: one sample in, one vector out; it is left as it is.
        inputs: one tensor `[B, *shape]`, for the shape.

    Returns:
        c `[k]`, G `[k, d]` and Q `[k, d, d]` in double precision, d entries of the flattened input.

    Raises:
        UserError: there are several inputs, or the outputs are no quadratic form.
    """
    if len(inputs) != 1 or not inputs[0].is_floating_point():
        raise UserError(f"quadratic forms need one real input, {type(module).__name__!r} takes {len(inputs)}; choose a bilinear network.")  # fmt: skip
    shape = inputs[0].shape[1:]
    tensors = {name: t.detach().double() if t.is_floating_point() else t for name, t in (*module.named_parameters(), *module.named_buffers())}  # fmt: skip

    def outputs(flat: Tensor) -> Tensor:
        with evaluation_mode(module):
            return torch.func.functional_call(module, tensors, (flat.view(1, *shape),)).flatten()

    origin = torch.zeros(prod(shape), dtype=torch.float64)
    with torch.no_grad():
        constant = outputs(origin)
        linear = torch.func.jacrev(outputs)(origin)
        form = torch.func.hessian(outputs)(origin) / 2
        probe = torch.randn(4, len(origin), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        true = torch.stack([outputs(x) for x in probe])
    said = constant + probe @ linear.T + torch.einsum("ni,kij,nj->nk", probe, form, probe)
    error = float((said - true).norm() / true.norm().clamp_min(1e-300))
    if not error < QUADRATIC:
        raise UserError(
            f"the outputs of {type(module).__name__!r} are no quadratic form of its input (relative error {error:.2g}); "
            f"choose a network of one bilinear layer, or look at a layer with interaction_matrices."
        )
    return constant, linear, (form + form.transpose(1, 2)) / 2


@dataclass(frozen=True)
class QuadraticSpectrum:
    """Eigenvectors of the quadratic form of every output, largest |λ| first.

    Args:
        constant: `[output]`.
        linear: `[output, d]`.
        values: `[output, d]`.
        vectors: `[output, d, d]`, the last dimension counts eigenvectors.
        shape: of one input.
        keep: eigenvectors of every output that go into the table.
    """

    constant: Tensor = field(repr=False)
    linear: Tensor = field(repr=False)
    values: Tensor
    vectors: Tensor = field(repr=False)
    shape: tuple[int, ...]
    keep: int = 10

    @property
    def forms(self) -> Tensor:
        """Q, `[output, d, d]`."""
        return torch.einsum("kia,ka,kja->kij", self.vectors, self.values, self.vectors)

    def outputs(self, inputs: Tensor, keep: int | None = None) -> Tensor:
        """The outputs `[N, output]` when every form keeps its `keep` eigenvectors of largest |λ|; all if None."""
        x = inputs.flatten(1).double()
        projected = torch.einsum("ni,kia->nka", x, self.vectors[..., :keep])
        return self.constant + x @ self.linear.T + (projected.square() * self.values[:, :keep]).sum(-1)

    @property
    def concentration(self) -> Tensor:
        """`[output]` participation ratio of the spectrum, (Σ λ²)² / Σ λ⁴: how many eigenvectors matter."""
        return self.values.square().sum(1).square() / self.values.pow(4).sum(1)

    def shared(self) -> tuple[Tensor, Tensor]:
        """Singular values `[d]` and input directions `[d, d]` (columns) that all outputs use, from the HOSVD of Q."""
        unfolded = self.forms.transpose(0, 1).flatten(1)  # [d, output · d]
        directions, values, _ = torch.linalg.svd(unfolded, full_matrices=False)
        return values, directions

    def adversarial(self, inputs: Tensor, relative_norm: float) -> Tensor:
        """Inputs moved along one eigenvector each, found from the weights alone.

        For an input with first output p and every other output c, the direction is the eigenvector of largest λ of
        Q_c − Q_p with the sign that gains; the c that gains most is taken.

        Args:
            inputs: `[N, *shape]`.
            relative_norm: of the step, relative to the input's norm.
        """
        x = inputs.flatten(1).double()
        forms = self.forms
        first = self.outputs(x).argmax(1)
        gaps = forms[None] - forms[:, None]  # [p, c, d, d]
        direction = torch.linalg.eigh(gaps)[1][..., -1]  # [p, c, d]
        own = direction[first]  # [N, c, d]
        signs = torch.sign(torch.einsum("nci,ncij,nj->nc", own, gaps[first], x))
        steps = signs[..., None] * own * relative_norm * x.norm(dim=1)[:, None, None]
        moved = x[:, None] + steps
        scores = self.outputs(moved.flatten(0, 1)).view(*moved.shape[:2], -1)
        gain = scores.diagonal(dim1=1, dim2=2) - scores.gather(2, first[:, None, None].expand(-1, scores.shape[1], 1))[..., 0]  # fmt: skip
        gain[torch.arange(len(x)), first] = -torch.inf
        return moved[torch.arange(len(x)), gain.argmax(1)].view(inputs.shape)

    @property
    def sentence(self) -> str:
        """How many eigenvectors matter."""
        return f"{len(self.values)} quadratic forms in {self.values.shape[1]} dimensions; {float(self.concentration.mean()):.1f} eigenvectors matter on average"

    def to_frame(self) -> pd.DataFrame:
        """One row an output and eigenvalue."""
        return pd.DataFrame([
            {"output": k, "rank": i, "eigenvalue": float(value)}
            for k, row in enumerate(self.values) for i, value in enumerate(row[: self.keep])
        ])  # fmt: skip

    def plot(self) -> go.Figure:
        """The leading eigenvectors as pictures where inputs are square images, else the spectra."""
        side = isqrt(self.values.shape[1])
        if side * side != self.values.shape[1] or side < 3 or prod(self.shape[:-2]) != 1:
            chart = figure()
            for k, row in enumerate(self.values):
                chart.add_scatter(y=row.abs().numpy(), mode="lines", name=str(k), line={"color": CATEGORICAL[k % len(CATEGORICAL)]})  # fmt: skip
            return chart.update_layout(xaxis_title="eigenvector", yaxis_title="|eigenvalue|")
        names = [f"{k}: {float(value):+.2g}" for i in range(PICTURES) for k, value in enumerate(self.values[:, i])]
        grid = make_subplots(rows=PICTURES, cols=len(self.values), subplot_titles=names, horizontal_spacing=0.01)
        for k in range(len(self.values)):
            for i in range(PICTURES):
                picture = self.vectors[k, :, i].view(side, side).numpy()
                size = float(np.abs(picture).max())
                grid.add_heatmap(z=picture[::-1], row=i + 1, col=k + 1, colorscale=DIVERGING, zmin=-size, zmax=size, showscale=False)  # fmt: skip
        grid.update_xaxes(visible=False).update_yaxes(visible=False)
        return styled(grid, 120 * PICTURES)


def quadratic_spectrum(module: nn.Module, inputs: Sequence[Tensor]) -> QuadraticSpectrum:
    """Eigendecomposition of every output of a quadratic module; see `quadratic_forms` for arguments and refusals."""
    constant, linear, forms = quadratic_forms(module, inputs)
    values, vectors = torch.linalg.eigh(forms)
    order = values.abs().argsort(1, descending=True)
    return QuadraticSpectrum(
        constant, linear, values.gather(1, order), vectors.gather(2, order[:, None].expand_as(vectors)), tuple(inputs[0].shape[1:])
    )  # fmt: skip


class BilinearEigenvectorsOptions(Options):
    """`keep` eigenvectors of every output, those of largest absolute eigenvalue, go into the table."""

    keep: int = Field(10, ge=1)


@analysis("bilinear_eigenvectors", of="module", options=BilinearEigenvectorsOptions, example="bilinear_mlp")
def bilinear_eigenvectors(subject: Subject, options: BilinearEigenvectorsOptions) -> QuadraticSpectrum:
    """Eigenvectors of the quadratic forms that a bilinear network computes, from its weights alone."""
    return replace(quadratic_spectrum(subject.module, subject.inputs), keep=options.keep)
