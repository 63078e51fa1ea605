"""Entries that no output reads, and shifts that a group norm swallows: with them nothing stays hidden."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphs
from graphs.completeness import completeness
from tests.graphs import architectures as a


def wide_spectral() -> nn.Module:
    """A Fourier operator whose ends are as wide as what lies between, so that every weight is seen."""
    module = a.FourierOperator()
    module.lift, module.project = nn.Conv1d(6, 4, 1), nn.Conv1d(5, 6, 1)
    return module


class Triangular(nn.Module):
    """A layer of which only the lower triangle is used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(nn.functional.linear(x, self.first.weight.tril(), self.first.bias)))


class Checkered(nn.Module):
    """A layer of which every other weight is multiplied by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        mask = (torch.arange(12).reshape(4, 3) % 2).to(x.dtype)
        return self.last(torch.tanh(nn.functional.linear(x, self.first.weight * mask, self.first.bias)))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, int]]] = {
    "spectral, odd grid": (wide_spectral, (2, 6, 11), {"unread imaginary part of weight": 20}),
    "spectral, mode at the Nyquist frequency": (wide_spectral, (2, 6, 4), {"unread imaginary part of weight": 40}),
    "triangle": (Triangular, (4, 3), {"unread first.weight": 3}),
    "mask": (Checkered, (4, 3), {"unread first.weight": 6}),
    "group norm": (a.group_norm_cnn, (2, 2, 7), {"common shift 0.bias": 2}),
    "group norm on a grouped convolution": (
        lambda: a.grouped_cnn(nn.GroupNorm(4, 8)), (2, 2, 5, 5), {"common shift 2.bias": 4}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_shifts_that_change_nothing_are_found_and_nothing_else_is_hidden(case: str) -> None:
    make, shape, expected = CASES[case]
    torch.manual_seed(0)
    module = make()
    inputs = (torch.randn(shape),)
    group = graphs.symmetry(module, inputs)  # raises when a random element changes the function
    dimensions = {factor.name: factor.dimension for factor in group.factors}
    assert {name: dimensions[name] for name in expected} == expected
    found = completeness(group, module, inputs)
    # a grid of 4 has no more modes than are kept: there the spectral weights can do what the bypass does
    assert found.hidden == (20 if shape[-1] == 4 and "spectral" in case else 0), found.sentence


def test_every_entry_is_read_where_the_spectrum_is_not_taken_back() -> None:
    """The control: without the real transform every imaginary part shows."""

    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3, 4, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.einsum("bim,iom->bom", torch.fft.rfft(x)[..., :4], self.weight))

    torch.manual_seed(0)
    group = graphs.symmetry(Spectrum(), (torch.randn(2, 3, 9),))
    assert not any(factor.name.startswith("unread") for factor in group.factors)


def test_units_that_are_off_are_not_unread() -> None:
    """The control: all gradients are 0 here, but a larger shift would switch units on, so that nothing is claimed."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(nn.functional.linear(x, self.first.weight.tril(), self.first.bias) - 100))

    group = graphs.symmetry(Masked(), (torch.randn(2, 3),))
    assert not any(factor.name.startswith("unread") for factor in group.factors)
