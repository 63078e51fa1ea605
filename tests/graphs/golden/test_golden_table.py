"""The golden table: the whole symmetry group of every architecture, exact, applied by hand, and complete."""

import math
import re
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from graphs import SymmetryGroup, completeness, infer, symmetry, verify
from graphs.completeness import numerical_rank
from graphs.factors import PermutationFactor
from graphs.scalings import walk as scale_walk
from graphs.symmetry import permutation_group
from graphs.verify import double_precision, outputs
from modelzoo.errors import UserError
from tests.graphs import architectures as a
from tests.graphs.golden.rows import ROWS, read
from tests.graphs.test_permutations import GOLDEN, golden

SMALL = 110  # parameters up to which completeness is measured every day


@cache
def inferred(name: str) -> tuple[nn.Module, tuple[Any, ...], SymmetryGroup]:
    row = ROWS[name]
    if row.like:
        module, inputs, group = golden(row.like)
        return module, inputs, infer(group.program)
    torch.manual_seed(row.seed)
    module, inputs = row.make(), row.inputs()
    return module, inputs, symmetry(module, inputs)


def described(group: SymmetryGroup) -> Counter[tuple[str, frozenset[str]]]:
    """Every factor (the blocks it lies in behind "in") with the dimensions it acts on."""
    kinds = {factor.level: factor.kind for factor in group.factors if isinstance(factor, PermutationFactor)}
    found = []
    for factor, row in zip(group.factors, group.table(), strict=True):
        inside = isinstance(factor, PermutationFactor) and factor.parent >= 0
        kind = f"{row['group']} in {kinds[factor.parent]}" if inside else row["group"]  # type: ignore[attr-defined]
        found.append((kind, frozenset(row["acts on"])))
    return Counter(found)


def size(kind: str) -> tuple[int, float]:
    """Dimension and log-order of a group by its name."""
    match = re.fullmatch(r"(S_|R\+|Z2|Z|U\(1\)|GL|O|translation)(\(?(\d+)\)?)?(\^(\d+))?", kind.split(" in ")[0])
    assert match, kind
    name, n, copies = match[1], int(match[3] or 1), int(match[5] or 1)
    dimension = {"R+": 1, "U(1)": 1, "translation": 1, "GL": n * n, "O": n * (n - 1) // 2}.get(name, 0)
    order = {"S_": math.lgamma(n + 1), "Z2": math.log(2), "GL": math.log(2), "O": math.log(2)}.get(name, 0.0)
    return copies * dimension, copies * order


def double_tensors(module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """A double-precision module's tensors, moved a little so that no bias is zero; tied names share theirs."""
    made: dict[int, Tensor] = {}
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for _, tensor in named:
        if id(tensor) not in made:
            value = tensor.detach()
            real = value.is_floating_point() or value.is_complex()
            made[id(tensor)] = value + 0.1 * torch.rand(value.shape, generator=generator) if real else value
    return {name: made[id(tensor)] for name, tensor in named}


def double_inputs(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.double() if x.is_floating_point() else x for x in inputs)


def call(module: nn.Module, tensors: dict[str, Tensor], inputs: tuple[Any, ...]) -> Tensor:
    found = outputs(functional_call(module, tensors, inputs, tie_weights=False))
    return torch.cat([torch.view_as_real(x).flatten() if x.is_complex() else x.flatten() for x in found])


@pytest.mark.parametrize("name", ROWS)
def test_the_whole_group_is_exact_and_verified(name: str) -> None:
    module, inputs, group = inferred(name)
    expected = read(ROWS[name].table)
    assert described(group) == expected
    assert group.dimension == ROWS[name].dimension == sum(size(kind)[0] for kind, _ in expected.elements())
    assert group.log_order == pytest.approx(sum(size(kind)[1] for kind, _ in expected.elements()))
    assert group.unknown_ops == ()
    assert not group.notes
    if not group.factors:
        return
    verdict = group.verdict or verify(group, module, inputs, elements=1)
    assert verdict.passed, verdict.sentence
    generator = torch.Generator().manual_seed(7)
    with double_precision(module) as double:
        tensors = double_tensors(double, generator)
        before = call(double, tensors, double_inputs(inputs))
        moved: set[str] = set()
        for _ in range(4):  # a swap of two may be the identity by chance
            element = group.sample(generator, scale=0.3).apply(tensors)
            after = call(double, element, double_inputs(inputs))
            torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-8 * float(before.abs().max()))
            moved |= {tensor for tensor in tensors if not torch.equal(element[tensor], tensors[tensor])}
    assert {tensor for tensor in moved if tensor in group.program.tensors} == {
        slot.tensor for factor in group.factors for slot in factor.slots
    }


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "S_" in row.table or "GL" in row.table])
def test_a_permutation_of_one_tensor_alone_is_outside_the_group(name: str) -> None:
    """Of all tensors that a permutation moves, one is left behind: the output changes, whichever it is."""
    module, inputs, group = inferred(name)
    generator = torch.Generator().manual_seed(3)
    permutations = permutation_group(group.program)
    with double_precision(module) as double:
        tensors = double_tensors(double, generator)
        before = call(double, tensors, double_inputs(inputs))
        for factor in permutations.factors:
            moved = permutations.element({factor.name: factor.identity().roll(1, -1)}).apply(tensors)
            torch.testing.assert_close(call(double, moved, double_inputs(inputs)), before)
            for left in {slot.tensor for slot in factor.slots}:
                wrong = call(double, {**moved, left: tensors[left]}, double_inputs(inputs))
                assert float((wrong - before).abs().max()) > 1e-6 * float(before.abs().max()), (factor.name, left)


