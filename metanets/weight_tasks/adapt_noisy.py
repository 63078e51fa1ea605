"""Images under heavy noise: the same for an image every time, so that the domain is a fixed set of images."""

import torch
from torch import Tensor

from metanets.adaptation import register_domain

DEVIATION = 0.5


def noisy(images: Tensor) -> Tensor:
    """x + DEVIATION ε, ε normal."""
    generator = torch.Generator().manual_seed(len(images))
    return images + DEVIATION * torch.randn(images.shape, generator=generator)


TASK = register_domain("adapt_noisy", noisy, "Update classifiers of images so that they read images under noise.", __name__)  # fmt: skip
