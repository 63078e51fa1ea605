"""The rules of ATen operators: registry, coverage page, unknown operators, and every shape rule against torch itself."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphs import symmetry, trace, verify
from graphs.rules import covered, page, rule, rules
from graphs.symmetry import permutation_group
from modelzoo.errors import UserError


def test_the_page_of_covered_operators_is_current() -> None:
    stored = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    assert stored == page(), "run: python -m graphs.rules > docs/operators.md"


def test_every_rule_says_what_it_does() -> None:
    rows = covered()
    assert {row["operator"] for row in rows} == set(rules())
    assert all(len(row["rule"].split()) > 2 for row in rows)


def test_a_second_rule_for_an_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="has two rules"):
        rule("aten.mm")(lambda walk, op: ())


class Sandwich(nn.Module):
    """A hidden layer of twelve units, any function of them, and a linear map of what comes out."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.first = function, nn.Linear(3, 12)
        self.last = nn.Linear(function(torch.randn(2, 12)).flatten(1).shape[1], 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(torch.tanh(self.first(x))).flatten(1))


def kinds(function: Callable[[Tensor], Tensor]) -> list[str]:
    """The factors of a sandwich, verified."""
    torch.manual_seed(0)
    module, inputs = Sandwich(function), (torch.randn(2, 3),)
    group = permutation_group(trace(module, inputs))
    verdict = verify(group, module, inputs)
    assert verdict.passed, verdict.sentence
    assert group.unknown_ops == ()
    return sorted(factor.kind for factor in group.factors)


EVERY = torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 11, 10, 7, 8])
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "flip": (lambda h: h.flip(1), ["S_12"]),
    "roll": (lambda h: h.roll(3, 1), ["S_12"]),
    "roll and multiply": (lambda h: h.roll(6, 1) * h, ["S_6"]),  # the swap within each pair is not found
    "slice": (lambda h: h[:, :8] * 2, ["S_4", "S_8"]),
    "strided slice": (lambda h: torch.cat([h[:, ::2], h[:, 1::2] ** 2], 1), ["S_6", "S_6"]),
    "constant index": (lambda h: h[:, EVERY], ["S_12"]),
    "repeated index": (lambda h: h[:, [0, 0, 1, 1, 2, 2]], ["S_3", "S_9"]),
    "index select": (lambda h: h.index_select(1, torch.tensor([5, 3, 1])), ["S_3", "S_9"]),
    "tile": (lambda h: h.repeat(1, 2), ["S_12", "S_2^12"]),
    "repeat interleave": (lambda h: h.repeat_interleave(2, 1), ["S_12", "S_2^12"]),
    "stack": (lambda h: torch.stack([h, h**2], 2), ["S_12"]),
    "stack of halves": (lambda h: torch.stack([h[:, :6], h[:, 6:]], 1), ["S_6", "S_6"]),
    "unbind": (lambda h: torch.cat(h.view(-1, 3, 4).unbind(1)[::-1], 1), ["S_4", "S_4", "S_4"]),
    "heads mixed": (lambda h: h.view(-1, 3, 4).softmax(1), ["S_3^4", "S_4"]),
    "heads summed": (lambda h: h.view(-1, 3, 4).sum(1), ["S_3^4", "S_4"]),
    "heads averaged over features": (lambda h: h.view(-1, 3, 4).mean(2), ["S_3", "S_4^3"]),
    "maximum": (lambda h: h.view(-1, 3, 4).amax(2), ["S_3", "S_4^3"]),
    "maximum with its place": (lambda h: h.view(-1, 3, 4).max(2)[1] * h[:, :3], []),
    "running sum": (lambda h: h.cumsum(1), []),
    "running sum over heads": (lambda h: h.view(-1, 3, 4).cumsum(1), ["S_4"]),
    "sort": (lambda h: h.sort(1)[0], ["S_12"]),
    "top": (lambda h: h.topk(3, 1)[0], ["S_12"]),
    "outer product": (lambda h: h[:, :, None] * h[:, None, :], ["S_12"]),
    "outer product, one head": (lambda h: h[:, :3, None] * h[:, None, :3], ["S_3", "S_9"]),
    "third order": (lambda h: (v := h[:, :4])[:, :, None, None] * v[:, None, :, None] * v[:, None, None], ["S_4", "S_8"]),
    "outer product of halves": (lambda h: h[:, :6, None] * h[:, None, 6:], ["S_6", "S_6"]),
    "gram": (lambda h: (v := h.view(-1, 3, 4)) @ v.transpose(1, 2), ["S_3", "S_4"]),
    "padding": (lambda h: nn.functional.pad(h, (2, 1)), ["S_12", "S_2"]),  # columns that read zeros
    "distances": (lambda h: torch.cdist(v := h.view(-1, 3, 4), v), ["S_3", "S_4"]),
    "fourier over features": (lambda h: torch.fft.rfft(h).abs(), []),
    "fourier over heads": (lambda h: torch.fft.rfft(h.view(-1, 3, 4), dim=1).abs(), ["S_4"]),
    "layer norm": (lambda h: nn.functional.layer_norm(h, [12]), ["S_12"]),
    "layer norm over heads": (lambda h: nn.functional.layer_norm(h.view(-1, 3, 4), [4]), ["S_3", "S_4^3"]),
    "pool": (lambda h: nn.functional.avg_pool1d(h.view(-1, 3, 4), 2), ["S_3"]),
    "interpolate": (lambda h: nn.functional.interpolate(h.view(-1, 3, 4), scale_factor=2), ["S_12"]),
    "overwrite": (lambda h: torch.cat([h[:, :4], h[:, 4:8] * 0, h[:, 8:]], 1), ["S_4", "S_4", "S_4"]),
    "scatter": (lambda h: torch.zeros(2, 15).index_copy(1, EVERY, h), []),
    "mask": (lambda h: torch.where(torch.arange(12) < 5, h, h**2), []),
    "norm of all": (lambda h: h / h.norm(dim=1, keepdim=True), ["S_12"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_hidden_units_leaves_the_right_group(name: str) -> None:
    function, expected = FUNCTIONS[name]
    assert kinds(function) == expected


# -- operators without a rule -----------------------------------------------------------------------------------------------


class Exponential(nn.Module):
    """A hidden layer reshaped to matrices, exponentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(torch.relu(self.before(x))).view(-1, 2, 2)
        return self.last(torch.linalg.matrix_exp(h).flatten(1))


def test_an_unknown_operator_pins_what_it_touches_and_is_reported() -> None:
    group = symmetry(Exponential(), (torch.randn(2, 3),))
    assert "S_5" in [factor.kind for factor in group.factors], "what it does not touch still moves"
    assert not any("first.weight[0]" in map(str, factor.slots) for factor in group.factors)
    assert ("aten.linalg_matrix_exp.default", "") in group.unknown_ops
    with pytest.raises(UserError, match=r"operator 'aten\.linalg_matrix_exp\.default' in the root module has no rule"):
        symmetry(Exponential(), (torch.randn(2, 3),), strict=True)
    with pytest.raises(UserError, match=r"in module 'inner' \(Exponential\) has no rule"):
        symmetry(Nested(), (torch.randn(2, 3),), strict=True)


class Nested(nn.Module):
    """The same inside another module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Exponential()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)
