"""Singular values of a model's matrices beside those of its population."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from analysis.theme import FOCUS, styled
from analysis.weights import BAND, Array, add_band, chosen_tensors, sample_rows, scalars_of
from modelzoo.errors import UserError
from modelzoo.store import Population, TensorInfo

WORK = 2e9  # multiplications that the population's decompositions may take together


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one tensor, descending: `model [rank]`, `band [quantile, rank]`, and two summaries of them.

    `stable_rank` is ‖W‖_F² / ‖W‖₂², `share_below` the share of the population whose stable rank is smaller.
    """

    tensor: str
    model: Array
    band: Array
    stable_rank: float
    share_below: float


@dataclass(frozen=True)
class SingularSpectra:
    """Spectra of a model's matrices over those of a sample of its population."""

    model: str
    sample: int
    population: int
    spectra: tuple[Spectrum, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a singular value."""
        parts = [
            pd.DataFrame(
                {"tensor": entry.tensor, "rank": np.arange(1, len(entry.model) + 1), "model": entry.model}
                | {f"population {level:g}": entry.band[place] for place, level in enumerate(BAND)}
            )
            for entry in self.spectra
        ]
        return pd.concat(parts, ignore_index=True)

    def plot(self) -> go.Figure:
        """Small multiples on a logarithmic scale."""
        per_row = min(len(self.spectra), 3)
        rows = ceil(len(self.spectra) / per_row)
        titles = [f"{entry.tensor}<br><span style='font-size:10px'>stable rank {entry.stable_rank:.2f}</span>" for entry in self.spectra]  # fmt: skip
        drawing = make_subplots(
            rows, per_row, subplot_titles=titles, horizontal_spacing=0.07, vertical_spacing=min(0.4 / rows, 0.24)
        )
        for place, entry in enumerate(self.spectra):
            where = {"row": place // per_row + 1, "col": place % per_row + 1}
            rank = np.arange(1.0, len(entry.model) + 1)
            add_band(drawing, rank, entry.band, first=place == 0, where=where)
            drawing.add_trace(
                go.Scatter(
                    x=rank, y=entry.model, mode="lines+markers", line={"color": FOCUS, "width": 2},
                    marker={"size": 4}, name="this model", legendgroup="model", showlegend=place == 0,
                    hovertemplate="singular value %{x}: %{y:.4g}<extra>this model</extra>",
                ), **where,
            )  # fmt: skip
            drawing.update_xaxes(dtick=max(1, round(len(rank) / 6)), tick0=1, **where)
        drawing.update_yaxes(type="log", tickformat="~g", nticks=4)
        styled(drawing, height=70 + 230 * rows)
        return drawing.update_layout(legend_y=1 + 44 / (70 + 230 * rows), margin_t=76)


def is_matrix(info: TensorInfo) -> bool:
    """Whether a tensor has a spectrum worth showing: two axes or more, and none of the two sides is 1."""
    return len(info.shape) > 1 and min(info.shape[0], prod(info.shape[1:])) > 1


def singular_values(values: Tensor) -> Tensor:
    """Singular values of each model's tensor as the matrix `[out, in · kernel]`.

    Args:
        values: `[model, out, *rest]`, real or complex.

    Returns:
        `[model, min(out, rest)]`, descending, float64.
    """
    wide = values.to(torch.complex128 if values.is_complex() else torch.float64)
    return torch.linalg.svdvals(wide.flatten(2))


def stable_rank(singular: Tensor) -> Tensor:
    """‖W‖_F² / ‖W‖₂² from singular values `[..., rank]`; 0 for a matrix of zeros."""
    squares = singular.square()
    return torch.nan_to_num(squares.sum(-1) / squares[..., 0], nan=0.0)


def singular_spectra(
    population: Population, row: int, checkpoint: int = -1, tensors: Sequence[str] | None = None
) -> SingularSpectra:
    """The singular values of every matrix of a model over the quantile band of its population.

    Args:
        population: the population.
        row: the model's position in the table.
        checkpoint: index into the stored checkpoints.
        tensors: names of the parameters to show, None for all; those without a second axis are left out.

    Raises:
        UserError: none of the tensors is a matrix, or the model's entries are not finite.
    """
    wanted = set(chosen_tensors(population, tensors))
    infos = [info for info in population.info.parameters if info.name in wanted and is_matrix(info)]
    if not infos:
        raise UserError(f"none of the chosen parameters of {population.name!r} is a matrix, so there is no spectrum; choose another parameter.")  # fmt: skip
    names = [info.name for info in infos]
    own = population.stacked(slice(row, row + 1), checkpoint)
    for name in names:
        if not own[name].isfinite().all():
            raise UserError(f"parameter {name!r} of model {population.name}/{population.table.index[row]} is not finite, so it has no spectrum.")  # fmt: skip
    work = sum(prod(info.shape) * min(info.shape[0], prod(info.shape[1:])) for info in infos)
    rows = sample_rows(population, scalars_of(population, names), limit=max(8, int(WORK // work)))
    reference = population.stacked(rows, checkpoint)
    found = []
    for name in names:
        mine = singular_values(own[name])[0]
        others = singular_values(reference[name])
        rank = float(stable_rank(mine))
        band = np.quantile(others.numpy(), BAND, axis=0)
        found.append(Spectrum(name, mine.numpy(), band, rank, float((stable_rank(others) < rank).double().mean())))
    return SingularSpectra(f"{population.name}/{population.table.index[row]}", len(rows), len(population), tuple(found))
