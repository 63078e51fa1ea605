"""Kernel regression, and permutations learnt from unit vectors (row S055)."""

from math import sqrt

import pytest
import torch
from torch import nn

from analysis.analysis import find
from analysis.ntk.empirical import empirical_kernel
from analysis.ntk.exact_permutations import ExactPermutations, binary_inputs, ensemble_size, predictions
from analysis.ntk.regression import alignment, gaussian_limit, regress


def problem() -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(9, 30, generator=draw, dtype=torch.float64)
    kernel = features @ features.T
    return kernel[:6, :6], kernel[6:, :6], torch.randn(6, 2, generator=draw, dtype=torch.float64), kernel


def test_regression_interpolates_and_is_the_end_of_the_flow() -> None:
    train, cross, y, _ = problem()
    torch.testing.assert_close(regress(train, train, y), y)
    f = torch.zeros_like(y)
    steps, length = 4000, 2.0 / 4000
    for _ in range(steps):  # explicit Euler on the flow of outputs
        f = f - length * train @ (f - y)
    torch.testing.assert_close(regress(train, train, y, time=2.0), f, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(regress(train, train, y, time=0.02), f, atol=1e-2)
    torch.testing.assert_close(regress(train, cross, y, time=1e6), regress(train, cross, y))
    start = torch.ones(6, 2), torch.full((3, 2), 3.0)
    torch.testing.assert_close(regress(train, cross, y, start, time=0.0), start[1].double())
    assert regress(train, train, y, ridge=10).norm() < 0.5 * y.norm()


def test_the_gaussian_limit_is_that_of_linear_models() -> None:
    """f = w·x from w ~ N(0, 1), trained to interpolate: means and variances over starts."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(5, 8, generator=draw, dtype=torch.float64)
    y = torch.randn(3, 1, generator=draw, dtype=torch.float64)
    kernel = x @ x.T
    mean, variance = gaussian_limit(kernel, kernel, 3, y)
    w = torch.randn(20_000, 8, generator=draw, dtype=torch.float64)
    trained = w + (y[:, 0] - w @ x[:3].T) @ torch.linalg.pinv(x[:3]).T
    out = trained @ x[3:].T
    torch.testing.assert_close(mean[:, 0], out.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(variance, out.var(0), rtol=0.05, atol=0)


def test_alignment() -> None:
    y = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    assert alignment(y @ y.T, y) == pytest.approx(1)
    assert abs(alignment(torch.eye(7), y)) < 0.9


@pytest.mark.parametrize("bits", [4, 7, 10])
def test_every_permutation_of_bits_is_decoded_on_every_input(bits: int) -> None:
    permutation = torch.randperm(bits, generator=torch.Generator().manual_seed(bits))
    mean, _ = predictions(bits, permutation)
    x = binary_inputs(bits)
    truth = x[:, permutation]
    assert torch.equal(mean > 1e-9, truth > 0)
    assert mean[truth > 0].min() >= {4: 0.637, 7: 0.518, 10: 0.4439}[bits]
    several = x.sum(1) > 1
    assert mean[several][truth[several] == 0].max() <= -0.013
    assert mean[~several][truth[~several] == 0].abs().max() < 1e-12, "training inputs are fitted exactly"
    assert not torch.equal(mean > 1e-9, x[:, permutation.flip(0)] > 0), "control: another permutation"


def test_ensembles_grow_within_the_bounds_of_the_theorem() -> None:
    found = find("exact_permutations").run()
    assert isinstance(found, ExactPermutations)
    one, every = found.exponents
    assert 1 < one < 2.5
    assert one < every < 2.5
    assert (found.rows["exact"] == 1).all()


def test_the_ensemble_size_is_what_sampling_finds() -> None:
    bits = 5
    permutation = torch.arange(bits).flip(0)
    mean, variance = predictions(bits, permutation)
    truth = binary_inputs(bits)[:, permutation]
    size, _ = ensemble_size(mean, variance, truth)
    cut = (mean[truth > 0].min() + mean[truth == 0].max()) / 2
    gaps = (mean - cut).abs() / variance.sqrt()[:, None]
    worst = int(gaps.min(1).values.argmin())
    draw = torch.Generator().manual_seed(0)
    rates = []
    for count in (round(size), round(size / 4)):
        noise = torch.randn(4000, bits, generator=draw, dtype=torch.float64) * (variance[worst] / count).sqrt()
        rates.append(float((((mean[worst] + noise) > cut) == (truth[worst] > 0)).all(1).double().mean()))
    assert rates[0] == pytest.approx(0.95, abs=0.015)
    assert rates[1] < 0.9, "control: a quarter of them is not enough"


def test_finite_networks_predict_the_same_mean() -> None:
    bits, width = 5, 4096
    x = torch.cat([torch.eye(bits), binary_inputs(bits).float()])
    permutation = torch.tensor([2, 0, 1, 4, 3])
    y = torch.eye(bits)[:, permutation]
    mean, _ = predictions(bits, permutation)
    total = torch.zeros_like(mean)
    for seed in range(4):
        torch.manual_seed(seed)
        first, second = nn.Linear(bits, width, bias=False), nn.Linear(width, 1, bias=False)
        nn.init.normal_(first.weight, std=sqrt(2 / bits))
        nn.init.normal_(second.weight, std=sqrt(2 / width))
        # in the tangent parametrization both layers have the same rate in units of their spread
        scales = {"0.weight": 2 / bits, "2.weight": 2 / width}
        module = nn.Sequential(first, nn.ReLU(), second)
        theta = sum(rate * empirical_kernel(module, x, form="trace", parameters=[name]).values for name, rate in scales.items())  # fmt: skip
        total += regress(theta[:bits, :bits], theta[bits:, :bits], y) / 4
    assert (total - mean).norm() / mean.norm() < 0.1
