"""Two sums. Reads BOIC, writes BOC + BIC."""

from torch import Tensor


def forward(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over I and over O."""
    return weights.sum(2), weights.sum(1)
