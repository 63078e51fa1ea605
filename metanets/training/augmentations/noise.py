"""Augmentations that need no structure: Gaussian noise on the weights, and weights left out."""

import torch
from torch import Tensor

from metanets.training.augmentation import PAPER, Augmentation, Sample, register


def trainable(sample: Sample) -> dict[str, Tensor]:
    """The parameters of a sample; running statistics are no weights, and variances must stay positive."""
    return {name: sample.tensors[name] for name in sample.topology.symmetry[0].program.parameters}


def noise(sample: Sample, strength: float, generator: torch.Generator) -> Sample:
    """v + strength · √(mean v²) · N(0, 1), the mean over the tensor of one model."""
    changed = {}
    for name, tensor in trainable(sample).items():
        size = tensor.abs().square().flatten(1).mean(1) if tensor.ndim > 1 else tensor.abs().square()
        size = size.sqrt().reshape(-1, *[1] * (tensor.ndim - 1))
        changed[name] = tensor + strength * size * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return sample.with_tensors(changed)


def dropout(sample: Sample, strength: float, generator: torch.Generator) -> Sample:
    """Every weight becomes zero with this probability."""
    changed = {
        name: tensor * (torch.rand(tensor.shape, generator=generator) >= strength)
        for name, tensor in trainable(sample).items()
    }
    return sample.with_tensors(changed)


register(
    Augmentation(
        name="noise",
        apply=noise,
        strength=0.05,
        meaning="standard deviation relative to the weights of a tensor",
        keeps="label",
        paper=PAPER,
        summary="Gaussian noise on every weight.",
    )
)
register(
    Augmentation(
        name="dropout",
        apply=dropout,
        strength=0.05,
        most=0.99,
        meaning="probability that a weight becomes zero",
        keeps="label",
        paper=PAPER,
        summary="Weights left out at random.",
    )
)
