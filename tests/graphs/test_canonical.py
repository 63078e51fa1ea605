"""Canonical forms: the function stays, every point of an orbit leads to the same weights, and ties are said."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from graphs import SymmetryGroup, symmetry
from graphs.canonical import CanonicalForm, canonicalize

TOLERANCE = 1e-9


class Diagonal(nn.Module):
    """A complex diagonal recurrence, three steps: scales and phases of every mode."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Parameter(torch.randn(4, 2, dtype=torch.complex64))
        self.pole = nn.Parameter(0.5 * torch.randn(4, dtype=torch.complex64))
        self.leave = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        driven = x.to(torch.complex64 if x.dtype == torch.float32 else torch.complex128) @ self.enter.mT
        state = torch.zeros_like(driven[:, 0])
        for time in range(3):
            state = self.pole * state + driven[:, time]
        return (state @ self.leave.mT).real


class Sine(nn.Module):
    """sin(30 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


class Bilinear(nn.Module):
    """Two branches that may change places in every unit."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v, self.out = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.w(x) * self.v(x))


ARCHITECTURES = {
    "relu": (lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)), (4, 3)),
    "tanh": (lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2)), (4, 3)),
    "siren": (lambda: nn.Sequential(nn.Linear(2, 6), Sine(), nn.Linear(6, 5), Sine(), nn.Linear(5, 1)), (4, 2)),
    "low rank": (lambda: nn.Sequential(nn.Linear(5, 2, bias=False), nn.Linear(2, 4)), (4, 5)),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 3)), (2, 1, 4, 4)),
    "lstm": (lambda: nn.LSTM(3, 4, 1), (5, 2, 3)),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 6, dropout=0.0), (5, 2, 8)),
    "complex": (Diagonal, (2, 3, 2)),
    "bilinear": (Bilinear, (4, 3)),
}  # fmt: skip


@cache
def subject(name: str) -> tuple[nn.Module, SymmetryGroup, dict[str, Tensor], Tensor, CanonicalForm]:
    build, shape = ARCHITECTURES[name]
    torch.manual_seed(1)
    module, inputs = build().eval(), torch.randn(shape)
    group = symmetry(module, (inputs,))
    tensors = {key: value.detach() for key, value in module.named_parameters()}
    generator = torch.Generator().manual_seed(2)
    tensors = {
        key: (value + 0.05 * torch.randn(value.shape, generator=generator)).to(
            torch.complex128 if value.is_complex() else torch.float64
        )
        for key, value in tensors.items()
    }  # zero biases are ties of their own
    module = module.to(torch.float64)
    return module, group, tensors, inputs.double(), canonicalize(group, tensors)


def gap(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    return max(float((left[key] - right[key]).abs().max() / left[key].abs().max()) for key in left)


def output(module: nn.Module, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
    found = functional_call(module, tensors, (inputs,))
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_function_stays_and_the_element_leads_there(name: str) -> None:
    module, group, tensors, inputs, form = subject(name)
    assert not form.ties
    assert not form.left
    torch.testing.assert_close(
        output(module, form.tensors, inputs), output(module, tensors, inputs), rtol=1e-9, atol=1e-10
    )
    assert gap(form.tensors, form.element.apply(tensors)) < TOLERANCE
    assert gap(tensors, form.tensors) > 1e-3, "something was done"
    if group.dimension:
        before, after = (sum(float(t.abs().square().sum()) for t in part.values()) for part in (tensors, form.tensors))
        assert after < before, "balanced weights have the least norm"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_idempotent(name: str) -> None:
    _, group, _, _, form = subject(name)
    assert gap(form.tensors, canonicalize(group, form.tensors).tensors) < TOLERANCE


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_all_points_of_an_orbit_have_one_form(name: str, seed: int) -> None:
    _, group, tensors, _, form = subject(name)
    moved = group.sample(torch.Generator().manual_seed(seed), scale=0.5).apply(tensors)
    assert gap(form.tensors, canonicalize(group, moved).tensors) < TOLERANCE


@pytest.mark.parametrize("name", ["relu", "attention"])
def test_a_point_off_the_orbit_has_another_form(name: str) -> None:
    _, group, tensors, _, form = subject(name)
    key = max(tensors, key=lambda k: tensors[k].numel())
    other = {**tensors, key: tensors[key].flip(0)}
    assert gap(form.tensors, canonicalize(group, other).tensors) > 1e-3


def test_equal_neurons_are_a_tie() -> None:
    _, group, tensors, _, _ = subject("tanh")
    twins = {key: value.clone() for key, value in tensors.items()}
    for key, axis in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        twins[key].select(axis, 5).copy_(twins[key].select(axis, 2))
    form = canonicalize(group, twins)
    assert len(form.ties) == 1
    assert len(form.ties[0].blocks) == 2
    assert form.ties[0].factor == "0.weight[0]"


def test_a_unit_without_outgoing_weights_has_no_balance() -> None:
    _, group, tensors, _, _ = subject("relu")
    dead = {key: value.clone() for key, value in tensors.items()}
    dead["2.weight"][:, 1] = 0
    assert any("no least norm" in reason for reason in canonicalize(group, dead).left)
