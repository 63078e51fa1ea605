"""The written-out solver against torchdiffeq, its order, and the flow it integrates."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from modelzoo.families.continuous.neural_ode import NeuralODE, NeuralODEConfig


def build(**fields: Any) -> NeuralODE:
    torch.manual_seed(0)
    return NeuralODE(NeuralODEConfig(**{"hidden": (8,), "times": 6, "horizon": 2.0, **fields})).double()


@pytest.mark.parametrize("steps", [1, 3])
def test_equals_torchdiffeq(steps: int) -> None:
    module, x = build(steps=steps), torch.randn(5, 2, dtype=torch.double)
    fine = torch.linspace(0, 2, 5 * steps + 1, dtype=torch.double)
    expected = odeint(lambda t, y: module.velocity(y), x, fine, method="rk4")[::steps].transpose(0, 1)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-13)


def test_is_of_fourth_order() -> None:
    x = torch.randn(5, 2, dtype=torch.double)
    module = build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
        exact = odeint(lambda t, y: module.velocity(y), x, torch.tensor([0.0, 2.0]).double(), rtol=1e-11, atol=1e-12)[1]
        errors = []
        for steps in (2, 4):
            finer = build(steps=steps)
            finer.load_state_dict(module.state_dict())
            errors.append(float((finer(x)[:, -1] - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.4)


def test_exponential_of_a_linear_flow() -> None:
    """With a velocity A x the end is exp(A · horizon) x; tanh is linear for tiny states."""
    module = build(hidden=(2,), steps=8)
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.double)
    with torch.no_grad():
        first, last = module.velocity[0], module.velocity[2]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        first.weight.copy_(torch.eye(2))
        last.weight.copy_(rotation)
        first.bias.zero_()
        last.bias.zero_()
        x: Tensor = 1e-5 * torch.randn(3, 2, dtype=torch.double)
        torch.testing.assert_close(module(x)[:, -1], x @ torch.matrix_exp(2 * rotation).T, rtol=1e-5, atol=1e-12)
        assert torch.equal(module(x)[:, 0], x)
