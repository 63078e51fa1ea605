"""Products of groups: weight spaces of MLPs."""

from itertools import product

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import sparse

from metanets.equivariant import (
    Alternating,
    GraphAutomorphism,
    Orthogonal,
    SpecialOrthogonal,
    Symmetric,
    Symplectic,
    TensorSpace,
    WeightSpaceLinear,
    mlp_space,
)
from metanets.equivariant.weight_space import _chained, _joint
from modelzoo.errors import UserError

GOLDEN = {(1, 4, 1): 25, (2, 4, 1): 41, (2, 5, 5, 2): 114, (2, 3, 3, 2): 114, (1, 4, 4, 4, 1): 93, (2, 3, 3, 1): 75}


def elements(space: TensorSpace, seed: int) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(seed)
    return {name: torch.tensor(group.element(random)) for name, group in space.factors.items()}


def inputs(space: TensorSpace, channels: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn(2, *space.shape(n), channels, generator=generator, dtype=torch.float64) for n in space.tensors
    }


@pytest.mark.parametrize("widths", GOLDEN, ids=str)
def test_golden_dimensions_of_weight_spaces(widths: tuple[int, ...]) -> None:
    space = mlp_space(widths)
    assert WeightSpaceLinear(space, space, 1, 1).true_dimension == GOLDEN[widths]


def moved_coordinates(space: TensorSpace) -> list[np.ndarray]:
    """The flat coordinates' permutation of every generator, `[size, size]` matrices, read off by moving unit vectors."""
    splits = [int(np.prod(space.shape(n))) for n in space.tensors]
    size = sum(splits)
    units = torch.eye(size, dtype=torch.float64).split(splits, 1)
    basis = {n: part.view(size, *space.shape(n), 1) for n, part in zip(space.tensors, units, strict=True)}
    still = {name: torch.eye(group.n, dtype=torch.float64) for name, group in space.factors.items()}
    found = []
    for name, group in space.factors.items():
        for generator in group.generators():
            moved = space.transform(basis, still | {name: torch.tensor(generator)})
            found.append(torch.cat([moved[n].flatten(1) for n in space.tensors], 1).numpy())
    return found


def invariant_dimension(permutations: list[np.ndarray]) -> int:
    """Dimension of {v : g v = v} for permutation matrices g: vectors that are constant on what the g connect."""
    links = sum(sparse.coo_array(g) for g in permutations)
    return int(sparse.csgraph.connected_components(links, directed=False, return_labels=False))


@pytest.mark.parametrize("widths", GOLDEN, ids=str)
def test_the_dimension_is_that_of_the_brute_force_commutant(widths: tuple[int, ...]) -> None:
    space = mlp_space(widths)
    generators = moved_coordinates(space)
    pairs = [sparse.kron(sparse.coo_array(g), sparse.coo_array(g)) for g in generators]  # g W gᵀ = W
    assert invariant_dimension(pairs) == GOLDEN[widths]
    invariant = invariant_dimension(generators)
    assert WeightSpaceLinear(space, space.invariants(), 1, 1).true_dimension == invariant
    assert invariant == {(2, 3, 3, 1): 7, (1, 4, 1): 4}.get(widths, invariant)
    size = len(generators[0])
    if size <= 25:  # the null space itself
        total = sum((p - sparse.eye_array(size**2)).T @ (p - sparse.eye_array(size**2)) for p in pairs)
        values = np.linalg.eigvalsh(total.toarray())
        assert (values < 1e-9).sum() == GOLDEN[widths]


SPACES = {
    "mlp": mlp_space([2, 3, 4, 2]),
    "mixed": TensorSpace({"a": ("o", 2, "s"), "b": ("o", "o")}, {"o": Orthogonal(3), "s": Symmetric(4)}),
    "alternating": TensorSpace({"a": ("j", "k", "j"), "b": (2, "k")}, {"j": Alternating(3), "k": Alternating(4)}),
    "chained": TensorSpace(
        {"a": ("s", "p"), "b": ("r", "s", "r"), "c": ("p", "g", "p")},
        {"s": Symmetric(3), "p": Symplectic(2), "r": SpecialOrthogonal(2), "g": GraphAutomorphism.of(nx.path_graph(3))},
    ),
}


