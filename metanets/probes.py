"""Answers of the models themselves, for any metanet to read beside weights: at learned inputs, or on a lattice of inputs.

"Learning to Probe: Deep Linear Probe Generators for Weight Space Learning" (Kahana, Horwitz, Shuval and Hoshen, 2025): models
are evaluated at inputs that a generator without activations makes from learned codes; without nonlinearity it cannot
overfit to inputs that no data looks like.

Functions of one to three coordinates are also read on a lattice, whose answers convolutions read: a function then looks alike
wherever its graph is shifted to, which separate probes would have to learn place by place.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from metanets.batching import ModelFunction, Models
from modelzoo.errors import UserError

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}  # by number of coordinates
STRIDES = (1, 2, 2)


def evaluate(models: Models, inputs: Tensor) -> Tensor:
    """Outputs of every model at the same inputs `[Q, *shape]`, `[M, Q, outputs]`; raises `UserError` for mere weights."""
    if models.function is None:
        raise UserError("this metanet probes: its models must come with their function.", 2)
    return models.function(inputs)


class Probes(nn.Module):
    """Answers of every model to inputs x_q = W_2 W_1 z_q + b with learned codes z_q.

    Args:
        count: Q.
        shape: of one input.
        outputs: of the models.
        latent: length of a code.

    Shape:
        models to `[M, Q · outputs]`.
    """

    def __init__(self, count: int, shape: Sequence[int], outputs: int, latent: int = 32) -> None:
        super().__init__()
        self.shape, size = tuple(shape), int(torch.Size(shape).numel())
        self.size = count * outputs
        self.codes = nn.Parameter(torch.randn(count, latent))
        self.inner, self.outer = nn.Linear(latent, 2 * latent, bias=False), nn.Linear(2 * latent, size)
        nn.init.normal_(self.inner.weight, std=latent**-0.5)
        nn.init.normal_(self.outer.weight, std=0.5 * (2 * latent) ** -0.5)

    def forward(self, models: Models) -> Tensor:
        return evaluate(models, self.outer(self.inner(self.codes)).unflatten(1, self.shape)).flatten(1)


class Lattice(nn.Module):
    """Answers of every model on a regular lattice x = c + s ⊙ t, t ∈ [−1, 1]^d, read by convolutions; c and s are learned.

    Args:
        points: along every axis.
        coordinates: d, from 1 to 3.
        outputs: of the models.
        width: channels of the first convolution, doubled by every later one.

    Shape:
        models to `[M, size]`.
    """

    unit: Tensor

    def __init__(self, points: int, coordinates: int, outputs: int, width: int = 16) -> None:
        super().__init__()
        axis = torch.linspace(-1, 1, points)
        self.register_buffer("unit", torch.cartesian_prod(*[axis] * coordinates).view(-1, coordinates))
        self.centre, self.spread = nn.Parameter(torch.zeros(coordinates)), nn.Parameter(torch.ones(coordinates))
        self.grid = (points,) * coordinates
        channels = [outputs, *(width * 2**i for i in range(len(STRIDES)))]
        layers: list[nn.Module] = []
        for (before, after), stride in zip(pairwise(channels), STRIDES, strict=True):
            layers += [CONVOLUTIONS[coordinates](before, after, 3, stride, 1), nn.GroupNorm(1, after), nn.SiLU()]
            points = -(-points // stride)
        self.convolutions = nn.Sequential(*layers)
        self.size = channels[-1] * points**coordinates

    def forward(self, models: Models) -> Tensor:
        answers = evaluate(models, self.centre + self.spread * self.unit)  # [M, Q, outputs]
        return self.convolutions(answers.transpose(1, 2).unflatten(2, self.grid)).flatten(1)


def probed(training: Sequence[Models]) -> tuple[tuple[int, ...], int] | None:
    """Shape of one input and number of outputs of the models, None where they are not functions of one such shape."""
    shapes = set()
    for models in training:
        if models.function is None:
            return None
        one = {name: tensor[:1] for name, tensor in models.function.tensors.items()}
        dtype = next(t.dtype for t in one.values() if t.is_floating_point())
        function = ModelFunction(models.function.template, one, models.function.shape)
        with torch.no_grad():
            shapes.add((function.shape, function(torch.zeros(1, *function.shape, dtype=dtype)).shape[-1]))
    return shapes.pop() if len(shapes) == 1 else None


def probe_shapes(training: Sequence[Models], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The shapes that probes or a lattice set by hand follow from, as config fields.

    Raises:
        UserError: the models do not take one real tensor and give outputs, all of one shape, or a lattice would have
            more than three coordinates.
    """
    wanted = next((name for name in ("probes", "lattice") if fields.get(name)), None)
    if wanted is None:
        return {}
    shapes = probed(training)
    if shapes is None:
        raise UserError(f"to be read by {wanted}, models must take one real tensor, all of the same shape, and give outputs of the same size; leave {wanted} at 0.", 2)  # fmt: skip
    if fields.get("lattice") and not laid_out(shapes[0]):
        raise UserError(f"to be read by a lattice, models must take one to three coordinates, these take inputs of shape {list(shapes[0])}; leave lattice at 0.", 2)  # fmt: skip
    return {"probe_shape": shapes[0], "probe_outputs": shapes[1]}


def laid_out(shape: Sequence[int]) -> bool:
    """Whether inputs of this shape are one to three coordinates."""
    return len(shape) == 1 and shape[0] in CONVOLUTIONS