MEASURED = [name for name, row in ROWS.items() if row.hidden is not None]


@pytest.mark.parametrize(
    "name", [n if ROWS[n].parameters <= SMALL else pytest.param(n, marks=pytest.mark.slow) for n in MEASURED]
)
def test_nothing_is_missing(name: str) -> None:
    module, inputs, group = inferred(name)
    found = completeness(group, module, inputs)
    assert found.functional.parameters == ROWS[name].parameters
    assert found.hidden == ROWS[name].hidden, found.sentence


@pytest.mark.slow
def test_what_an_encoder_does_not_see_of_three_coordinates_is_counted() -> None:
    """Tokens are E x + e, E `[16, 3]`. Directions that change nothing and are in no group:

    * ΔW with ΔW E = 0 of queries, keys and values, their biases taking ΔW e back: 3 · 16 · 13;
    * the mean of E over channels, which the first norm removes and queries, keys and values take back: 3;
    * of a head's Wo `[16, 4]` (centred by the norm: 60) and Wv E (12) only their product counts (15 · 3), GL(4) is known:
      60 + 12 − 45 − 16 = 11, for each of 4 heads;
    * gains γ of the first norm that keep the 15 eigenvalues of C diag(γ) C, C the centring, while the stream turns: 16 − 15.

    Three singular values near 1e-9 are of directions that only ε of the norms sees; what changes nothing is at 1e-16.
    """
    module, inputs, group = inferred("encoder")
    found = completeness(group, module, inputs)
    rank, gap = numerical_rank(np.array(found.functional.spectrum), 1e-12)
    assert gap > 1e5
    assert found.functional.parameters - rank - found.orbit == 3 * 16 * 13 + 3 + 4 * 11 + 1


def test_every_row_of_the_permutation_table_that_is_named_is_there() -> None:
    assert {row.like for row in ROWS.values() if row.like} <= set(GOLDEN)


# -- broken rules beyond permutations ------------------------------------------------------------------------------------


def as_itself(walk: scale_walk.ScaleWalk, op: Any) -> None:
    """The rule of the identity, for operators that are not."""
    walk.set(op, walk.scale(op.arguments[0]))


@pytest.mark.parametrize(
    ("operator", "make", "shape", "factor", "where"),
    [
        ("aten.tanh", lambda: a.mlp(3, 6, 2, activation=nn.Tanh), (2, 3), "linear", "aten.tanh.default in module '1'"),
        ("aten.gelu", lambda: a.mlp(3, 6, 2, activation=nn.GELU), (2, 3), "linear", "aten.gelu.default in module '1'"),
        ("aten.native_layer_norm", a.ChannelNorm, (2, 2, 5, 5), "", "aten.native_layer_norm.default in module 'norm'"),
    ],
)
def test_a_broken_scaling_rule_fails_and_is_blamed(
    operator: str, make: Any, shape: tuple[int, ...], factor: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module, inputs = make(), (torch.randn(shape),)
    assert symmetry(module, inputs).verdict.passed  # also registers the rules
    monkeypatch.setitem(scale_walk._RULES, operator, as_itself)
    with pytest.raises(UserError) as raised:
        symmetry(module, inputs)
    assert where in str(raised.value)
    assert f"'{factor}" in str(raised.value)
