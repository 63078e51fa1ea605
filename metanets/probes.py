"""Answers of the models themselves, for any metanet to read beside weights: at learned inputs, or on a lattice of inputs.

"Learning to Probe: Deep Linear Probe Generators for Weight Space Learning" (Kahana, Horwitz, Shuval and Hoshen, 2025): models
are evaluated at inputs that a generator without activations makes from learned codes; without nonlinearity it cannot
overfit to inputs that no data looks like.

Ideas of our own, which matter more than which network reads weights beside. Probes begin at inputs that the models were trained
on, or, of images, at noise that is as smooth as images are. Answers are read on scales on which models can be compared, the
logarithms of probabilities where they are logits, and standardised over the training models. And what is predicted is
partly a linear map of them.

Functions of one to three coordinates are also read on a lattice, whose answers convolutions read: a function then looks alike
wherever its graph is shifted to, which separate probes would have to learn place by place.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metanets.batching import ModelFunction, Models
from metanets.metanet import Prepared, Wanted
from modelzoo.errors import UserError

ProbeStart = Literal["noise", "data"]
REACH = 0.1  # of what is learned where probes begin at data: they stay near it
ROUGHNESS = 2.0  # of images: amplitudes at frequency f are as 1 / (1 + f)^2
RARE = 0.03  # a probability that is told from zero
STANDARD = 512  # models of an architecture that answers are standardised over, at most
TOGETHER = 64  # models that are evaluated at once
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}  # by number of coordinates
STRIDES = (1, 2, 2)


def function_of(models: Models) -> ModelFunction:
    """The models themselves; raises `UserError` for mere weights."""
    if models.function is None:
        raise UserError("this metanet probes: its models must come with their function.", 2)
    return models.function


def comparable(answers: Tensor, classes: bool) -> Tensor:
    """Answers `[…, outputs]` on a scale on which models can be compared.

    Of logits y of classes that is log(softmax(y) + 0.03), of other answers sign(y) log(1 + |y|).
    """
    return (answers.softmax(-1) + RARE).log() if classes else answers.sign() * answers.abs().log1p()


def evenly(total: int, count: int) -> Tensor:
    """So many of the numbers below `total`, at even distances, from the first to the last."""
    return torch.linspace(0, total - 1, count).round().long()


def at_most(total: int, count: int) -> Tensor:
    """So many of the numbers below `total`, at even distances, or all of them where there are fewer."""
    return evenly(total, min(total, count))


def smooth(images: Tensor) -> Tensor:
    """Noise `[…, height, width]` with the spectrum of images, of the same spread."""
    vertical, horizontal = (size * torch.fft.fftfreq(size) for size in images.shape[-2:])
    frequency = (vertical.square()[:, None] + horizontal.square()).sqrt()
    filtered = torch.fft.ifft2(torch.fft.fft2(images) / (1 + frequency) ** ROUGHNESS).real
    return filtered * (images.std() / filtered.std())


def noise(count: int, shape: Sequence[int]) -> Tensor:
    """Inputs `[count, *shape]` where there is no data to take them from; of three sizes, images."""
    drawn = 0.5 * torch.randn(count, *shape)
    return smooth(drawn) if len(shape) == 3 else drawn


def examples(training: Sequence[Models], count: int) -> Tensor:
    """So many inputs `[count, *shape]` that models were trained on, evenly spread over the first architecture's data.

    Raises:
        UserError: the models come without such inputs, or these cannot be read.
    """
    function = function_of(training[0])
    if function.examples is None:
        raise UserError("these models come without inputs that they were trained on; take probe_start=noise.", 2)
    try:
        found = function.examples()
    except UserError as error:
        raise UserError(f"{str(error).removesuffix('.')}, or take probe_start=noise, which needs no data.", error.exit_code) from error  # fmt: skip
    return found[evenly(len(found), count)]


class Probes(Prepared):
    """Answers of every model to inputs x_q = s_q + r (W_2 W_1 z_q + b) with learned codes z_q.

    Answers are read on the scale of `comparable`, standardised over the training models.

    Args:
        count: Q.
        shape: of one input; of three sizes, an image.
        outputs: of the models.
        start: `data`, where s_q are inputs that the models were trained on, W_2 begins at zero and r = 0.1, or `noise`,
            where s_q = 0 and r = 1.
        latent: length of a code.

    Shape:
        models to `[M, Q · outputs]`.
    """

    first: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self, count: int, shape: Sequence[int], outputs: int, start: ProbeStart = "noise", latent: int = 32
    ) -> None:
        super().__init__()
        self.shape, self.start = tuple(shape), start
        self.reach = REACH if start == "data" else 1.0
        size, self.size = int(torch.Size(shape).numel()), count * outputs
        self.codes = nn.Parameter(torch.randn(count, latent))
        self.inner, self.outer = nn.Linear(latent, 2 * latent, bias=False), nn.Linear(2 * latent, size)
        nn.init.normal_(self.inner.weight, std=latent**-0.5)
        nn.init.normal_(self.outer.weight, std=0.5 * (2 * latent) ** -0.5)
        self.register_buffer("first", torch.zeros(count, *self.shape))
        self.register_buffer("mean", torch.zeros(self.size))
        self.register_buffer("scale", torch.ones(self.size))  # 1 / standard deviation
        if start == "data":
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)
        elif len(self.shape) == 3:
            with torch.no_grad():
                self.outer.weight.copy_(smooth(self.outer.weight.T.unflatten(1, self.shape)).flatten(1).T)

    @torch.no_grad()
    def begin(self, training: Sequence[Models], wanted: Sequence[Wanted] | None = None) -> None:
        """Take the first probes from the data of the training models, evenly spread over it, and standardise answers."""
        if self.start == "data":
            self.first.copy_(examples(training, len(self.first)))
        read = torch.cat([
            self.read(function_of(few.to(self.first.dtype)))
            for models in training for few in some(models, at_most(len(models), STANDARD))
        ])  # fmt: skip
        self.mean.copy_(read.mean(0))
        deviation = read.std(0, correction=0)
        self.scale.copy_(torch.where(deviation > 1e-6 * self.mean.abs().clamp_min(1), 1 / deviation, 0))

    def inputs(self) -> Tensor:
        """The probes, `[Q, *shape]`."""
        return self.first + self.reach * self.outer(self.inner(self.codes)).unflatten(1, self.shape)

    def read(self, function: ModelFunction) -> Tensor:
        """Answers on their scale, `[M, Q · outputs]`."""
        return comparable(function(self.inputs()), function.classes).flatten(1)

    def forward(self, models: Models) -> Tensor:
        return (self.read(function_of(models)) - self.mean) * self.scale


def some(models: Models, rows: Tensor) -> Iterator[Models]:
    """Models of these rows, a few at a time."""
    for part in rows.split(TOGETHER):
        yield models.rows(part)


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
        self.norm = nn.LayerNorm(self.size)

    def forward(self, models: Models) -> Tensor:
        answers = function_of(models)(self.centre + self.spread * self.unit)  # [M, Q, outputs]
        return self.norm(self.convolutions(answers.transpose(1, 2).unflatten(2, self.grid)).flatten(1))


def probed(training: Sequence[Models]) -> dict[str, Any] | None:
    """What probes and lattices must know of the models, as config fields; None where they are not functions of one such shape."""
    found = set()
    for models in training:
        if models.function is None:
            return None
        one = {name: tensor[:1] for name, tensor in models.function.tensors.items()}
        dtype = next(t.dtype for t in one.values() if t.is_floating_point())
        function = replace(models.function, tensors=one)
        with torch.no_grad():
            outputs = function(torch.zeros(1, *function.shape, dtype=dtype)).shape[-1]
        found.add((function.shape, outputs))
    return dict(zip(("probe_shape", "probe_outputs"), found.pop(), strict=True)) if len(found) == 1 else None


def probe_shapes(training: Sequence[Models], fields: Mapping[str, Any]) -> dict[str, Any]:
    """What probes or a lattice set by hand must know of the models, as config fields.

    Raises:
        UserError: the models do not take one real tensor and give outputs, all of one shape, or a lattice would have
            more than three coordinates.
    """
    wanted = next((name for name in ("probes", "lattice") if fields.get(name)), None)
    if wanted is None:
        return {}
    found = probed(training)
    if found is None:
        raise UserError(f"to be read by {wanted}, models must take one real tensor, all of the same shape, and give outputs of the same size; leave {wanted} at 0.", 2)  # fmt: skip
    shape = found["probe_shape"]
    if fields.get("lattice") and not laid_out(shape):
        raise UserError(f"to be read by a lattice, models must take one to three coordinates, these take inputs of shape {list(shape)}; leave lattice at 0.", 2)  # fmt: skip
    return found


def laid_out(shape: Sequence[int]) -> bool:
    """Whether inputs of this shape are one to three coordinates."""
    return len(shape) == 1 and shape[0] in CONVOLUTIONS
