"""Layers as the tangent kernel sees them: the uses of the same parameters, their samples and positions told apart.

The pre-activation of a use is brought to `[N, S, J]`, samples by positions by features, whatever the module made of it;
with it `[N, S, I]` of what entered. Several uses of one weight are more positions of one layer, so that what they have
in common is counted.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.ntk.uses import Recorder, Use, record

MATRIX = ("linear", "convolution", "transposed")
SLACK = 1e4  # two runs on the same sample may differ by so many rounding errors


@dataclass(frozen=True)
class Layer:
    """Parameters whose share of the kernel is computed together.

    Args:
        parameters: their names.
        kind: `matrix` (linear maps and convolutions with one group), `embedding`, or `sum` (all else).
        uses: positions in the order in which they are recorded, each with the role of the parameter there.
        bias: whether a bias goes with the weight.
        size: number of scalars.
        positions: of all uses together, S.
        fan_in: I of a matrix, with the bias.
        fan_out: J, the features of a pre-activation.
        last: the layer is the module's output itself, so its gradients are unit vectors.
    """

    parameters: tuple[str, ...]
    kind: str
    uses: tuple[tuple[int, str], ...]
    bias: bool
    size: int
    positions: int
    fan_in: int
    fan_out: int
    last: bool = False


@dataclass(frozen=True)
class Structure:
    """How a module uses its parameters.

    Args:
        layers: what layer products serve.
        remainder: names of the parameters that are left to automatic differentiation.
        axes: of every use the axis of its samples; None where the module is not samplewise.
        samplewise: whether an output belongs to one sample; otherwise all inputs are one sample.
        outputs: O, the number of outputs of a sample, or of a row of a coupled output.
    """

    layers: tuple[Layer, ...]
    remainder: tuple[str, ...]
    axes: tuple[int | None, ...]
    samplewise: bool
    outputs: int


def structure(module: nn.Module, inputs: Sequence[Tensor], names: Sequence[str]) -> Structure:
    """Find the layers of a module in evaluation mode by running it on two samples, together and one by one.

    Args:
        module: the module.
        inputs: of at least one sample.
        names: the parameters to look at.
    """
    sizes = {len(x) if x.ndim else 0 for x in inputs}
    if len(sizes) == 1 and sizes != {0}:
        pair = [torch.cat([x[:1], x[1:2] if len(x) > 1 else x[:1]]) for x in inputs]
        (both, joint), (first, one), (second, two) = (
            record(module, part, names) for part in (pair, [x[:1] for x in pair], [x[1:] for x in pair])
        )
        alike = both.shape[:1] == (2,) and first.shape == second.shape == (1, *both.shape[1:])
        if alike and _same(both, torch.cat([first, second])) and len(joint.uses) == len(one.uses) == len(two.uses):
            axes = tuple(map(_sample_axis, joint.uses, one.uses, two.uses))
            return _arranged(module, one, first, names, axes, True)
    output, whole = record(module, inputs, names)
    return _arranged(module, whole, output, names, (None,) * len(whole.uses), False)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return bool(torch.equal(a, b))
    a, b = a.detach(), b.detach()
    bound = SLACK * torch.finfo(a.dtype).eps * max(float(a.abs().max()), 1e-30) if a.numel() else 0.0
    return bool(((a - b).abs() <= bound).all())


def _sample_axis(joint: Use, one: Use, two: Use) -> int | None:
    """The axis along which the pre-activation of two samples is that of the first and then that of the second."""
    shape = one.output.shape
    for axis in range(1 if joint.feature_axes < 0 else len(shape) - joint.feature_axes):
        parts = (one.output, two.output)
        if shape == two.output.shape and _same(joint.output, torch.cat(parts, axis)):
            return axis
    return None


def _arranged(
    module: nn.Module, recorder: Recorder, output: Tensor, names: Sequence[str], axes: tuple[int | None, ...],
    samplewise: bool,
) -> Structure:  # fmt: skip
    uses, parameters = recorder.uses, dict(module.named_parameters())
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for place, use in enumerate(uses):
        for role in ("weight", "bias"):
            if (name := getattr(use, role)) is not None:
                found[name].append((place, role))
    unfit = {
        name for name, places in found.items()
        if (samplewise and any(axes[place] is None for place, _ in places)) or len({role for _, role in places}) > 1
        or (len({uses[place].kind for place, _ in places}) > 1 and not _mixable([uses[place] for place, _ in places]))
    }  # fmt: skip
    ruled = [name for name in names if name in found and name not in unfit and name not in recorder.others]
    layers: list[Layer] = []
    joined: set[str] = set()
    for name in ruled:
        if name in joined:
            continue
        places = tuple(found[name])
        own = [uses[place] for place, _ in places]
        bias = own[0].bias if places[0][1] == "weight" else None
        together = (
            bias in ruled and bias not in joined and all(use.kind in MATRIX and use.bias == bias for use in own)
            and {place for place, _ in found[str(bias)]} == {place for place, _ in places}
        )  # fmt: skip
        members = (name, str(bias)) if together else (name,)
        joined.update(members)
        layers.append(_layer(members, places, own, together, parameters, output, samplewise))
    remainder = tuple(name for name in names if name in found or name in recorder.others if name not in joined)
    count = output[0].numel() if output.ndim else 1
    return Structure(tuple(layers), remainder, axes, samplewise, count)


def _mixable(uses: Sequence[Use]) -> bool:
    """Whether Jacobians of uses of different kinds have one layout: an embedding and a linear map do."""
    return {use.kind for use in uses} <= {"linear", "embedding"}


def _layer(
    members: tuple[str, ...], places: tuple[tuple[int, str], ...], own: list[Use], bias: bool,
    parameters: Mapping[str, nn.Parameter], output: Tensor, samplewise: bool,
) -> Layer:  # fmt: skip
    weight = parameters[members[0]]
    role, kinds = places[0][1], {use.kind for use in own}
    positions = sum(_positions(use) for use in own)
    kind = "sum"
    if role == "weight" and kinds <= set(MATRIX) and all(use.settings.get("groups", 1) == 1 for use in own):
        kind = "matrix"
    elif kinds == {"embedding"}:
        kind = "embedding"
    fan_out = weight.shape[-1] if kind == "embedding" else weight.numel()
    if kind == "matrix":
        fan_out = weight.shape[1] if kinds == {"transposed"} else len(weight)
    fan_in = weight.numel() // fan_out + bias if kind == "matrix" else len(weight) if kind == "embedding" else 1
    last = (
        samplewise and kind == "matrix" and len(own) == 1 and own[0].returned is output and output.ndim == 2
        and own[0].kind == "linear"
    )  # fmt: skip
    size = sum(parameters[name].numel() for name in members)
    return Layer(members, kind, places, bias, size, positions, fan_in, fan_out, last)


def _positions(use: Use) -> int:
    """Positions of one sample (the use was recorded on one)."""
    shape = use.output.shape
    if use.feature_axes < 0:
        return shape[0] * prod(shape[2:])
    return prod(shape[: len(shape) - use.feature_axes])


def samples(tensor: Tensor, use: Use, axis: int | None, count: int, lead: int = 0, indices: bool = False) -> Tensor:
    """Bring a pre-activation, or what is shaped like one, to `[*, N, S, J]` (indices of an embedding to `[N, S]`).

    Args:
        tensor: shaped like the use's pre-activation (without its feature axis for `indices`), with `lead` more axes in front.
        use: the use.
        axis: of the samples; None when all are one.
        count: N.
        lead: number of axes in front.
        indices: the tensor has no feature axis.
    """
    front = tensor.shape[:lead]
    if axis is not None and axis:
        tensor = tensor.movedim(lead + axis, lead)
    if indices:
        return tensor.reshape(*front, count, -1)
    if use.feature_axes > 0:
        features = prod(tensor.shape[tensor.ndim - use.feature_axes :])
        return tensor.reshape(*front, count, -1, features)
    flat = tensor.flatten(lead + 2).mT if tensor.ndim > lead + 2 else tensor.unsqueeze(lead + 1)  # [*, N, S, J]
    return flat if flat.shape[lead] == count else flat.reshape(*front, count, -1, flat.shape[-1])


def entering(use: Use, axis: int | None, count: int, bias: bool) -> Tensor:
    """What enters a use: `[N, S, I]`, for a convolution with G groups `[N, S, G, I]`, indices `[N, S]`, with a 1 for the bias.

    Args:
        use: the use.
        axis: of the samples.
        count: N.
        bias: whether to append a 1 to every row.
    """
    if use.kind == "embedding":
        return samples(use.input, use, axis, count, indices=True)
    if use.kind not in ("convolution", "transposed"):
        rows = samples(use.input, use, axis, count)
        return torch.cat([rows, torch.ones_like(rows[..., :1])], -1) if bias else rows
    patches = patches_of(use.input, bias=bias, **use.settings)  # [B, G, I, L]
    patches = patches.flatten(1, 2).mT if patches.shape[1] == 1 else patches.permute(0, 3, 1, 2)
    return patches if len(patches) == count else patches.reshape(count, -1, *patches.shape[2:])


def patches_of(
    image: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    groups: int, bias: bool,
) -> Tensor:  # fmt: skip
    """What a convolution over any number of dimensions reads at each of its places, `[B, G, C/G · taps, places]`.

    Args:
        image: `[B, C, *]`.
        kernel: taps a dimension; `stride`, `padding`, `dilation` likewise.
        groups: G.
        bias: whether to append a 1 to what a group reads.
    """
    image = F.pad(image, [p for p in reversed(padding) for _ in range(2)]).contiguous()
    sizes = zip(image.shape[2:], kernel, stride, dilation, strict=True)
    places = [(size - gap * (taps - 1) - 1) // step + 1 for size, taps, step, gap in sizes]
    batch, channels = image.shape[:2]
    own, across, *along = image.stride()
    shape = (batch, groups, channels // groups, *kernel, *places)
    taps_apart = [width * gap for width, gap in zip(along, dilation, strict=True)]
    places_apart = [width * step for width, step in zip(along, stride, strict=True)]
    windows = image.as_strided(shape, (own, across * (channels // groups), across, *taps_apart, *places_apart))
    read = channels // groups * prod(kernel)
    patches = image.new_empty(batch, groups, read + bias, prod(places))
    patches[:, :, :read].view(shape).copy_(windows)  # half the time of an unfolding that is then joined with ones
    patches[:, :, read:] = 1
    return patches


def jacobian(use: Use, role: str, entered: Tensor, gradients: Tensor) -> Tensor:
    """∂f_o/∂θ through one use for every sample, `[N, size]`.

    Args:
        use: the use.
        role: of the parameter in it.
        entered: of `entering`.
        gradients: of output o to the pre-activation, `[N, S, J]`.
    """
    if role == "bias":
        return gradients.sum(1)
    if use.kind == "affine":
        return (gradients * entered).sum(1)
    if use.kind == "embedding":
        count, _, features = gradients.shape
        rows = use.settings["rows"]
        if (missing := use.settings["padding_index"]) is not None:
            gradients = gradients * (entered != missing)[..., None]
        places = (entered + rows * torch.arange(count, device=entered.device)[:, None]).flatten()
        table = gradients.new_zeros(count * rows, features)
        return table.index_add_(0, places, gradients.flatten(0, 1)).view(count, -1)
    if entered.ndim == 3 and use.kind != "linear":
        return (entered.mT @ gradients).flatten(1)  # both as they lie in memory; every use has this layout
    if entered.ndim == 3:
        return (gradients.mT @ entered).flatten(1)
    grouped = gradients.unflatten(-1, (entered.shape[2], -1))  # [N, S, G, J]
    return torch.einsum("nsgj,nsgi->ngji", grouped, entered).flatten(1)
