"""Bilinear forms of features that constant linear maps reach before they meet: scores of queries and keys.

A score is (C_t q)ᵀ (D_s k) with constant maps C_t, D_s of the rows q, k of two products with weights. The maps are run on
basis vectors, so it does not matter how a module writes them down; what they have in common is in the forms
M = C_tᵀ D_s, of which random sums over positions t, s are taken.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from graphs.columns import unique_columns
from graphs.interpreter import interpret
from graphs.program import Op, Program, Reference
from graphs.scalings.leaves import MOVES

ADDED = frozenset(f"aten.{name}" for name in ("add", "sub", "rsub"))
LINEAR = MOVES | ADDED | frozenset(
    f"aten.{name}" for name in (
        "cat", "stack", "neg", "mul", "div", "_to_copy", "view_as_complex", "view_as_real", "index_select", "roll",
    )
)  # fmt: skip
TRANSPOSED = frozenset(("aten.permute", "aten.t", "aten.transpose"))
SCORES = frozenset(
    ("aten.bmm", "aten._scaled_dot_product_flash_attention_for_cpu", "aten.scaled_dot_product_attention")
)
RUNS, SUMS_A_RUN = 2, 4  # random numbers of rows, and sums over positions
LARGEST = 128  # features of a component
TOLERANCE = 1e-9
FLAT = 1e-13  # of squared singular values
Form = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class Start:
    """A value whose features are the indices of one dimension of a weight that nothing else reads.

    Args:
        value: `[rows, features]`.
        tensors: (name, dimension) of the weight and of its bias.
        size: number of features.
    """

    value: int
    tensors: tuple[tuple[str, int], ...]
    size: int


@dataclass(frozen=True)
class Reach:
    """What constant linear maps make of some values.

    Args:
        starts: those that reach a score.
        maps: in order.
        scores: products of two of their results, each of one start.
        exposed: results that something else reads, with the start.
        mixes: whether some map adds up several features.
    """

    starts: tuple[Start, ...]
    maps: tuple[Op, ...]
    scores: tuple[tuple[Op, int, int], ...]
    exposed: tuple[tuple[int, int], ...]
    mixes: bool


def starts_of(program: Program) -> list[Start]:
    """Every product with a weight that is read there alone."""
    users, found = program.users(), []
    names = {value: name for name, value in reversed(program.tensors.items())}
    for op in program.ops:
        if op.name not in ("aten.mm", "aten.addmm"):
            continue
        value, dim = op.arguments[-1].value, 1
        while value not in names and len(users[value]) == 1 and (maker := program.values[value].producer) is not None:
            if program.ops[maker].name not in TRANSPOSED:
                break
            value, dim = program.ops[maker].inputs[0], 1 - dim
        owners = [(value, dim), *([(op.arguments[0].value, 0)] if op.name == "aten.addmm" else [])]
        alone = all(
            value in names and len(users[value]) == 1 and value not in program.outputs and dim < len(shape) == rank
            for (value, dim), rank in zip(owners, (2, 1), strict=False)
            for shape in (program.values[value].shape,)
        )
        if alone:
            tensors = tuple((names[value], dim) for value, dim in owners)
            found.append(Start(op.output, tensors, program.values[op.output].shape[1]))
    return found


def reach_of(program: Program, starts: Sequence[Start]) -> Reach:
    """Follow values through constant linear maps, and keep those that end in scores."""
    origin = {start.value: frozenset((k,)) for k, start in enumerate(starts)}
    maps: list[Op] = []
    scores: list[Op] = []
    exposed = {value for value in (*program.outputs, *program.mutated.values()) if value in origin}
    for op in program.ops:
        met = [value for value in op.inputs if value in origin]
        if op.name in SCORES and len(met) > 1 and met == list(op.inputs[:2]):
            scores.append(op)
        elif met and _is_linear(program, op, met):
            maps.append(op)
            union = frozenset[int]().union(*(origin[value] for value in met))
            origin |= {value: union for value in op.outputs if value is not None}
            exposed |= {value for value in op.outputs if value in program.outputs}
        else:
            exposed |= set(met)
    sides = {value for op in scores for value in op.inputs[:2]}
    several = frozenset[int]().union(*(origin[v] for v in exposed | sides if len(origin[v]) > 1))
    apart = [op for op in scores if not any(origin[v] & several for v in op.inputs[:2])]
    exposed |= {value for op in scores if op not in apart for value in op.inputs[:2]}
    alive = frozenset[int]().union(*(origin[v] for op in apart for v in op.inputs[:2]))
    number = {k: place for place, k in enumerate(sorted(alive))}

    def start(value: int) -> int:
        return number[next(iter(origin[value]))]

    kept = [op for op in maps if all(origin[v] <= alive for v in op.outputs if v is not None)]
    return Reach(
        starts=tuple(starts[k] for k in number),
        maps=tuple(kept),
        scores=tuple((op, start(op.inputs[0]), start(op.inputs[1])) for op in apart),
        exposed=tuple((value, start(value)) for value in sorted(exposed) if origin[value] <= alive),
        mixes=any(op.name == "aten.view_as_complex" or (op.name in ADDED and len(op.inputs) > 1) for op in kept),
    )


def _is_linear(program: Program, op: Op, met: Sequence[int]) -> bool:
    """Whether an operator is a constant linear map of the values that are followed."""
    constant = all(value in met or value in program.constants for value in op.inputs)
    if op.name == "aten.mul":
        return constant and len(met) == 1
    if op.name == "aten.div":
        return constant and len(met) == 1 and op.arguments[0] == Reference(met[0])
    whole = op.name not in ADDED or len(met) == sum(not isinstance(a, bool) for a in op.arguments[:2])
    return op.name in LINEAR and constant and whole


def _run(program: Program, reach: Reach, feature: int, draw: int) -> dict[int, Tensor]:
    """What constant maps make of one feature of every start, times a random number a row."""
    generator = torch.Generator().manual_seed(draw)
    inputs = []
    for start in reach.starts:
        rows, size = program.values[start.value].shape
        numbers = torch.rand(rows, generator=generator, dtype=torch.float64) + 0.5
        made = torch.zeros(rows, size, dtype=torch.float64)
        if feature < size:
            made[:, feature] = numbers
        inputs.append(made)
    read = {value for op in reach.maps for value in op.inputs}
    part = replace(
        program, ops=reach.maps, parameters={}, buffers={}, mutated={}, inputs=tuple(s.value for s in reach.starts),
        constants={value: tensor for value, tensor in program.constants.items() if value in read},
    )  # fmt: skip
    return interpret(part, {}, inputs)


@dataclass
class Forms:
    """The bilinear forms of the features of all starts, sums over positions with random weights.

    Args:
        program: the traced module.
        reach: the maps.

    `first` is the number of a start's first feature among all, `touched` says which features something else reads,
    `sides` holds for every score and side `[features, forms, batch, summed]`.
    """

    program: Program
    reach: Reach

    def __post_init__(self) -> None:
        sizes = [start.size for start in self.reach.starts]
        self.first = np.concatenate([[0], np.cumsum(sizes)])
        self.touched = np.zeros(int(self.first[-1]), bool)
        parts: list[tuple[list[list[Tensor]], ...]] = [([], []) for _ in self.reach.scores]
        for feature in range(max(sizes)):
            runs = [_run(self.program, self.reach, feature, draw) for draw in range(RUNS)]
            for value, start in self.reach.exposed:
                if feature < sizes[start] and any(bool(run[value].any()) for run in runs):
                    self.touched[self.first[start] + feature] = True
            for number, (op, *starts) in enumerate(self.reach.scores):
                for side, start in enumerate(starts):
                    if feature < sizes[start]:
                        parts[number][side].append([self._summed(op, side, run) for run in runs])
        self.sides = [
            tuple(torch.stack([torch.cat(runs) for runs in side]) for side in two) for two in parts
        ]  # [features, forms, batch, summed]

    @staticmethod
    def _summed(op: Op, side: int, run: Mapping[int, Tensor]) -> Tensor:
        """Sums over the positions of one side, `[forms of a run, batch, summed]`."""
        made = run[op.inputs[side]]
        made = made.mT if op.name == "aten.bmm" and side == 1 else made
        generator = torch.Generator().manual_seed(100 * op.index + side)
        weights = torch.randn(SUMS_A_RUN, made.shape[-2], generator=generator, dtype=torch.float64)
        return torch.einsum("kt,bte->kbe", weights, made.flatten(0, -3).real)

    def all(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
        """Every form that is not zero: the features on its left, those on its right, and the matrix between them."""
        for (_, *starts), (left, right) in zip(self.reach.scores, self.sides, strict=True):
            largest = float(left.abs().max() * right.abs().max())
            for form, batch in np.ndindex(left.shape[1], left.shape[2]):
                matrix = (left[:, form, batch] @ right[:, form, batch].mT).numpy()
                matrix[abs(matrix) <= TOLERANCE * largest] = 0
                rows, columns = np.flatnonzero(matrix.any(1)), np.flatnonzero(matrix.any(0))
                if len(rows):
                    where = (self.first[starts[0]] + rows, self.first[starts[1]] + columns)
                    yield *where, matrix[np.ix_(rows, columns)]


def units(program: Program, reach: Reach) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """For every component that carries complex numbers the starts and the indices of its features, and J."""
    forms = Forms(program, reach)
    count = len(forms.touched)
    every = list(forms.all())
    joined = [np.stack([rows[i], columns[j]]) for rows, columns, matrix in every for i, j in [np.nonzero(matrix)]]
    edges = unique_columns(np.concatenate(joined, 1))
    component = connected_components(coo_array((np.ones(edges.shape[1]), edges), (count, count)), directed=False)[1]
    owner = np.searchsorted(forms.first, np.arange(count), side="right") - 1
    by_component: dict[int, list[Form]] = defaultdict(list)
    for rows, columns, matrix in every:
        for number in np.unique(component[rows]):
            i, j = component[rows] == number, component[columns] == number
            by_component[int(number)].append((rows[i], columns[j], matrix[np.ix_(i, j)]))
    for number, own in sorted(by_component.items()):
        nodes = np.flatnonzero(component == number)
        if len(nodes) <= LARGEST and not forms.touched[nodes].any():
            unit = imaginary_unit(nodes, owner[nodes], own)
            if unit is not None:
                yield owner[nodes], nodes - forms.first[owner[nodes]], unit


def imaginary_unit(
    nodes: NDArray[np.int64], owner: NDArray[np.int64], forms: Sequence[Form]
) -> NDArray[np.float64] | None:
    """J with J² = −1 if Xᵀ M + M X = 0 has just the solutions x S + y J (S is 1 on the left, −1 on the right) or y J.

    Args:
        nodes: `[n]` numbers of the features, sorted.
        owner: `[n]` which features may be mixed: those of one weight.
        forms: (left features, right features, M).

    Returns:
        `[n, n]`, or None if there are other solutions or no such J.
    """
    n = len(nodes)
    placed = [(np.searchsorted(nodes, rows), np.searchsorted(nodes, columns), m) for rows, columns, m in forms]
    together, side = np.eye(n, dtype=bool), np.zeros(n)
    for rows, columns, _ in placed:  # heads that share no score are not mixed
        for own, sign in ((rows, 1), (columns, -1)):
            together[np.ix_(own, own)] = True
            side[own] = sign
    p, q = np.nonzero(together & (owner[:, None] == owner))
    gram = np.zeros((len(p), len(p)))
    for rows, columns, m in placed:
        full = np.zeros((n, n))
        full[np.ix_(rows, columns)] = m
        change = np.zeros((len(p), n, n))  # of M under X = E_pq: row q gains row p, column q gains column p
        unknown = np.arange(len(p))
        change[unknown, q] += full[p]
        change[unknown, :, q] += full[:, p].T
        flat = change.reshape(len(p), -1) / abs(m).max()
        flat = flat[:, flat.any(0)]
        gram += flat @ flat.T
    values, vectors = np.linalg.eigh(gram)
    null = vectors[:, values <= FLAT * values[-1]]
    scale = np.where(p == q, side[p], 0) / np.sqrt(n)
    inside = np.linalg.norm(null.T @ scale) > 1 - 1e-6
    rest = null - np.outer(scale, scale @ null) if inside else null
    if null.shape[1] != 1 + inside:
        return None
    unit = np.zeros((n, n))
    unit[p, q] = rest[:, np.linalg.norm(rest, axis=0).argmax()]
    square = -np.diagonal(unit @ unit)
    if square.min() <= 0 or abs(unit @ unit + square.mean() * np.eye(n)).max() > 1e-6 * square.mean():
        return None
    unit /= np.sqrt(square.mean())
    return unit * -np.sign(unit[0, abs(unit[0]).argmax()])
