"""The linear recurrent unit against its dense matrix form, its stability and its normalisation."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelzoo.families.statespace.lru import LRUConfig, LRULayer


def layer(seed: int, **fields: Any) -> LRULayer:
    torch.manual_seed(seed)
    return LRULayer(LRUConfig(**{"width": 4, "state": 6, **fields}))


def test_equals_the_dense_complex_recurrence() -> None:
    unit = layer(0).double()
    unit.input.data, unit.output.data = unit.input.data.to(torch.cdouble), unit.output.data.to(torch.cdouble)
    x = torch.randn(3, 11, 4, dtype=torch.double)
    a = torch.diag(torch.exp(torch.complex(-unit.nu.exp(), unit.theta.exp())))
    b = torch.diag(unit.gamma.exp()).to(torch.cdouble) @ unit.input
    for time in range(11):  # y_t = Re(C Σ_k A^k B x_{t-k}) + D x_t
        total = sum(x[:, time - k].to(torch.cdouble) @ (torch.linalg.matrix_power(a, k) @ b).T for k in range(time + 1))
        expected = (total @ unit.output.T).real + unit.skip * x[:, time]
        torch.testing.assert_close(unit(x)[:, time], expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(-8, 8), st.floats(-8, 8))
def test_every_parameter_value_is_stable(nu: float, theta: float) -> None:
    unit = layer(0)
    with torch.no_grad():
        unit.nu.fill_(nu)
        unit.theta.fill_(theta)
        x = torch.zeros(1, 200, 4)
        x[:, 0] = 1
        y = unit(x)
    assert y[:, 1:].isfinite().all()
    assert y[:, 150:].abs().max() <= y[:, 1:].abs().max() + 1e-6


def test_eigenvalues_start_in_the_ring() -> None:
    unit = layer(1, state=500, smallest=0.4, largest=0.9, phase=0.5)
    radius, phase = (-unit.nu.detach().exp()).exp(), unit.theta.detach().exp()
    assert 0.4 <= float(radius.min()) < float(radius.max()) <= 0.9
    assert 0 < float(phase.min()) < float(phase.max()) <= 0.5


def test_gamma_keeps_the_variance_of_the_state() -> None:
    """White noise of unit variance gives an output of unit variance with γ, and a much larger one without."""
    unit = layer(2, width=64, state=64, smallest=0.98, largest=0.99)
    with torch.no_grad():
        x = torch.randn(8, 600, 64)
        unit.skip.zero_()

        def output_variance() -> float:
            return float(unit(x)[:, 300:].var())

        normalised = output_variance()
        unit.gamma.zero_()
        assert 0.7 < normalised < 1.3
        assert output_variance() / normalised > 9
