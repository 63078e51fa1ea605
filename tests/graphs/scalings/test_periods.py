"""The biases of sines carry the integers; a bias that is met elsewhere, or a learned frequency, does not."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphs
from graphs.scalings.periods import PeriodFactor
from graphs.verify import difference
from tests.graphs.scalings.subjects import SUBJECTS


class Wave(nn.Module):
    """A hidden layer whose pre-activation z goes through any function."""

    def __init__(self, function: Callable[["Wave", Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(2, 6), nn.Linear(6, 1), function
        self.frequency = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self, self.first(x)))


def kinds(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, float]:
    group = graphs.symmetry(module, inputs)  # raises when the check in double precision fails
    return {f.name: f.step for f in group.factors if isinstance(f, PeriodFactor)}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda _, z: torch.sin(z), 1.0),
        (lambda _, z: torch.cos(30 * z), 30.0),
        (lambda _, z: torch.sin(2 * (z * 0.5) / 4), 0.25),
        (lambda _, z: torch.sin(3 * z) * torch.cos(3 * z), 3.0),
        (lambda _, z: torch.sin(4 * z) + torch.sin(2 * z), 2.0),  # the longer period is one of both
        (lambda _, z: torch.sin(3 * z) + torch.sin(2 * z), 1.0),
        (lambda _, z: torch.sin(z) + torch.sin(2**0.5 * z), None),
        (lambda _, z: z + torch.sin(z), None),
        (lambda _, z: torch.tanh(z), None),
        (lambda self, z: torch.sin(self.frequency * z), None),
        (lambda _, z: torch.sin(z) + z[:, :1], None),
    ],
)
def test_the_period_of_a_bias(function: Callable[[Wave, Tensor], Tensor], expected: float | None) -> None:
    torch.manual_seed(0)
    found = kinds(Wave(function), (torch.randn(5, 2),))
    assert found == ({} if expected is None else {"period of first.bias": pytest.approx(2 * math.pi / expected)})


def test_siren_has_a_hyperoctahedral_group_and_whole_periods() -> None:
    torch.manual_seed(0)
    module, inputs = SUBJECTS["siren"]()
    group = graphs.symmetry(module, inputs)
    assert sorted(f.kind for f in group.factors) == ["S_8", "S_8", "Z2^8", "Z2^8", "Z^8", "Z^8"]
    assert group.dimension == 0
    assert math.isfinite(group.log_order)


def test_half_a_period_alone_changes_the_function() -> None:
    torch.manual_seed(0)
    module, inputs = SUBJECTS["siren"]()
    group = graphs.symmetry(module, inputs)
    double, wide = module.double(), tuple(x.double() for x in inputs)
    tensors = {name: tensor.detach() for name, tensor in double.named_parameters()}
    one = torch.zeros(8, dtype=torch.float64)
    one[3] = 1
    assert difference(double, tensors, group.element({"period of first.bias": one}), wide)[0] < 1e-12
    assert difference(double, tensors, group.element({"period of first.bias": one / 2}), wide)[0] > 1e-3


def test_signs_and_permutations_carry_whole_periods_to_whole_periods() -> None:
    torch.manual_seed(0)
    module, inputs = SUBJECTS["siren"]()
    group = graphs.symmetry(module, inputs)
    shifts = group.element({"period of first.bias": torch.arange(8.0, dtype=torch.float64) - 4})
    flip = group.element({"sign first.weight[0]": torch.tensor([1, 0, 0, 0, 0, 0, 0, 1])})
    turned = (flip @ shifts @ flip.inverse())["period of first.bias"]
    assert turned.tolist() == [4, -3, -2, -1, 0, 1, 2, -3]
    order = group.element({"first.weight[0]": torch.arange(8).roll(1)[None]})
    assert sorted((order @ shifts @ order.inverse())["period of first.bias"].tolist()) == list(range(-4, 4))
