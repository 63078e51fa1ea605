"""Depth of residual networks (S071): sizes, diversity of layers, transfer of rates."""

from functools import cache

import pytest
import torch

from analysis.parametrization.depth_scaling import SCALINGS, DepthScaling, diversity_exponent, measure


@cache
def small() -> DepthScaling:
    return measure(tuple(SCALINGS), (8, 32), (0.25, 1.0), steps=8)


def test_branches_over_root_depth_stay_alive_and_stay_apart() -> None:
    found = small()
    for column in ("size", "first change", "diversity"):
        assert abs(found.slope("depth_mup", column)) < 0.1
        assert found.slope("none", column) > 0.3, "control: without scaling everything grows"
    assert found.slope("ode", "diversity") < -0.4, "neighbouring layers become the same"


def test_exponents_of_random_walks_and_of_smooth_paths() -> None:
    steps = torch.randn(257, 4, 500, generator=torch.Generator().manual_seed(0))
    assert diversity_exponent(steps.cumsum(0)) == pytest.approx(0.5, abs=0.02)
    assert diversity_exponent(torch.linspace(0, 1, 257)[:, None, None] * steps[0]) == pytest.approx(1, abs=1e-4)


def test_best_rates_and_divergence() -> None:
    found = small()
    assert found.shift("depth_mup") <= 1
    assert found.shift("none") >= 1
    assert "diversity exponent" in found.sentence
    assert found.plot().data


@pytest.mark.slow
def test_rates_transfer_over_depth() -> None:
    """Depths 8 to 64: best rates within a factor 2 in depth-μP, 4 or more without scaling."""
    found = measure(("depth_mup",), (8, 64), tuple(2.0**k for k in range(-3, 3)), steps=30)
    assert found.shift("depth_mup") <= 1
    plain = measure(("none",), (8, 16), tuple(2.0**k for k in range(-9, 1)), steps=30)
    assert plain.shift("none") >= 2
