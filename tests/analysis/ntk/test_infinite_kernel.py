"""Infinite-width kernels against numerical integration, golden values, each other, and wide finite networks."""

from collections.abc import Callable
from math import cos, pi, sqrt

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from analysis.ntk.duals import DUALS, erf, quadrature, relu
from analysis.ntk.empirical import empirical_kernel
from analysis.ntk.infinite_kernel import infinite_kernels
from analysis.ntk.recursions import perceptron_kernels
from modelzoo.errors import UserError


def integrated(a: float, c: float, b: float) -> tuple[float, float]:
    """E[relu relu] and E[step step] over the angle, the radius done by hand (∫ r³ e^(-r²/2) = 2, ∫ r e^(-r²/2) = 1)."""
    rho = c / sqrt(a * b)
    shift = np.arccos(rho)
    low, high = max(-pi / 2, shift - pi / 2), min(pi / 2, shift + pi / 2)
    value = quad(lambda t: cos(t) * cos(t - shift), low, high, epsabs=1e-13, epsrel=1e-13)[0]
    return 2 * sqrt(a * b) * value / (2 * pi), (high - low) / (2 * pi)


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_deep_relu_kernels_equal_numerical_integration(depth: int) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = perceptron_kernels(x, relu, depth, bias=0.1)
    for n, m in ((0, 1), (2, 3), (1, 3)):
        k = {pair: 2.0 * float(x[pair[0]] @ x[pair[1]]) / 3 + 0.1 for pair in ((n, n), (n, m), (m, m))}
        theta = k[n, m]
        for _ in range(depth):
            cross, slope = integrated(k[n, n], k[n, m], k[m, m])
            k = {(n, n): k[n, n] / 2 * 2 + 0.1, (n, m): 2 * cross + 0.1, (m, m): k[m, m] / 2 * 2 + 0.1}
            theta = k[n, m] + 2 * slope * theta
        assert float(ours.nngp[n, m]) == pytest.approx(k[n, m], abs=1e-10)
        assert float(ours.ntk[n, m]) == pytest.approx(theta, abs=1e-10)


def test_equal_samples_lose_no_digits() -> None:
    x = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        a = (x * x).sum(1)
        value, slope = relu(a, a, a)
        torch.testing.assert_close(value, a / 2, rtol=1e-14, atol=0)
        torch.testing.assert_close(slope, torch.full_like(a, 0.5), rtol=1e-14, atol=0)
        x = x * 1.7


def test_the_circle() -> None:
    """Two-layer ReLU network without biases: the spectrum on the circle; odd frequencies from 3 on vanish."""
    count = 2**12
    t = torch.arange(count, dtype=torch.float64) * 2 * pi / count
    x = torch.cat([torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.stack([t.cos(), t.sin()], 1)]) * sqrt(2)
    small = x[:1], x[1:]
    a, c = torch.ones(1, dtype=torch.float64), (small[0] @ small[1].T / 2)[0].clamp(-1, 1)
    value, slope = relu(a, c, a)
    spectrum = torch.fft.rfft(2 * value + 2 * slope * c).real / count / 2
    exact = [3 / pi**2, 0.25]
    np.testing.assert_allclose(spectrum[:2], exact, atol=1e-6)
    np.testing.assert_allclose(spectrum[:5], [0.303984, 0.25, 0.078826, 0, 0.008576], atol=5e-5)
    assert spectrum[3::2].abs().max() < 1e-12
    assert perceptron_kernels(x[1:9], relu, 1, 2.0, 0.0, 1.0).ntk[0, 2] == pytest.approx(float((2 * value + 2 * slope * c)[2]))  # fmt: skip