def test_the_dimension_is_that_of_the_factors_multiplied() -> None:
    for space in SPACES.values():
        expected = 0
        for one, other in product(space.tensors, repeat=2):
            axes = [*space.tensors[one], *space.tensors[other]]
            each = [group.dimension(axes.count(name)) for name, group in space.factors.items()]
            expected += int(np.prod(each)) * space.multiplicity(one) * space.multiplicity(other)
        assert WeightSpaceLinear(space, space, 1, 1).true_dimension == expected


def test_one_after_the_other_is_the_same_as_side_by_side() -> None:
    """Symmetric factors can do both: every choice of terms, by itself."""
    space = SPACES["mixed"]
    for axes_in, axes_out in [(("o", "s"), ("s", "o")), (("s", "o", "s"), ("o",)), ((), ("o", "o", "s"))]:
        x = torch.randn(2, *(space.factors[a].n for a in axes_in), 2, dtype=torch.float64)
        maps = []
        for make in (_joint, _chained):
            step, summed, _ = make(space, axes_in, axes_out)
            weight = torch.eye(2 * len(summed), dtype=torch.float64).view(len(summed), 2, -1)
            maps.append(step(x, weight).flatten(0, -2))
        assert maps[0].shape == maps[1].shape
        inside = torch.linalg.lstsq(maps[0], maps[1]).solution  # the same span: a change of basis
        torch.testing.assert_close(maps[0] @ inside, maps[1])
        assert torch.linalg.matrix_rank(maps[0]) == torch.linalg.matrix_rank(maps[1])


@pytest.mark.parametrize("kind", SPACES)
def test_layers_commute_with_the_product_and_not_with_an_outsider(kind: str) -> None:
    torch.manual_seed(0)
    space = SPACES[kind]
    layer = WeightSpaceLinear(space, space, 2, 3).double()
    for weight in layer.weights.values():
        torch.nn.init.normal_(weight)
    values = inputs(space, 2, 0)
    group = elements(space, 1)
    after, before = space.transform(layer(values), group), layer(space.transform(values, group))
    for name in space.tensors:
        torch.testing.assert_close(before[name], after[name], rtol=1e-10, atol=1e-10)
    for name, factor in space.factors.items():
        outside = group | {name: torch.diag(torch.tensor([2.0] + [1.0] * (factor.n - 1), dtype=torch.float64))}
        after, before = space.transform(layer(values), outside), layer(space.transform(values, outside))
        assert max((before[n] - after[n]).abs().max() for n in space.tensors) > 1e-2


def test_the_layer_is_as_large_as_its_dimension() -> None:
    space = mlp_space([2, 3, 3, 1])
    layer = WeightSpaceLinear(space, space, 1, 1, bias=False).double()
    values = inputs(space, 1, 0)
    total = sum(weight.numel() for weight in layer.weights.values())
    assert total == layer.true_dimension == 75
    names = [name for name, _ in layer.named_parameters()]

    def outputs(*weights: torch.Tensor) -> torch.Tensor:
        after = torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (probe,))
        return torch.cat([value.flatten(1) for value in after.values()], 1).flatten()

    probe = {n: torch.cat([inputs(space, 1, seed)[n] for seed in range(13)]) for n in values}  # 26 ≥ 25 inputs
    jacobian = torch.func.jacrev(outputs, argnums=tuple(range(len(names))))(*(p.detach() for p in layer.parameters()))
    assert (
        torch.linalg.matrix_rank(torch.cat([part.flatten(1) for part in jacobian], 1)) == 75
    )  # no weight is redundant


def test_wrong_spaces_are_user_errors() -> None:
    with pytest.raises(UserError, match="names no factor"):
        TensorSpace({"a": ("h",)}, {})
    with pytest.raises(UserError, match="Symmetric or Orthogonal"):
        TensorSpace({"a": ("h", "d")}, {"h": Symmetric(2), "d": Alternating(3)}, {"d": "h"})
    space = TensorSpace({"v": ("p",)}, {"p": Symplectic(2)})
    with pytest.raises(UserError, match="no equivariant map into tensor 'v'"):
        WeightSpaceLinear(space.with_tensors({"one": (1,)}), space, 1, 1)
    with pytest.raises(UserError, match="same factors"):
        WeightSpaceLinear(mlp_space([1, 3, 1]), mlp_space([1, 4, 1]), 1, 1)
