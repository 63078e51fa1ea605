"""S085: the verdict of the theorem agrees with what is measured, and the rule tables of `graphs` follow it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.symmetry.pointwise_activations import (
    EXACT,
    Activation,
    admissible,
    equivariance_residual,
    equivariance_table,
    standard_matrices,
)
from graphs.scalings.rules.pointwise import RESPONSE

F = torch.nn.functional
ACTIVATIONS: dict[str, Activation] = {
    "identity": lambda x: x, "relu": F.relu, "leaky relu": lambda x: F.leaky_relu(x, 0.2), "abs": torch.abs,
    "tanh": torch.tanh, "sin": torch.sin, "cos": torch.cos, "gelu": F.gelu, "silu": F.silu, "sigmoid": torch.sigmoid,
    "softplus": F.softplus, "elu": F.elu, "square": torch.square, "cube": lambda x: x**3,
}  # fmt: skip
CLASSES = {
    "identity": "any matrix", "relu": "non-negative monomial matrices", "leaky relu": "non-negative monomial matrices",
    "abs": "monomial matrices", "square": "monomial matrices", "cube": "monomial matrices",
    "tanh": "signed permutations", "sin": "signed permutations", "cos": "signed permutations",
    "gelu": "permutations", "silu": "permutations", "sigmoid": "permutations", "softplus": "permutations",
    "elu": "permutations",
}  # fmt: skip
MATRICES = standard_matrices()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_class_of_an_activation(name: str) -> None:
    assert str(admissible(ACTIVATIONS[name])) == CLASSES[name]


def test_verdicts_agree_with_residuals_on_all_pairs() -> None:
    found = equivariance_table(ACTIVATIONS, MATRICES)
    assert found.residuals.size >= 30
    assert found.agree
    assert np.all(found.residuals[~found.admitted] > 1e-3), "what is not admitted fails by a margin"
    assert len(found.to_frame()) == found.residuals.size
    assert len(found.plot().data) == 2


def test_the_numbers_of_the_paper_s_examples() -> None:
    residual = {(a, m): equivariance_residual(ACTIVATIONS[a], MATRICES[m]) for a in ACTIVATIONS for m in MATRICES}
    assert residual["relu", "diag(2, 3)"] < EXACT
    assert residual["tanh", "diag(2, 3)"] > 0.05
    assert residual["relu", "signed permutation"] > 0.5
    assert residual["tanh", "signed permutation"] < EXACT
    assert residual["sin", "signed permutation"] < EXACT
    for name in ACTIVATIONS:
        assert residual[name, "trivial"] < EXACT
        assert residual[name, "permutation"] < EXACT
        assert (residual[name, "rotation by 30°"] < EXACT) == (name == "identity")


def evaluate(name: str, x: Tensor) -> Tensor:
    return F.hardtanh(x) if name == "hardtanh" else getattr(torch.ops.aten, name)(x)


@pytest.mark.parametrize("name", RESPONSE)
def test_the_response_table_of_the_scaling_rules(name: str) -> None:
    """Degree and parity as stated, and nothing less than stated: an entry that could be stronger fails too."""
    degree, parity = RESPONSE[name]
    x = torch.linspace(0.05, 0.45, 41, dtype=torch.float64)
    x = torch.cat([-x, x])
    value, double, opposite = evaluate(name, x), evaluate(name, 2 * x), evaluate(name, -x)
    if name == "hardtanh":  # linear inside, so look outside too
        x = torch.linspace(-3, 3, 61, dtype=torch.float64)
        value, double, opposite = evaluate(name, x), evaluate(name, 2 * x), evaluate(name, -x)
    measured = [d for d in (-2, -1, 0, 1, 2) if torch.allclose(double, 2.0**d * value)]
    assert measured == ([] if degree is None else [degree])
    odd, even = torch.allclose(opposite, -value), torch.allclose(opposite, value)
    assert (odd, even) == (parity == "odd", parity == "even") or name == "hardtanh"  # its bounds need not be symmetric
