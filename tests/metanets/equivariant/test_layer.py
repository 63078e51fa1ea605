"""The layer: the fast product against the dense one, gradients, equivariance, and what it never builds."""

from itertools import product
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metanets.equivariant import (
    Alternating,
    EquivariantLinear,
    GraphAutomorphism,
    Group,
    Orthogonal,
    SpecialOrthogonal,
    Symmetric,
    Symplectic,
)
from metanets.equivariant.functor import tensor_power
from metanets.equivariant.layer import dense_wins
from modelzoo.errors import UserError

GROUPS: list[Group] = [
    Symmetric(2),
    Symmetric(4),
    Alternating(3),
    Alternating(4),
    Orthogonal(2),
    Orthogonal(3),
    SpecialOrthogonal(2),
    SpecialOrthogonal(3),
    Symplectic(2),
    Symplectic(4),
    GraphAutomorphism.of(nx.path_graph(3)),
    GraphAutomorphism.of(nx.cycle_graph(4, create_using=nx.DiGraph)),
]
ORDERS = [(0, 0), (1, 1), (2, 0), (0, 2), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]


def name(group: Group) -> str:
    return f"Aut {group.n}" if isinstance(group, GraphAutomorphism) else str(group)


def layer(group: Group, order_in: int, order_out: int, **options: Any) -> EquivariantLinear | None:
    most = 3 if isinstance(group, GraphAutomorphism) else 5
    if not group.dimension(order_in + order_out) or order_in + order_out > most:
        return None
    made = EquivariantLinear(group, order_in, order_out, 2, 3, **options).double()
    with torch.no_grad():
        made.bias.normal_()
    return made


