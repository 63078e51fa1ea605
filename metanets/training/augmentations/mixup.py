"""Mixup of models: v = λ v_1 + (1 − λ) π(v_2) with λ ~ Beta(α, α), targets mixed alike.

Weights of unaligned models average to nonsense, so the partner is first brought into the order of neurons that matches the
other's weights (see `metanets.alignment`); `mixup_direct` leaves that out, for comparison.
"""

import numpy as np
import torch

from metanets.alignment import aligned, places
from metanets.batching import Topology
from metanets.training.augmentation import PAPER, Augmentation, Sample, register


def mixup(sample: Sample, strength: float, generator: torch.Generator, align: bool = True) -> Sample:
    """Every model with another one of the batch."""
    seed = int(torch.randint(2**31, (), generator=generator))
    share = torch.from_numpy(np.random.default_rng(seed).beta(strength, strength, len(sample)))
    partner = torch.randperm(len(sample), generator=generator)
    own = sample.values
    other = aligned(sample.topology, own.T, own[partner].T).T if align else own[partner]
    part = share[:, None].to(own.dtype)
    mixed = sample.with_values(part * own + (1 - part) * other)
    return Sample(mixed.topology, mixed.tensors, sample.mixed_targets(partner, share), sample.classes)


def direct(sample: Sample, strength: float, generator: torch.Generator) -> Sample:
    """Every model with another one of the batch, in the order of neurons that it has."""
    return mixup(sample, strength, generator, align=False)


def _aligns(topology: Topology) -> bool:
    return bool(places(topology).layout.pieces)


def _always(topology: Topology) -> bool:
    return True


for name, apply, applies, summary in (
    ("mixup", mixup, _aligns, "Mixtures of models whose neurons were matched by their weights."),
    ("mixup_direct", direct, _always, "Mixtures of models as they are."),
):
    register(
        Augmentation(
            name=name,
            apply=apply,
            strength=0.3,
            meaning="α of the Beta distribution of shares",
            keeps="mixture",
            paper=PAPER,
            summary=summary,
            applies=applies,
        )
    )
