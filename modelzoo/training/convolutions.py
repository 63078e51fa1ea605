"""The ways to compute a population's convolutions under vmap; all of them give the same numbers, float rounding aside."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.kernels.population_convolution import population_convolution

Way = Callable[[Tensor, Tensor, Tensor | None, tuple[int, int], tuple[int, int]], Tensor]


def grouped(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """What vmap does: models side by side in the channels of one grouped convolution."""
    return torch.conv2d(x, weight, bias, stride, padding)


def channels_last(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The same, pixel by pixel in memory."""
    x, weight = (t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for t in (x, weight))
    return torch.conv2d(x, weight, bias, stride, padding)


def patches(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Patches laid out in memory (im2col), then one batched matrix product."""
    height, width = weight.shape[2:]
    windows = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    windows = windows.unfold(2, height, stride[0]).unfold(3, width, stride[1])  # [B, C, H', W', height, width]
    rows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3)
    y = rows @ weight.flatten(1).T
    return (y if bias is None else y + bias).permute(0, 3, 1, 2)


def own(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """The operation `population_convolution`."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return population_convolution(x.unsqueeze(0), weight.unsqueeze(0), bias.unsqueeze(0), stride, padding).squeeze(0)


WAYS: dict[str, Way] = {"own": own, "grouped": grouped, "channels_last": channels_last, "patches": patches}


def convolution(way: str) -> Callable[..., Tensor]:
    """`torch.conv2d` computed in one of the `WAYS` where it is a plain one: one group, no dilation, numbers for padding."""

    def compute(*args: Any, **kwargs: Any) -> Tensor:
        x, weight, bias, stride, padding = _arguments(*args, **kwargs)
        if stride is None or padding is None:
            return torch.conv2d(*args, **kwargs)
        return WAYS[way](x, weight, bias, stride, padding)

    return compute


def _arguments(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, int] | None, tuple[int, int] | None]:  # fmt: skip
    """Of `torch.conv2d`; no stride and padding for a convolution that is more than those."""
    plain = groups == 1 and _pair(dilation) == (1, 1) and not isinstance(padding, str) and input.ndim == 4
    return input, weight, bias, _pair(stride) if plain else None, _pair(padding) if plain else None


def _pair(value: Any) -> tuple[int, int]:
    both = (value, value) if isinstance(value, int) else tuple(value)
    return both[0], both[-1]