@pytest.mark.parametrize("group", GROUPS, ids=name)
@pytest.mark.parametrize("terms", ["basis", "spanning"])
def test_fast_equals_dense_with_all_gradients(group: Group, terms: str) -> None:
    torch.manual_seed(0)
    for orders in ORDERS:
        made = layer(group, *orders, terms=terms, dense=False)
        if made is None:
            continue
        x = torch.randn(2, *(group.n,) * orders[0], 2, dtype=torch.float64, requires_grad=True)
        fast, dense = made(x), made.reference(x)
        assert fast.shape == (2, *(group.n,) * orders[1], 3)
        torch.testing.assert_close(fast, dense, rtol=1e-10, atol=1e-10)
        upstream = torch.randn_like(fast)
        inputs = [x, made.weight, *([made.bias] if made.bias_terms else [])]
        for one, two in zip(
            torch.autograd.grad(fast, inputs, upstream), torch.autograd.grad(dense, inputs, upstream), strict=True
        ):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "group",
    [
        *(kind(n) for kind in (Symmetric, Orthogonal, SpecialOrthogonal) for n in (2, 3, 4)),
        Symplectic(2),
        Symplectic(4),
    ],
    ids=str,
)
def test_every_diagram_up_to_three_points_a_row_equals_its_matrix(group: Group) -> None:
    """One output channel for each diagram, so that the layer shows every product by itself."""
    n = group.n
    generator = torch.Generator().manual_seed(0)
    for order_in, order_out in product(range(4), repeat=2):
        if not group.dimension(order_in + order_out):
            continue
        made = EquivariantLinear(group, order_in, order_out, 1, 1, bias=False, terms="spanning", dense=False)
        x = torch.randn(2, *(n,) * order_in, 1, generator=generator, dtype=torch.float64)
        each = made.product(x, torch.eye(len(made.terms), dtype=torch.float64)[:, None])
        for channel, term in enumerate(made.terms):
            expected = x.view(2, -1) @ torch.from_numpy(term.matrix(group)).T
            torch.testing.assert_close(each[..., channel].reshape(2, -1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("group", GROUPS, ids=name)
@pytest.mark.parametrize("dense", [False, True])
def test_random_elements_commute_with_the_layer(group: Group, dense: bool) -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    for k, l in ORDERS:  # noqa: E741
        made = layer(group, k, l, dense=dense)
        if made is None:
            continue
        x = torch.randn(2, *(group.n,) * k, 2, dtype=torch.float64)
        element = group.element(random)
        moved = torch.einsum("ij,bjc->bic", torch.tensor(tensor_power(element, k)), x.reshape(2, -1, 2)).view(x.shape)
        y = made(x)
        expected = torch.einsum("ij,bjc->bic", torch.tensor(tensor_power(element, l)), y.reshape(2, -1, 3))
        torch.testing.assert_close(made(moved).reshape(2, -1, 3), expected, rtol=1e-10, atol=1e-10)


def test_an_outsider_breaks_the_layer() -> None:
    torch.manual_seed(0)
    swap = torch.eye(4, dtype=torch.float64)[[1, 0, 2, 3]]
    for group, order in [(GraphAutomorphism.of(nx.path_graph(4)), 1), (Alternating(4), 2), (SpecialOrthogonal(4), 2)]:
        made = EquivariantLinear(group, order, order, 1, 1, dense=False).double()
        x = torch.randn(1, *(4,) * order, 1, dtype=torch.float64)
        act = torch.tensor(tensor_power(swap.numpy(), order))
        moved = made((act @ x.view(1, -1, 1)).view(x.shape)).view(-1)
        assert (moved - act @ made(x).view(-1)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("group", "order"), [(Symmetric(2), 2), (SpecialOrthogonal(2), 2), (Symplectic(2), 2), (GROUPS[-1], 1)]
)
def test_gradients_are_those_of_finite_differences(group: Group, order: int) -> None:
    torch.manual_seed(0)
    made = EquivariantLinear(group, order, order, 1, 1, dense=False).double()
    x = torch.randn(1, *(group.n,) * order, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, (x,))


def test_counts_and_the_dense_rule() -> None:
    made = EquivariantLinear(Symmetric(3), 2, 2, 1, 1)
    assert (made.spanning_count, made.true_dimension, made.weight.shape[0]) == (15, 14, 14)
    assert EquivariantLinear(Symmetric(3), 2, 2, 1, 1, terms="spanning").weight.shape[0] == 15
    assert made.dense
    assert dense_wins(10**4, 15, 1)
    assert not dense_wins(60**4, 15, 1)
    assert not EquivariantLinear(Symmetric(60), 2, 2, 1, 1).dense
    assert EquivariantLinear(Symmetric(3), 2, 2, 1, 1, dense=False).matrices is None


class _Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returned."""

    entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.entries = max(self.entries, result.numel())
        return result


@pytest.mark.parametrize("group", [Symmetric(24), Orthogonal(24), Symplectic(24)], ids=str)
def test_the_fast_product_never_forms_the_dense_matrix(group: Group) -> None:
    fast = EquivariantLinear(group, 2, 2, 1, 1, dense=False)
    x = torch.randn(1, 24, 24, 1)
    with _Largest() as largest:
        fast(x).sum().backward()
    assert largest.entries <= len(fast.terms) * 24**2
    with _Largest() as largest:
        fast.reference(x)
    assert largest.entries >= 24**4  # the checker sees the dense one


def test_outputs_start_at_unit_scale() -> None:
    torch.manual_seed(0)
    for group in (Symmetric(12), Orthogonal(12)):
        y = EquivariantLinear(group, 2, 2, 16, 16, dense=False)(torch.randn(8, 12, 12, 16))
        assert 0.4 < y.std() < 2.5


def test_a_layer_of_zeros_only_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="no equivariant map"):
        EquivariantLinear(Orthogonal(3), 2, 1, 1, 1)
    with pytest.raises(ValueError, match="expected"):
        EquivariantLinear(Symmetric(3), 2, 1, 1, 1)(torch.zeros(1, 3, 1))


def test_layers_can_be_vmapped_over_stacked_weights() -> None:
    torch.manual_seed(0)
    made = EquivariantLinear(Symmetric(4), 2, 2, 1, 2, dense=False, bias=False).double()
    weights, x = torch.randn(3, *made.weight.shape, dtype=torch.float64), torch.randn(2, 4, 4, 1, dtype=torch.float64)
    call = torch.vmap(lambda weight: torch.func.functional_call(made, {"weight": weight}, (x,)))
    for result, weight in zip(call(weights), weights, strict=True):
        torch.testing.assert_close(result, torch.func.functional_call(made, {"weight": weight}, (x,)))