@pytest.mark.parametrize(("name", "function"), [("erf", torch.erf), ("identity", lambda x: x)])
def test_closed_forms_equal_quadrature(name: str, function: Callable[[Tensor], Tensor]) -> None:
    draw = torch.Generator().manual_seed(2)
    root = torch.randn(50, 2, 2, generator=draw, dtype=torch.float64) * 0.6
    covariance = root @ root.mT
    a, c, b = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    for ours, numerical in zip(DUALS[name](a, c, b), quadrature(function)(a, c, b), strict=True):
        torch.testing.assert_close(ours, numerical, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(erf(a, c, b)[0], quadrature(torch.tanh)(a, c, b)[0], rtol=1e-3)


def test_gelu_equals_its_closed_form_on_the_diagonal() -> None:
    """E[gelu(u)²] = σ²(1/4 + arcsin(σ²/(1+σ²))/2π + σ²/(π (1+σ²) √(1+2σ²))) for u ~ N(0, σ²)."""
    v = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.float64)
    closed = v * (0.25 + torch.arcsin(v / (1 + v)) / (2 * pi) + v / (pi * (1 + v) * (1 + 2 * v).sqrt()))
    torch.testing.assert_close(DUALS["gelu"](v, v, v)[0], closed, rtol=1e-9, atol=1e-12)


class Scaled(nn.Linear):
    """Tangent parametrization: √(2/n) W x, W ~ N(0, 1)."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x * sqrt(2 / self.in_features), self.weight)


def wide(width: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(Scaled(4, width, False), nn.ReLU(), Scaled(width, width, False), nn.ReLU(), Scaled(width, 1, False))  # fmt: skip


def test_finite_networks_approach_it_like_one_over_root_width() -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
    limit = perceptron_kernels(x, relu, 2).ntk
    widths = [64, 128, 256, 512, 1024]
    errors = [
        np.mean([float((empirical_kernel(wide(width, seed), x, form="trace").values - limit).norm() / limit.norm()) for seed in range(30)])
        for width in widths
    ]  # fmt: skip
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.12)
    other = perceptron_kernels(x, relu, 3).ntk
    wrong = empirical_kernel(wide(1024, 0), x, form="trace").values
    assert (wrong - other).norm() / other.norm() > 3 * errors[-1], "control: the kernel of another depth"


@pytest.mark.parametrize(
    "tail",
    [
        [nn.Flatten(), nn.Linear(64 * 9, 4)],
        [nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(64 * 4, 4)],
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)],
    ],
    ids=["flatten", "pool", "global"],
)
def test_convolutions_and_pooling_against_an_ensemble(tail: list[nn.Module]) -> None:
    """Means over networks: the NNGP kernel from outputs, the tangent kernel from empirical ones."""
    x = torch.randn(3, 2, 6, 5, generator=torch.Generator().manual_seed(4))
    module = nn.Sequential(nn.Conv2d(2, 64, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.GELU(), *tail)  # fmt: skip
    ntk, outputs = [], []
    for seed in range(24):
        torch.manual_seed(seed)
        for part in module:
            if isinstance(part, nn.Linear | nn.Conv2d):
                nn.init.normal_(part.weight, std=sqrt(1.8 / part.weight[0].numel()))
                nn.init.normal_(part.bias, std=0.3)
        ntk.append(empirical_kernel(module, x, form="trace", reduction="mean").values)
        outputs.append(module(x).detach())
    found = infinite_kernels(module, x, weight=1.8, bias=0.09, standard=True)
    kernels = torch.stack(ntk)
    mean, spread = kernels.mean(0), float(kernels.std(0).norm() / len(kernels) ** 0.5)
    assert spread < 0.08 * mean.norm()
    assert (mean - found.ntk).norm() < 3 * spread
    if isinstance(tail[0], nn.AvgPool2d):
        other = infinite_kernels(module, x, weight=2.2, bias=0.09, standard=True)
        assert (mean - other.ntk).norm() > 3 * spread, "control: other weights"
    products = torch.stack([y @ y.T / y.shape[1] for y in outputs])
    assert (products.mean(0) - found.nngp).norm() < 3 * products.std(0).norm() / len(products) ** 0.5


def test_a_sum_of_branches_and_what_has_no_recursion() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return h + 0.5 * self.second(h.relu())

    x = torch.randn(5, 3)
    found = infinite_kernels(Residual(), x, weight=2.0)
    once, twice = (perceptron_kernels(x, relu, depth) for depth in (0, 1))
    torch.testing.assert_close(found.ntk, once.ntk + 0.25 * twice.ntk)
    with pytest.raises(UserError, match=r"aten\.native_layer_norm.* has no infinite-width recursion"):
        infinite_kernels(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), x)
    with pytest.raises(UserError, match="grouped"):
        infinite_kernels(nn.Conv2d(2, 2, 3, groups=2), torch.randn(2, 2, 4, 4))
