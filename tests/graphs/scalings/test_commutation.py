"""Branches of a product that are computed alike change places, unit by unit; others do not."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphs import SymmetryGroup, symmetry
from graphs.scalings.commutation import SwapFactor


class Bilinear(nn.Module):
    """(W x) ⊙ (V x), optionally with a nonlinearity in one branch or in both."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.w, self.v, self.out = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.left(self.w(x)) * self.right(self.v(x)))


def inferred(left: nn.Module, right: nn.Module) -> tuple[nn.Module, SymmetryGroup]:
    torch.manual_seed(0)
    module = Bilinear(left, right)
    return module, symmetry(module, (torch.randn(4, 3),))


def swaps(group: SymmetryGroup) -> list[SwapFactor]:
    return [factor for factor in group.factors if isinstance(factor, SwapFactor)]


def test_golden_bilinear_layer() -> None:
    _, group = inferred(nn.Identity(), nn.Identity())
    assert sorted(factor.kind for factor in group.factors) == ["R+^12", "S_6", "Z2^12", "Z2^6"]
    (swap,) = swaps(group)
    assert swap.log_order == pytest.approx(6 * math.log(2))
    assert group.dimension == 12
    assert group.verdict.passed


@pytest.mark.parametrize(("left", "right", "found"), [
    (nn.Identity(), nn.SiLU(), 0), (nn.SiLU(), nn.Identity(), 0), (nn.SiLU(), nn.SiLU(), 1), (nn.ReLU(), nn.Tanh(), 0),
])  # fmt: skip
def test_only_branches_that_are_alike_are_swapped(left: nn.Module, right: nn.Module, found: int) -> None:
    assert len(swaps(inferred(left, right)[1])) == found


def test_a_parameter_that_is_read_elsewhere_is_not_swapped() -> None:
    class Shared(Bilinear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.w.bias.sum()

    torch.manual_seed(0)
    assert not swaps(symmetry(Shared(nn.Identity(), nn.Identity()), (torch.randn(4, 3),)))


def test_swapping_by_hand_in_a_gated_layer_changes_the_function() -> None:
    """The control: the move is a symmetry only because the branches are alike."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    for right, same in ((nn.Identity(), True), (nn.SiLU(), False)):
        module, _ = inferred(nn.Identity(), right)
        before = module(x)
        w, v = module.w, module.v
        with torch.no_grad():
            for a, b in ((w.weight, v.weight), (w.bias, v.bias)):
                a[2], b[2] = b[2].clone(), a[2].clone()
        assert torch.allclose(before, module(x), atol=1e-6) is same


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_laws_beside_scales_signs_and_permutations(seed: int) -> None:
    module, group = inferred(nn.Identity(), nn.Identity())
    tensors = {name: p.detach().double() for name, p in module.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    a, b = group.sample(generator), group.sample(generator)
    both = a @ b
    assert len(both.word) <= len(group.factors), "swaps pass permutations, scales and signs"
    step, whole = a.apply(b.apply(tensors)), both.apply(tensors)
    back = (a.inverse() @ a).apply(tensors)
    again = group.from_json(a.to_json()).apply(tensors)
    for name in tensors:
        torch.testing.assert_close(whole[name], step[name])
        torch.testing.assert_close(back[name], tensors[name])
        torch.testing.assert_close(again[name], a.apply(tensors)[name])
    many = group.sample(generator, models=3)
    moved = many.apply_stacked({name: t.expand(3, *t.shape) for name, t in tensors.items()})
    assert all(moved[name].shape == (3, *t.shape) for name, t in tensors.items())
