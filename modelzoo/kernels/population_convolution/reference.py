"""One grouped convolution, models side by side in the channels. Reads x, w, b; writes y."""

from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight


def _grouped(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1, 2)  # [B, M C, H, W]


def forward(x: Tensor, w: Tensor, bias: Tensor, stride: list[int], padding: list[int]) -> Tensor:
    """See `population_convolution`."""
    y = F.conv2d(_grouped(x), w.flatten(0, 1), bias.flatten(), stride, padding, groups=len(x))
    return y.unflatten(1, w.shape[:2]).transpose(0, 1).contiguous()


def backward(
    gradient: Tensor, x: Tensor, w: Tensor, stride: list[int], padding: list[int], inner: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `population_convolution`."""
    given, models, entering = _grouped(gradient), len(x), _grouped(x)
    kernels = w.flatten(0, 1)
    dw = conv2d_weight(entering, kernels.shape, given, stride, padding, groups=models).view(w.shape)
    dx = x.new_empty(0, *x.shape[1:])
    if inner:
        dx = conv2d_input(entering.shape, kernels, given, stride, padding, groups=models)
        dx = dx.unflatten(1, (models, -1)).transpose(0, 1).contiguous()
    return dx, dw, gradient.sum((1, 3, 4))
