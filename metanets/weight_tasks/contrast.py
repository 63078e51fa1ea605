"""More contrast: values move away from the middle."""

from torch import Tensor

from metanets.editing import register_edit

GAIN = 2.0


def contrast(images: Tensor) -> Tensor:
    """½ + GAIN (x − ½), cut off at 0 and 1, `[M, H, W]`."""
    return (0.5 + GAIN * (images - 0.5)).clamp(0, 1)


TASK = register_edit(
    "contrast", contrast, "Update the weights of implicit images so that contrast is doubled.", __name__
)
