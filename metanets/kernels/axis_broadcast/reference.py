"""Two sums with broadcasting. Reads BOIC + BOC + BIC, writes BOIC."""

from torch import Tensor


def forward(weights: Tensor | None, rows: Tensor, columns: Tensor) -> Tensor:
    """See `axis_broadcast`."""
    added = rows.unsqueeze(2) + columns.unsqueeze(1)
    return added if weights is None else weights + added
