"""Statistics of weights by cell: what boosted trees read, for models of any architecture.

Predicting Neural Network Accuracy from Weights (Unterthiner et al., 2020) describes every layer by the mean, the variance
and the quantiles of its weights. Here a layer is a *cell*: the edges of one kind, one operator and one depth. No element
of the permutation group takes an edge out of its cell, so the statistics are invariant. So are the singular values of a
cell as a matrix, which say what quantiles cannot: how many directions a layer uses.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from metanets.batching import DEPTH_BINS, Matrix, Models

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
RESOLUTION = 1e-6  # of squared singular values, relative to their sum: what single precision can tell from zero


def quantiles(rows: Tensor, fractions: Sequence[float] = QUANTILES) -> Tensor:
    """Quantiles of sorted rows `[M, n]`, `[M, fractions]`."""
    place = torch.tensor(fractions) * (rows.shape[1] - 1)
    below = place.long()
    share = (place - below).to(rows.dtype)
    return rows[:, below].lerp(rows[:, (below + 1).clamp_max(rows.shape[1] - 1)], share)


def filled(values: Tensor, matrix: Matrix) -> Tensor:
    """Matrices `[M, rows, columns]` of edge values `[n, M]`; edges of one place are summed."""
    flat = values.new_zeros(values.shape[1], matrix.shape[0] * matrix.shape[1])
    return flat.index_add(1, matrix.places, values.T).unflatten(1, matrix.shape)


def singular_values(entries: Tensor) -> Tensor:
    """Logarithms of singular values of matrices `[M, rows, columns]` by rising size, `[M, min(rows, columns)]`."""
    size = entries.abs().amax((1, 2)).clamp_min(1)  # squares of a product of many layers would not be finite
    entries = (entries if entries.shape[1] <= entries.shape[2] else entries.mT) / size[:, None, None]
    squares = torch.linalg.eigvalsh(entries @ entries.mT)
    found = (squares.maximum(RESOLUTION * squares.sum(1, keepdim=True)) + 1e-24).log() / 2  # zeros are exact: no noise
    return found + size.log()[:, None]


def distribution(models: Models, fractions: Sequence[float] = QUANTILES) -> Tensor:
    """Mean, logarithm of the standard deviation, and quantiles of the values of every cell, `[cell, model, 2 + fractions]`."""
    found = []
    for edges in models.topology.cell_edges:
        rows = models.values[edges].T.sort(1).values  # [M, edges]
        spread = (rows.var(1, correction=0) + 1e-12).log() / 2
        found.append(torch.cat([rows.mean(1)[:, None], spread[:, None], quantiles(rows, fractions)], 1))
    return torch.stack(found)


def spectrum(models: Models, fractions: Sequence[float] = QUANTILES) -> Tensor:
    """Quantiles of the logarithms of every cell's singular values, `[cell, model, fractions]`; zero for one row or one column (a
    bias)."""
    topology, none = models.topology, models.values.new_zeros(len(models), len(fractions))
    return torch.stack([
        quantiles(singular_values(filled(models.values[edges], matrix)), fractions) if min(matrix.shape) > 1 else none
        for edges, matrix in zip(topology.cell_edges, topology.cell_matrices, strict=True)
    ])  # fmt: skip


SIZES: dict[Callable[[Models], Tensor], int] = {distribution: 2 + len(QUANTILES), spectrum: len(QUANTILES)}


class CellStatistics(nn.Module):
    """Statistics of cells, standardised over the training models; those of cells that training did not have are zero.

    Args:
        kinds: number of edge kinds.
        ops: number of operators.
        read: statistics `[cell, model, size]`, as `distribution`, `spectrum` or `metanets.products.products`.
        size: how many it gives a cell.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, kinds: int, ops: int, read: Callable[[Models], Tensor], size: int) -> None:
        super().__init__()
        self.read, self.size = read, size
        shape = (kinds, ops, DEPTH_BINS + 1, self.size)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.zeros(shape))  # 1 / standard deviation

    @torch.no_grad()
    def fit(self, training: Sequence[Models]) -> None:
        """Read off means and standard deviations; a statistic that does not vary stays zero."""
        moments = torch.zeros(3, *self.mean.shape, dtype=torch.float64)
        for models in training:
            values = self.read(models).double()
            at = tuple(models.topology.cells.T)  # every cell once
            for row, entry in zip(moments, (values.new_full(values.shape[:2], 1)[..., None], values, values**2), strict=True):  # fmt: skip
                row[at] += entry.sum(1)
        count, total, square = moments
        mean = total / count.clamp_min(1)
        deviation = (square / count.clamp_min(1) - mean.square()).clamp_min(0).sqrt()
        varies = deviation > 1e-6 * mean.abs().clamp_min(1e-6)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(varies, 1 / deviation, 0))

    def forward(self, models: Models) -> Tensor:
        """`[cell, model, size]`."""
        at = tuple(models.topology.cells.T)
        statistics = self.read(models).to(self.mean.dtype)
        return (statistics - self.mean[at][:, None]) * self.scale[at][:, None]
