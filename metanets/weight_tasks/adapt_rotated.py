"""Images turned by an angle."""

from torch import Tensor

from metanets.adaptation import register_domain
from metanets.weight_tasks.rotate import DEGREES, rotate


def turn(images: Tensor) -> Tensor:
    """Counter-clockwise by DEGREES, `[S, channels, H, W]`."""
    return rotate(images.flatten(0, 1)).view(images.shape)


TASK = register_domain("adapt_rotated", turn, f"Update classifiers of images so that they read images turned by {DEGREES:g}°.", __name__)  # fmt: skip
