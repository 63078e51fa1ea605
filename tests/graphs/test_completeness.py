"""Functional dimension against counts known in closed form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphs import symmetry
from graphs.completeness import completeness, functional_dimension, numerical_rank
from modelzoo.errors import UserError

X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))


class Power(nn.Module):
    def __init__(self, exponent: int) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, x: Tensor) -> Tensor:
        return x**self.exponent


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


def network(activation: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 4), activation, nn.Linear(4, 1))


@pytest.mark.parametrize(("activation", "rank"), [
    (nn.Identity(), 3),  # w·x + b: three numbers
    (Power(2), 6),  # quadratic polynomials in two variables
    (Power(3), 10),  # cubic ones
    (nn.Tanh(), 17), (nn.GELU(), 17), (nn.Sigmoid(), 17), (nn.SiLU(), 17),  # all parameters
    (Sine(), 17),
    (nn.ReLU(), 13), (nn.LeakyReLU(0.2), 13),  # all but one scale a unit
])  # fmt: skip
def test_functional_dimension_of_2_4_1(activation: nn.Module, rank: int) -> None:
    found = functional_dimension(network(activation), (X,), generic=True)
    assert (found.parameters, found.rank) == (17, rank)
    assert found.stable
    assert found.gap > 1e3, "the cut between singular values is clear"


@pytest.mark.parametrize(("activation", "hidden"), [(lambda: nn.LeakyReLU(0.2), 8), (Sine, 0)], ids=["leaky", "sine"])
def test_continuous_symmetries_of_3_4_4_2(activation: Callable[[], nn.Module], hidden: int) -> None:
    """One scale a unit, or none. (ReLU's 8 is certified in tests/analysis/symmetry/test_modular_rank.py.)"""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), activation(), nn.Linear(4, 4), activation(), nn.Linear(4, 2))
    found = functional_dimension(module, (torch.randn(8, 3),), generic=True)
    assert found.parameters - found.rank == hidden
    assert found.ranks[-1] == (found.inputs, found.rank)
    assert found.reached <= found.inputs
    assert len(found.spectrum) == found.parameters


@pytest.mark.parametrize(("bias", "rank"), [(False, 4), (True, 6)])
def test_bilinear_layer(bias: bool, rank: int) -> None:
    """A quadratic form in two variables has 3 coefficients, the last bias is the fourth; with biases all 6 of degree 2."""

    class Bilinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.out = nn.Linear(2, 4, bias), nn.Linear(2, 4, bias), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.left(x) * self.right(x))

    torch.manual_seed(0)
    assert functional_dimension(Bilinear(), (X,), generic=True).rank == rank


def test_batch_norm_statistics_count_as_parameters() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1))
    found = functional_dimension(module, (X,), generic=True)
    assert found.parameters == sum(p.numel() for p in module.parameters()) + 6
    # per unit: (weights, bias, mean, variance, gain, shift) make one affine map of the inputs, 8 numbers for 3
    assert found.rank == found.parameters - 3 * 4


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.GELU()])
def test_the_group_of_a_plain_network_is_complete(activation: nn.Module) -> None:
    module = network(activation)
    found = completeness(symmetry(module, (X,)), module, (X,))
    assert found.hidden == 0
    assert "complete" in found.sentence


def test_what_fixes_the_weights_is_not_counted() -> None:
    """3-4-4-2 without activations: GL(4)² and both biases, 40 dimensions, of which 2 leave generic weights alone."""
    torch.manual_seed(0)
    module, inputs = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)), (torch.randn(6, 3),)
    found = completeness(symmetry(module, inputs), module, inputs)
    assert (found.dimension, found.orbit, found.hidden) == (40, 38, 0)
    assert "of which 2 fix this point" in found.sentence


def test_an_orthogonal_group_moves_along_rotations_only() -> None:
    class Length(nn.Module):
        """|W x|."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.weight.T).square().sum(-1)

    torch.manual_seed(0)
    module, inputs = Length(), (torch.randn(6, 4),)
    group = symmetry(module, inputs)
    assert [factor.kind for factor in group.factors] == ["O(3)"]
    found = completeness(group, module, inputs)
    assert (found.dimension, found.orbit, found.hidden) == (3, 3, 0)


def test_tied_and_complex_parameters_are_counted_once_and_twice() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2, bias=False)
            self.b = self.a
            self.phase = nn.Parameter(torch.randn(2, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (self.phase * self.b(torch.tanh(self.a(x)))).real

    torch.manual_seed(0)
    found = functional_dimension(Tied(), (X,), generic=True)
    assert found.parameters == 4 + 4
    assert found.rank == 6  # imaginary parts do nothing


def test_large_modules_are_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"has 18,\d{3} parameters; the functional dimension costs their cube"):
        functional_dimension(nn.Linear(2, 6000), (X,))


def test_too_few_inputs_are_said_to_be_too_few() -> None:
    found = functional_dimension(network(nn.Tanh()), (X,), max_inputs=1)
    assert not found.stable
    assert found.rank < 17


def test_numerical_rank_of_a_zero_matrix() -> None:
    assert numerical_rank(torch.zeros(3).numpy()) == (0, float("inf"))
