"""On the CPU: both sums of a piece while it is in the cache."""

import torch
from torch import Tensor

CACHED = 2**17  # numbers of one piece


def refused(part: str, weights: Tensor) -> str:
    """Half precision would be rounded once a piece."""
    return "" if weights.dtype in (torch.float32, torch.float64) else "it is for float32 and float64"


def forward(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over I and over O."""
    batch, outputs, inputs, channels = weights.shape
    rows = weights.new_empty(batch, outputs, channels)
    columns = weights.new_empty(batch, inputs, channels)
    one = outputs * inputs * channels
    if one <= CACHED:
        few = CACHED // max(one, 1)
        for w, r, c in zip(weights.split(few), rows.split(few), columns.split(few), strict=True):
            torch.sum(w, 2, out=r)
            torch.sum(w, 1, out=c)
        return rows, columns
    few = max(1, CACHED // (inputs * channels))
    columns.zero_()
    for w, r, c in zip(weights, rows, columns, strict=True):
        for piece, own in zip(w.split(few), r.split(few), strict=True):
            torch.sum(piece, 1, out=own)
            c += piece.sum(0)
    return rows, columns
