"""Taylor models, and the catapults of row S077."""

import pandas as pd
import pytest
import torch
from torch.func import functional_call

from analysis.ntk.quadratic_model import catapults
from analysis.ntk.smooth import smooth
from analysis.ntk.taylor import derivative, function_of, parameters_of, taylor
from graphs.verify import double_precision
from modelzoo.family import family
from modelzoo.task import task


@pytest.mark.parametrize("name", ["mlp", "siren", "lstm", "transformer", "neural_ode"])
def test_taylor_models_are_exact_to_their_order(name: str) -> None:
    """Halving the step divides the error of the model of order k by 2^(k+1)."""
    found = family(name)
    chosen = task(found.task)
    inputs = [x.double() if x.is_floating_point() else x for x in chosen.example_inputs(2)]
    fields = {**found.tiny, **({"activation": "tanh"} if "activation" in found.config.model_fields else {})}
    with double_precision(found.build(found.configure(chosen, fields), seed=0)) as module:
        function, center = function_of(module, *inputs), parameters_of(module)
        torch.manual_seed(0)
        direction = {key: torch.randn_like(value) for key, value in center.items()}
        for order in (1, 2):
            model = taylor(function, center, order)
            errors = []
            for step in (4e-4, 2e-4):
                at = {key: value + step * direction[key] for key, value in center.items()}
                errors.append(float((model(at) - functional_call(module, at, tuple(inputs))).norm()))
            assert errors[0] / errors[1] == pytest.approx(2 ** (order + 1), rel=0.1)
    with pytest.raises(ValueError, match="order 3"):
        taylor(function, center, 3)


def row(frame: pd.DataFrame, model: str, rate: float) -> pd.Series:
    return frame[(frame["model"] == model) & (frame["rate"] == rate)].iloc[0]


def test_a_relu_network_and_its_quadratic_model_are_catapulted() -> None:
    """Width 200, 8 samples, 5 seeds; the linearization diverges above 2."""
    frame = catapults((1.0, 2.5, 3.5), steps=110).to_frame()
    for model in ("network", "quadratic"):
        still, spike, leap = (row(frame, model, rate) for rate in (1.0, 2.5, 3.5))
        assert still["peak"] == pytest.approx(1)
        assert still["eigenvalue ratio"] == pytest.approx(1, abs=0.15)
        assert spike["peak"] >= 1.5
        assert spike["eigenvalue ratio"] < 0.85
        assert leap["peak"] >= 8
        assert leap["eigenvalue ratio"] < 0.5
        assert (frame[frame["model"] == model]["diverged"] == 0).all()
        assert (frame[frame["model"] == model]["last"] < 1e-6).all()
    assert row(frame, "linear", 1.0)["last"] < 1e-6
    assert row(frame, "linear", 2.5)["diverged"] == row(frame, "linear", 3.5)["diverged"] == 1


def test_the_two_layer_linear_table() -> None:
    """One sample, target 0, 20 seeds: peaks 88 and 542 times, final rates 1.28 and 0.40."""
    frame = catapults(
        (0.5, 1.9, 2.5, 3.5, 4.5), "linear", width=512, samples=1, features=1, seeds=20, target_scale=0, steps=120,
        orders=("network",),
    ).to_frame()  # fmt: skip
    for rate in (0.5, 1.9):
        assert row(frame, "network", rate)["peak"] == pytest.approx(1)
    assert row(frame, "network", 2.5)["peak"] == pytest.approx(88, rel=0.02)
    assert row(frame, "network", 2.5)["final rate"] == pytest.approx(1.28, abs=0.01)
    assert row(frame, "network", 3.5)["peak"] == pytest.approx(542, rel=0.02)
    assert row(frame, "network", 3.5)["final rate"] == pytest.approx(0.40, abs=0.01)
    assert row(frame, "network", 4.5)["diverged"] == 1


def test_higher_derivatives_of_layer_norm_and_attention() -> None:
    """Second differences of a line through both; torch's own layer norm fails it, which is why ours is written out."""
    torch.manual_seed(0)
    x, d = torch.randn(2, 2, 3, 8, dtype=torch.float64), torch.randn(2, 2, 3, 8, dtype=torch.float64)

    def function(y: torch.Tensor) -> torch.Tensor:
        normed = torch.nn.functional.layer_norm(y, (8,), y[0, 0, 0], y[0, 0, 1])
        return normed + torch.nn.functional.scaled_dot_product_attention(y, 2 * y, y)

    def line(t: torch.Tensor) -> torch.Tensor:
        with smooth():
            return function(x + t * d)

    torch.testing.assert_close(line(torch.tensor(0.0)), function(x), msg="the same function")
    zero, h = torch.zeros((), dtype=torch.float64), 1e-4
    numerical = (function(x + h * d) - 2 * function(x) + function(x - h * d)) / h**2
    torch.testing.assert_close(derivative(derivative(line))(zero), numerical, rtol=1e-5, atol=1e-5)

    def plain(t: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x + t * d, (8,))

    bare = (plain(zero + h) - 2 * plain(zero) + plain(zero - h)) / h**2
    assert not torch.allclose(derivative(derivative(plain))(zero), bare, rtol=1e-2), "then this file can go"
