"""Rotary positions leave every pair of a head its complex numbers: a scale and a rotation."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphs import SymmetryGroup, canonicalize, completeness, symmetry
from graphs.scalings.constant_maps import imaginary_unit
from graphs.scalings.rotations import RotationFactor
from modelzoo.families.attention.causal_lm import CausalLM, CausalLMConfig

Turn = Callable[[Tensor], Tensor]


def angles(x: Tensor, pairs: int) -> Tensor:
    return torch.arange(x.shape[-2])[:, None] * 10.0 ** -torch.arange(pairs)


def halves(x: Tensor) -> Tensor:
    """Pairs (i, i + d/2)."""
    first, second = x.chunk(2, -1)
    angle = angles(x, first.shape[-1]).to(x)
    return torch.cat([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()], -1)


def neighbours(x: Tensor) -> Tensor:
    """Pairs (2i, 2i + 1), as complex numbers."""
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    angle = angles(x, z.shape[-1]).to(x)
    return torch.view_as_real(z * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def half_rotated(x: Tensor) -> Tensor:
    """x cos + rotate_half(x) sin, as most language models write it."""
    first, second = x.chunk(2, -1)
    angle = angles(x, first.shape[-1]).to(x).repeat(1, 2)
    return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()


def partly(x: Tensor) -> Tensor:
    """Only the first half of a head is turned."""
    turned, rest = x.chunk(2, -1)
    return torch.cat([halves(turned), rest], -1)


def crooked(x: Tensor) -> Tensor:
    """Halves that are turned and then weighted differently at odd positions: no complex numbers are left."""
    weight = 1 + (torch.arange(x.shape[-2])[:, None] % 2) * torch.arange(x.shape[-1])
    return halves(x) * weight.to(x)


class Rotary(nn.Module):
    """Attention whose queries and keys are turned by their position.

    Args:
        turn: how.
        heads, keys: numbers of query and of key heads.
        head: features of a head.
        bias: of queries and keys.
        seen: return the queries too.
    """

    def __init__(
        self, turn: Turn, heads: int = 2, keys: int = 1, head: int = 4, bias: bool = False, seen: bool = False
    ) -> None:
        super().__init__()
        self.turn, self.heads, self.keys, self.head, self.seen = turn, heads, keys, head, seen
        self.query, self.out = nn.Linear(4, heads * head, bias), nn.Linear(heads * head, 3, False)
        self.key, self.value = nn.Linear(4, keys * head, bias), nn.Linear(4, keys * head, False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        b, t, _ = x.shape
        q = self.turn(self.query(x).view(b, t, self.heads, self.head).transpose(1, 2))
        k, v = (y.view(b, t, self.keys, self.head).transpose(1, 2) for y in (self.key(x), self.value(x)))
        k, v = (y.repeat_interleave(self.heads // self.keys, 1) for y in (self.turn(k), v))
        h = (q @ k.mT / math.sqrt(self.head)).softmax(-1) @ v
        out = self.out(h.transpose(1, 2).reshape(b, t, -1))
        return (out, q) if self.seen else out


def inferred(module: nn.Module) -> tuple[SymmetryGroup, list[RotationFactor], tuple[Tensor, ...]]:
    torch.manual_seed(0)
    inputs = (torch.randn(8, 5, 4),)
    group = symmetry(module, inputs)  # raises when the check in double precision fails
    return group, [factor for factor in group.factors if isinstance(factor, RotationFactor)], inputs


@pytest.mark.parametrize(
    ("turn", "heads", "keys", "bias"), [(halves, 2, 1, False), (neighbours, 2, 2, True), (half_rotated, 2, 1, False)]
)
def test_every_pair_of_a_key_head_has_a_scale_and_a_rotation(turn: Turn, heads: int, keys: int, bias: bool) -> None:
    torch.manual_seed(0)
    module = Rotary(turn, heads, keys, bias=bias)
    group, (rotation,), inputs = inferred(module)
    assert rotation.kind == f"U(1)^{2 * keys}"
    tensors = ("key", "query")
    expected = {f"{name}.{part}[0]" for name in tensors for part in ("weight", "bias") if bias or part == "weight"}
    assert {str(slot) for slot in rotation.slots} == expected
    assert completeness(group, module, inputs).hidden == 0


def test_the_rotations_are_what_is_hidden_without_them() -> None:
    """The control: a group without its rotations misses one dimension a pair."""
    torch.manual_seed(0)
    module = Rotary(halves)
    group, (rotation,), inputs = inferred(module)
    without = replace(group, factors=tuple(f for f in group.factors if f is not rotation))
    assert completeness(without, module, inputs).hidden == rotation.copies == 2


@pytest.mark.slow
@pytest.mark.parametrize("keys", [1, 2])
def test_the_group_of_a_rotary_language_model_is_complete(keys: int) -> None:
    torch.manual_seed(0)
    config = CausalLMConfig(vocabulary=11, length=6, width=8, heads=2, key_value_heads=keys, hidden=5, layers=1)
    module, inputs = CausalLM(config), (torch.randint(0, 11, (24, 6)),)
    for part in module.modules():
        if isinstance(part, nn.RMSNorm):
            part.eps = 1e-6  # with none, the common scale of embedding and outputs would be divided out
    group = symmetry(module, inputs)
    assert [f.kind for f in group.factors if isinstance(f, RotationFactor)] == [f"U(1)^{2 * keys}"]
    assert completeness(group, module, inputs).hidden == 0


def test_features_that_are_not_turned_keep_their_matrices() -> None:
    torch.manual_seed(0)
    module = Rotary(partly)
    group, rotations, inputs = inferred(module)
    assert [factor.kind for factor in rotations] == ["U(1)"]
    assert completeness(group, module, inputs).hidden == 0


@pytest.mark.parametrize(
    "module",
    [Rotary(crooked), Rotary(halves, seen=True), Rotary(lambda x: halves(x).tanh()), Rotary(lambda x: x)],
    ids=["no complex numbers", "queries are seen", "squashed", "nothing is turned"],
)
def test_no_rotation_where_something_else_tells_pairs_apart(module: Rotary) -> None:
    assert not inferred(module)[1]


def test_a_turn_by_hand_is_a_symmetry_only_in_queries_and_keys_together() -> None:
    torch.manual_seed(0)
    module, inputs = Rotary(halves).double(), (torch.randn(2, 5, 4).double(),)
    before = module(*inputs)
    turn = torch.tensor([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]]).double()

    def turned(weight: Tensor, heads: int) -> Tensor:
        rows = weight.view(heads, 2, 2, 4).clone()  # [head, half, pair, width]
        rows[:, :, 0] = torch.einsum("ij,hjw->hiw", turn, rows[:, :, 0])
        return rows.view_as(weight)

    both = {"query.weight": turned(module.query.weight, 2), "key.weight": turned(module.key.weight, 1)}
    torch.testing.assert_close(torch.func.functional_call(module, both, inputs), before)
    for name in both:
        after = torch.func.functional_call(module, {name: both[name]}, inputs)
        assert float((after - before).detach().abs().max()) > 1e-3


def test_the_imaginary_unit_of_forms() -> None:
    nodes, owner = np.arange(4), np.array([0, 0, 1, 1])
    left, right = nodes[:2], nodes[2:]

    def rotation(angle: float) -> np.ndarray:
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    forms = [(left, right, rotation(angle)) for angle in (0.3, 1.1, 2.0)]
    unit = imaginary_unit(nodes, owner, forms)
    assert unit is not None
    np.testing.assert_allclose(unit @ unit, -np.eye(4), atol=1e-9)
    for _, _, m in forms:
        np.testing.assert_allclose(unit[:2, :2].T @ m + m @ unit[2:, 2:], 0, atol=1e-9)
    assert imaginary_unit(nodes, owner, [*forms, (left, right, np.diag([1.0, 2.0]))]) is None
    assert imaginary_unit(nodes, owner, [(left, right, np.eye(2))]) is None  # all of GL(2) is left


@cache
def grouped() -> tuple[nn.Module, SymmetryGroup]:
    torch.manual_seed(0)
    module = Rotary(halves, 4, 2, bias=True)
    return module, inferred(module)[0]


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_laws(seed: int) -> None:
    module, group = grouped()
    tensors = {name: p.detach().double() for name, p in module.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    a, b = group.sample(generator), group.sample(generator)
    step, whole = a.apply(b.apply(tensors)), (a @ b).apply(tensors)
    back, again = (a.inverse() @ a).apply(tensors), group.from_json(a.to_json()).apply(tensors)
    for name in tensors:
        torch.testing.assert_close(whole[name], step[name])
        torch.testing.assert_close(back[name], tensors[name])
        torch.testing.assert_close(again[name], a.apply(tensors)[name])
    assert len((a @ b).word) <= len(group.factors), "rotations pass permutations, scales and signs"
    many = group.sample(generator, models=3)
    moved = many.apply_stacked({name: t.expand(3, *t.shape) for name, t in tensors.items()})
    assert all(moved[name].shape == (3, *t.shape) for name, t in tensors.items())


def test_the_canonical_form_is_the_same_along_rotations() -> None:
    module, group = grouped()
    tensors = {name: p.detach().double() for name, p in module.named_parameters()}
    (factor,) = (f for f in group.factors if isinstance(f, RotationFactor))
    turned = group.element({factor.name: factor.sample(torch.Generator().manual_seed(2))}).apply(tensors)
    forms = [canonicalize(group, tensors), canonicalize(group, turned)]
    assert not forms[0].left
    assert float((turned["query.weight"] - tensors["query.weight"]).abs().max()) > 0.1
    for name in tensors:
        torch.testing.assert_close(forms[1].tensors[name], forms[0].tensors[name], rtol=1e-5, atol=1e-7)
