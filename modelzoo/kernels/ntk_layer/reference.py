"""Both products of all positions, multiplied. Reads NSI + ONSJ of both sides and OPNM, writes OPNM."""

import torch
from torch import Tensor


def forward(a: Tensor, g: Tensor, a2: Tensor | None, g2: Tensor | None, kernel: Tensor | None, bias: bool) -> Tensor:
    """See `ntk_layer`."""
    a2, g2 = a if a2 is None else a2, g if g2 is None else g2
    inner = torch.einsum("nsi,mti->nmst", a, a2) + float(bias)
    share = torch.einsum("nmst,onsj,pmtj->opnm", inner, g, g2)
    return share if kernel is None else kernel + share
