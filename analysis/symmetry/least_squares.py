"""Linear factors by least squares on weights as they are: invertible matrices, where descent turns balanced ones."""

import torch
from torch import Tensor

from analysis.symmetry.descent import part_of
from graphs.factors import Tensors
from graphs.scalings.linear import LinearFactor


def least_squares(factor: LinearFactor, reference: Tensors, tensors: Tensors) -> list[Tensor]:
    """Invertible matrices `[copies, n, n]` that bring one model closest to another by one side of a linear factor.

    Of the side that M multiplies, the least ‖A − M B‖; of the other one M⁻ᵀ, where these are invertible.
    """
    found = []
    for inverse in (False, True):
        sides = []
        for model in (reference, tensors):
            mixed = [m for m in factor.mixed if m.inverse is inverse and m.tensor in reference]
            sides.append([_columns(part_of(model[m.tensor], m)) for m in mixed])
        if sides[0]:
            a, b = (torch.cat(columns, -1) for columns in sides)
            matrices = a @ torch.linalg.pinv(b)
            if int(torch.linalg.matrix_rank(matrices).min()) == factor.size:
                found.append(torch.linalg.inv(matrices).mT if inverse else matrices)
    return found


def _columns(part: Tensor) -> Tensor:
    """What a linear factor mixes, `[1, rest, copies, repeats, n]`, as real columns `[copies, n, columns]`."""
    columns = part.movedim(2, 0).flatten(1, 3).mT
    return torch.view_as_real(columns).flatten(-2) if columns.is_complex() else columns
