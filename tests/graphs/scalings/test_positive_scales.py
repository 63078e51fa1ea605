"""Positive scales through comparisons with zero, and one common scale through a norm that divides it out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphs


class Hidden(nn.Module):
    """A hidden layer through any function, optionally with a linear map behind it."""

    def __init__(self, function: Callable[[Tensor], Tensor], after: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2) if after else nn.Identity()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def scales(module: nn.Module) -> list[str]:
    torch.manual_seed(0)
    group = graphs.symmetry(module, (torch.randn(4, 3),))  # raises when the check in double precision fails
    return [factor.kind for factor in group.factors if factor.kind.startswith("R+")]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda z: torch.where(z > 0, z, 0.3 * z), ["R+^5"]),
        (lambda z: torch.where(z <= 0, 0.3 * z, z), ["R+^5"]),
        (lambda z: z.masked_fill(z < 0, 0.0), ["R+^5"]),
        (lambda z: torch.where(z > 0.5, z, 0.3 * z), []),
        (lambda z: torch.where(z > z.mean(-1, keepdim=True), z, 0.3 * z), []),
        (lambda z: (z > 0).to(z) + z, []),
    ],
)
def test_only_comparisons_with_zero_do_not_see_scales(
    function: Callable[[Tensor], Tensor], expected: list[str]
) -> None:
    assert scales(Hidden(function)) == expected


def test_prelu_carries_scales_and_keeps_its_slopes() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.PReLU(5), nn.Linear(5, 2))
    group = graphs.symmetry(module, (torch.randn(4, 3),))
    (scale,) = (factor for factor in group.factors if factor.kind == "R+^5")
    assert {str(slot) for slot in scale.slots} == {"0.weight[0]", "0.bias[0]", "2.weight[1]"}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda z: z / z.norm(dim=1, keepdim=True), ["R+"]),
        (lambda z: torch.relu(z) / torch.relu(z).sum(1, keepdim=True), ["R+"]),
        (lambda z: z / z.abs().amax(1, keepdim=True), ["R+"]),
        (lambda z: z / (1 + z.norm(dim=1, keepdim=True)), []),
    ],
)
def test_a_common_scale_is_divided_out_by_a_norm(function: Callable[[Tensor], Tensor], expected: list[str]) -> None:
    assert scales(Hidden(function, after=False)) == expected
