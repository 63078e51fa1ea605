"""From diagrams to matrices: the dense reference, brute-force invariants, spanning sets and bases.

"Categorification of Group Equivariant Neural Networks" (Pearce-Crump, 2023): a functor Θ from diagrams to matrices with
Θ(d₂ ∘ d₁) · loop^c = Θ(d₂) Θ(d₁), for c closed components, and Θ(d₁ ⊗ d₂) = Θ(d₁) ⊗ Θ(d₂) (Kronecker product).
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np

from metanets.equivariant.diagrams import LOOSE, Diagram, Morphism, parity
from metanets.equivariant.groups import Group, Matrix


def matrix(diagram: Diagram, group: Group) -> Matrix:
    """Θ(d): the matrix of the equivariant map of a diagram, the dense reference of every fast product.

    Entry (I, J) is Π_blocks [all indices of the block are equal] · ε(indices held by the head). For a symplectic group
    pairs inside the lower row carry Ω instead, those inside the upper row Ωᵀ, and every crossing a sign.

    Args:
        diagram: from k to l points.
        group: whose n and form are used.

    Returns:
        `[n^l, n^k]`.

    Raises:
        ValueError: the diagram does not fit the group.
    """
    n, points = group.n, diagram.points
    if group.form is not None and (not diagram.is_brauer() or diagram.head):
        raise ValueError("a symplectic group takes Brauer diagrams only")
    if diagram.head and len(diagram.head) != n:
        raise ValueError(f"a head over R^{n} needs {n} tentacles, got {len(diagram.head)}")
    strides = n ** np.arange(points)[::-1]
    assignments = np.indices((n,) * len(diagram.blocks)).reshape(len(diagram.blocks), n ** len(diagram.blocks))
    where = np.zeros(assignments.shape[1], dtype=np.int64)
    for block, index in zip(diagram.blocks, assignments, strict=True):
        where += index * int(strides[list(block)].sum())
    entries = np.zeros(n**points)
    entries[where] = _symbol(assignments, diagram.head, n) if diagram.head else 1
    if group.form is not None:
        entries = _with_form(entries.reshape((n,) * points), diagram, group.form)
    return entries.reshape(n**diagram.upper, n**diagram.lower)


def _symbol(assignments: np.ndarray, head: Sequence[int], n: int) -> np.ndarray:
    """Values of the Levi-Civita symbol, summed over the loose tentacle."""
    levi_civita = np.zeros((n,) * n)
    for order in permutations(range(n)):
        levi_civita[order] = parity(order)
    if LOOSE in head:
        levi_civita = levi_civita.sum(list(head).index(LOOSE))
    return levi_civita[tuple(assignments[t] for t in head if t != LOOSE)]


def _with_form(entries: np.ndarray, diagram: Diagram, form: Matrix) -> np.ndarray:
    for a, b in diagram.blocks:
        if b < diagram.upper or a >= diagram.upper:
            twist = form.T if b < diagram.upper else form
            entries = np.moveaxis(np.moveaxis(entries, b, -1) @ twist, -1, b)
    return entries * (-1) ** diagram.crossings()


def morphism_matrix(morphism: Morphism, group: Group, lower: int, upper: int) -> Matrix:
    """Θ of a formal sum, `[n^l, n^k]`; the rows are needed for the empty sum."""
    total = np.zeros((group.n**upper, group.n**lower))
    for diagram, coefficient in morphism.terms.items():
        total += coefficient * diagram.matrix(group)
    return total


def tensor_power(element: Matrix, order: int) -> Matrix:
    """g ⊗ … ⊗ g."""
    power: Matrix = np.ones((1, 1))
    for _ in range(order):
        power = np.asarray(np.kron(power, element))
    return power


def invariants(group: Group, order: int) -> Matrix:
    """An orthonormal basis of the invariant tensors, by brute force: the common null space of all generators.

    g^{⊗m} v = v for the group's generators and (Σ_i 1 ⊗ … A … ⊗ 1) v = 0 for its Lie algebra. Uses no diagram.

    Args:
        group: any.
        order: m.

    Returns:
        `[n^m, dimension]`.
    """
    n = group.n
    space: Matrix = np.eye(n**order)
    coordinates = True
    conditions = [(a, True) for a in group.algebra()] + [(g, False) for g in group.generators()]
    for each, infinitesimal in conditions:
        tensor = space.reshape((n,) * order + (space.shape[1],))
        moved = np.zeros_like(tensor) if infinitesimal else tensor
        for axis in range(order):
            source = tensor if infinitesimal else moved
            result = np.moveaxis(np.tensordot(each, source, axes=(1, axis)), 0, axis)
            moved = moved + result if infinitesimal else result
        defect = (moved if infinitesimal else moved - tensor).reshape(n**order, -1)
        if coordinates and not np.any(each - np.diag(np.diag(each))):  # a diagonal generator drops coordinates
            space = space[:, np.abs(defect).max(0, initial=0) < 1e-12]
            continue
        coordinates = False
        values, vectors = np.linalg.eigh(defect.T @ defect)
        space = space @ vectors[:, values < 1e-9 * max(1.0, float(np.abs(values).max(initial=0)))]
    return np.asarray(space)


def spanning_set(group: Group, order_in: int, order_out: int) -> list[Any]:
    """All diagrams of the group from `order_in` to `order_out`; they span the equivariant maps."""
    return list(group.diagrams(order_in, order_out))


def true_dimension(group: Group, order_in: int, order_out: int) -> int:
    """The exact dimension of the equivariant maps, which the number of diagrams can exceed for small n."""
    return group.dimension(order_in + order_out)


@lru_cache(maxsize=256)
def _basis(group: Group, order_in: int, order_out: int) -> tuple[Any, ...]:
    terms = spanning_set(group, order_in, order_out)
    dimension = true_dimension(group, order_in, order_out)
    if len(terms) == dimension:
        return tuple(terms)
    # fewest blocks first: those are the diagrams that stay independent for small n
    terms.sort(key=lambda each: len(each.blocks))
    size = group.n ** (order_in + order_out)
    kept: list[Any] = []
    directions = np.zeros((0, size))
    for each in terms:
        vector = each.matrix(group).ravel()
        rest = vector - directions.T @ (directions @ vector)
        rest -= directions.T @ (directions @ rest)
        if np.linalg.norm(rest) > 1e-8 * np.linalg.norm(vector):
            kept.append(each)
            directions = np.vstack([directions, rest / np.linalg.norm(rest)])
        if len(kept) == dimension:
            return tuple(kept)
    raise AssertionError(f"{len(kept)} of {dimension} diagrams found for {group}")


def basis(group: Group, order_in: int, order_out: int) -> list[Any]:
    """A linearly independent part of the spanning set, of `true_dimension` diagrams."""
    return list(_basis(group, order_in, order_out))
