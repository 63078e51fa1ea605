"""Turned by an angle, black outside."""

from math import cos, radians, sin

from torch import Tensor
from torch.nn import functional as F

from metanets.editing import register_edit

DEGREES = 30.0


def rotate(images: Tensor) -> Tensor:
    """Counter-clockwise by DEGREES with bilinear interpolation, `[M, H, W]`."""
    c, s = cos(radians(DEGREES)), sin(radians(DEGREES))
    turn = images.new_tensor([[c, -s, 0], [s, c, 0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(turn, [len(images), 1, *images.shape[1:]], align_corners=True)
    return F.grid_sample(images[:, None], grid, align_corners=True)[:, 0]


TASK = register_edit("rotate", rotate, f"Update the weights of implicit images so that they are turned by {DEGREES:g}°.", __name__)  # fmt: skip
