"""Kernels of infinitely wide networks, layer by layer.

K is the covariance of pre-activations over random weights (the NNGP kernel) and Θ the tangent kernel:

    linear:      K' = C_W A[K] + C_b,   Θ' = t(A[K]) + C_W A[Θ]
    activation:  K' = E[φ(u) φ(v)],     Θ' = E[φ'(u) φ'(v)] Θ     for (u, v) ~ N(0, K)

where A averages over what a unit sees (the taps of a convolution, all pixels of a flattened image), and t is C_W A[K] + C_b
in the tangent parametrization (weights √(C_W/n) w, w ~ N(0, 1)) and n A[K] + 1 in the standard one of fan-in n.

Papers: Neural Tangent Kernel: Convergence and Generalization in Neural Networks (Jacot et al., 2018); On Exact Computation
with an Infinitely Wide Neural Net (Arora et al., 2019), for convolutions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from analysis.ntk.duals import Dual


@dataclass(frozen=True)
class Kernels:
    """The two kernels of one layer between all samples, `[N, N]`, for images `[N, N, H, W, H, W]` between all pixels.

    Args:
        nngp: K.
        ntk: Θ.
    """

    nngp: Tensor
    ntk: Tensor

    @property
    def spatial(self) -> bool:
        """Whether there are pixels."""
        return self.nngp.ndim > 2

    def linear(self, weight: float, bias: float, fan_in: int | None = None) -> "Kernels":
        """A linear layer.

        Args:
            weight: C_W.
            bias: C_b, 0 for none.
            fan_in: n in the standard parametrization, None for the tangent parametrization.
        """
        nngp = weight * self.nngp + bias
        own = nngp if fan_in is None else fan_in * self.nngp + (bias > 0)
        return Kernels(nngp, own + weight * self.ntk)

    def activation(self, dual: Dual) -> "Kernels":
        """A pointwise activation."""
        if self.spatial:
            sizes = self.nngp.shape
            k = self.nngp.flatten(4).flatten(2, 3)  # [N, N, P, P]
            variance = k.diagonal(dim1=2, dim2=3).diagonal(dim1=0, dim2=1).T  # [N, P]
            value, slope = dual(variance[:, None, :, None], k, variance[None, :, None, :])
            return Kernels(value.view(sizes), slope.view(sizes) * self.ntk)
        variance = self.nngp.diagonal()
        value, slope = dual(variance[:, None], self.nngp, variance[None])
        return Kernels(value, slope * self.ntk)

    def patches(
        self, kernel: Sequence[int], stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
    ) -> "Kernels":  # fmt: skip
        """A of a convolution: the mean over its taps, zero where they fall on padding."""

        def mean(k: Tensor) -> Tensor:
            (top, left), (height, width) = padding, kernel
            k = F.pad(k, (left, left, top, top, left, left, top, top))
            rows, columns = k.shape[2], k.shape[3]
            total: Tensor | float = 0.0
            for y in range(height):
                for x in range(width):
                    ys = slice(y * dilation[0], rows - (height - 1 - y) * dilation[0], stride[0])
                    xs = slice(x * dilation[1], columns - (width - 1 - x) * dilation[1], stride[1])
                    total = total + k[:, :, ys, xs, ys, xs]
            assert isinstance(total, Tensor)
            return total / (height * width)

        return Kernels(mean(self.nngp), mean(self.ntk))

    def pooled(self, kernel: Sequence[int], stride: Sequence[int]) -> "Kernels":
        """Average pooling over windows."""

        def pool(k: Tensor) -> Tensor:
            for _ in range(2):  # over the pixels of one side, then of the other
                lead = k.shape[:4]
                k = F.avg_pool2d(k.flatten(0, 3).unsqueeze(1), tuple(kernel), tuple(stride))[:, 0].unflatten(0, lead)
                k = k.permute(0, 1, 4, 5, 2, 3)
            return k

        return Kernels(pool(self.nngp), pool(self.ntk))

    def global_pool(self) -> "Kernels":
        """The mean over all pixels."""
        return Kernels(self.nngp.mean((2, 3, 4, 5)), self.ntk.mean((2, 3, 4, 5)))

    def flatten(self) -> "Kernels":
        """Pixels become features: the mean over pixels with themselves."""

        def mean(k: Tensor) -> Tensor:
            return k.flatten(4).flatten(2, 3).diagonal(dim1=2, dim2=3).mean(-1)

        return Kernels(mean(self.nngp), mean(self.ntk)) if self.spatial else self

    def __add__(self, other: "Kernels") -> "Kernels":
        """A sum of two branches of which at least one ends in weights of its own, so that they are uncorrelated."""
        return Kernels(self.nngp + other.nngp, self.ntk + other.ntk)

    def scaled(self, factor: float) -> "Kernels":
        """The layer times a constant."""
        return replace(self, nngp=self.nngp * factor**2, ntk=self.ntk * factor**2)


def input_kernels(x: Tensor) -> Kernels:
    """Of data `[N, features]` or images `[N, C, H, W]`: K = x xᵀ / features (per pixel / C), Θ = 0; in float64."""
    x = x.double()
    k = x @ x.T / x.shape[1] if x.ndim == 2 else x.movedim(1, -1).flatten(0, 2) @ x.movedim(1, -1).flatten(0, 2).T / x.shape[1]  # fmt: skip
    if x.ndim == 4:
        n, _, height, width = x.shape
        k = k.view(n, height, width, n, height, width).permute(0, 3, 1, 2, 4, 5)
    return Kernels(k, k.new_zeros(()).expand_as(k))


def perceptron_kernels(
    x: Tensor, dual: Dual, hidden: int, weight: float = 2.0, bias: float = 0.0, first: float | None = None
) -> Kernels:
    """A fully connected network in the tangent parametrization.

    Args:
        x: `[N, features]`.
        dual: of its activation.
        hidden: number of hidden layers.
        weight: C_W of every layer.
        bias: C_b.
        first: C_W of the first layer, None for `weight`.
    """
    kernels = input_kernels(x).linear(weight if first is None else first, bias)
    for _ in range(hidden):
        kernels = kernels.activation(dual).linear(weight, bias)
    return kernels
