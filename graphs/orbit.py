"""The dimension of the orbit through one point: how many directions a group really moves the weights in.

A group of dimension d can have a smaller orbit: an element that leaves the weights themselves as they are moves nothing
(two linear layers wider than their input: matrices that differ off the range of the first weight).
"""

import numpy as np
import torch
from torch import Tensor

from graphs.factors import Factor, Tensors
from graphs.group import SymmetryGroup

STEP = 1e-4  # of the central difference: exponentials and inverses are right to 1e-8
RANK_TOLERANCE = 1e-6


def orbit_dimension(group: SymmetryGroup, tensors: Tensors) -> int:
    """The rank of the infinitesimal action of a group at one point, at most `group.dimension`.

    Args:
        group: the group.
        tensors: parameters and state buffers in double precision, by name.
    """
    first = {value: name for name, value in reversed(group.program.tensors.items())}
    moving = [factor for factor in group.factors if factor.dimension]
    if not moving:
        return 0
    rows = torch.cat([_tangents(factor, tensors, sorted(first.values())) for factor in moving])
    sizes = rows.norm(dim=1, keepdim=True)
    return int(np.linalg.matrix_rank((rows / sizes.clamp_min(1e-300)).numpy(), rtol=RANK_TOLERANCE))


def _tangents(factor: Factor, tensors: Tensors, names: list[str]) -> Tensor:
    """`[parameters of the factor, entries of the tensors]`: derivatives of its action at the identity."""
    identity = factor.identity()
    count = identity.numel()
    directions = torch.eye(count, dtype=identity.dtype).reshape(count, *identity.shape)
    if factor.kind.startswith("O("):
        directions = directions - directions.mT
    there, back = (factor.apply(identity + step * directions, tensors) for step in (STEP, -STEP))
    columns = []
    for name in names:
        change = (there[name] - back[name]) / (2 * STEP) if name in there else torch.zeros_like(tensors[name])
        real = torch.view_as_real(change) if change.is_complex() else change
        columns.append(real.reshape(count, -1) if name in there else real.reshape(1, -1).expand(count, -1))
    return torch.cat(columns, 1)
