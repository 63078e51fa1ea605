"""Signal estimators: the part of a neuron's input that its output is about, from weights and data.

x = s + d, y = wᵀx, S(x) = a wᵀx; see `pattern_attribution` for the paper (row S154).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.errors import UserError

Estimator = Literal["filter", "linear", "two_component"]


@dataclass(frozen=True)
class Patch:
    """What the neurons of one layer saw.

    Args:
        inputs: `[N, k]`, patches flattened.
        outputs: `[N, out]`, pre-activations without bias.
        weight: `[out, k]`.
    """

    inputs: Tensor
    outputs: Tensor
    weight: Tensor


def patches(layer: nn.Linear | nn.Conv2d, x: Tensor, most: int = 20_000) -> Patch:
    """The inputs of every neuron of a layer as rows; of a convolution one row a position.

    Args:
        layer: a linear layer or an ungrouped convolution.
        x: its input, `[B, in]` or `[B, C, H, W]`.
        most: rows kept, evenly spaced.

    Raises:
        UserError: the convolution is grouped.
    """
    if isinstance(layer, nn.Conv2d):
        if layer.groups != 1 or isinstance(layer.padding, str):
            raise UserError("patterns of grouped convolutions, or with named padding, are not estimated; choose another network.")  # fmt: skip
        x = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2).flatten(0, 1)
    else:
        x = x.flatten(0, -2)
    x, weight = x[:: max(1, len(x) // most)].double(), layer.weight.detach().flatten(1).double()
    return Patch(x, x @ weight.T, weight)


def patterns(seen: Patch, estimator: Estimator, threshold: Tensor | None = None, on: bool = True) -> Tensor:
    """The pattern of every neuron, `[out, k]`.

    Args:
        seen: what the layer saw.
        estimator: `filter` a = w / ‖w‖², `linear`, or `two_component`.
        threshold: `[out]` above which a rectified neuron is on, −bias; 0 if None.
        on: whether `two_component` looks at the samples where the neuron is on (a_+), or off (a_−).

    Returns:
        a with wᵀa = 1; a neuron that is never on, or constant, has the pattern of its filter.
    """
    x, y, weight = seen.inputs, seen.outputs, seen.weight
    fallback = weight / weight.square().sum(1, keepdim=True).clamp_min(1e-300)
    if estimator == "filter":
        return fallback
    if estimator == "linear":
        raw = (y - y.mean(0)).T @ (x - x.mean(0)) / len(x)
    else:
        mask = ((y > (0 if threshold is None else threshold)) == on).double()
        raw = ((mask * y).T @ x - y.mean(0)[:, None] * (mask.T @ x)) / mask.sum(0).clamp_min(1)[:, None]
    norm = (weight * raw).sum(1, keepdim=True)
    scale = weight.norm(dim=1, keepdim=True) * raw.norm(dim=1, keepdim=True)
    return torch.where(norm.abs() > 1e-9 * scale.clamp_min(1e-300), raw / norm, fallback)


def quality(
    seen: Patch, pattern: Tensor, off: Tensor | None = None, threshold: Tensor | None = None, neurons: int | None = None
) -> Tensor:
    """ρ(S) = 1 − max_v corr(wᵀx, vᵀ(x − S(x))): how little of the neuron's output is left in the estimated distractor.

    Args:
        seen: what the layer saw, other samples than the pattern was estimated on.
        pattern: `[out, k]`.
        off: `[out, k]` the pattern where the neuron is off, None for the same.
        threshold: `[out]` above which a neuron is on; 0 if None.
        neurons: look at the first of them only.

    Returns:
        `[neuron]` in [0, 1]; neurons whose output is constant are NaN.
    """
    found = []
    for neuron in range(len(pattern))[:neurons]:
        y = seen.outputs[:, neuron]
        own = pattern[neuron]
        if off is not None:
            lit = y > (0 if threshold is None else threshold[neuron])
            own = torch.where(lit[:, None], own, off[neuron])
        rest = seen.inputs - y[:, None] * own
        rest, y = rest - rest.mean(0), y - y.mean()
        if float(y.norm()) < 1e-9 * len(y) ** 0.5:
            found.append(float("nan"))
            continue
        moments = rest.T @ rest
        ridge = 1e-9 * moments.diagonal().mean() + 1e-300
        fitted = rest @ torch.linalg.solve(moments + ridge * torch.eye(len(moments), dtype=moments.dtype), rest.T @ y)
        found.append(1 - float((fitted @ y) / (fitted.norm() * y.norm()).clamp_min(1e-300)))
    return torch.tensor(found, dtype=torch.float64)
