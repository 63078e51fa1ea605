"""Which generators of a discrete or compact factor belong to one block of a permutation factor alone.

The sign of a tanh neuron belongs to that neuron, the rotation inside a head to that head; such generators are chosen
together with the assignment of their block.
"""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.symmetry.occurrences import NONE, SEVERAL, Blocks, Codes, joined
from graphs.factors import Factor, PermutationFactor
from graphs.group import SymmetryGroup
from graphs.scalings.commutation import SwapFactor
from graphs.scalings.diagonal import DiagonalFactor
from graphs.scalings.linear import LinearFactor, Mixed
from graphs.scalings.rotations import RotationFactor, Turned

Indices = NDArray[np.int64]


def owned(blocks: Blocks, factor: Factor) -> Indices | None:
    """Generators of a factor by block, `[copies, m, kinds]`: entry (c, e, k) is block e's generator of kind k.

    Args:
        blocks: of the permutation factor.
        factor: signs, phases, swaps, linear or rotated copies, or permutations inside the blocks.

    Returns:
        Their numbers in the factor (its copies, where it is linear, a rotation or a permutation); None if no generator belongs to
        a block alone, or blocks have different numbers of them.
    """
    if isinstance(factor, DiagonalFactor) and factor.question != "positive":
        places = _diagonal(blocks, factor)
    elif isinstance(factor, SwapFactor):
        places = _swaps(blocks, factor)
    elif isinstance(factor, LinearFactor | RotationFactor):
        places = _copies(blocks, factor)
    elif isinstance(factor, PermutationFactor):
        places = _inner(blocks, factor)
    else:
        return None
    mine: dict[int, list[tuple[Any, int]]] = defaultdict(list)
    for generator, found in places.items():
        codes = {code for code, _ in found}
        if len(codes) == 1 and min(codes) >= 0:
            mine[codes.pop()].append((sorted(place for _, place in found), generator))
    total = blocks.copies * blocks.count
    sizes = {len(mine[code]) for code in range(total)}
    if len(sizes) != 1 or sizes == {0}:
        return None
    table = [[generator for _, generator in sorted(mine[code])] for code in range(total)]
    return np.array(table).reshape(blocks.copies, blocks.count, -1)


Places = dict[int, list[tuple[int, Any]]]


def _diagonal(blocks: Blocks, factor: DiagonalFactor) -> Places:
    """For every generator the blocks of the entries it turns, each with a name of the place inside the block."""
    found: Places = defaultdict(list)
    for number, term in enumerate(factor.exponents):
        wide = [d for d, size in enumerate(term.shape) if size > 1]
        codes = _codes_at(blocks, blocks.group, term.tensor, wide, term.shape).ravel()
        rank_in_block: dict[int, int] = defaultdict(int)
        for row in range(len(term.index)):
            code = int(codes[row])
            for generator, coefficient in zip(term.index[row].tolist(), term.coefficient[row].tolist(), strict=True):
                if coefficient % 2 if factor.question == "sign" else coefficient:
                    found[generator].append((code, (number, rank_in_block[code])))
            rank_in_block[code] += 1
    return found


def _codes_at(blocks: Blocks, group: SymmetryGroup, tensor: str, wide: list[int], shape: tuple[int, ...]) -> Codes:
    """The block of every index of some dimensions of a tensor, `shape`; `SEVERAL` where it depends on other dimensions."""
    labels = group.labelling.raw[group.program.tensors[tensor]]
    assert labels is not None
    parts = []
    for dim in wide:
        array = labels[dim]
        if array is None:
            continue
        codes = blocks.codes[array]
        if any(size > 1 and axis not in wide for axis, size in enumerate(array.shape)):
            same = codes.max(tuple(a for a in range(codes.ndim) if a not in wide), keepdims=True)
            codes = np.where((codes == same).all(), same, SEVERAL)
        parts.append(np.broadcast_to(codes, shape))
    return joined(np.stack(parts, -1)) if parts else np.full(shape, NONE, np.int64)


def _swaps(blocks: Blocks, factor: SwapFactor) -> Places:
    found: Places = defaultdict(list)
    for number, pair in enumerate(factor.pairs):
        shape = tuple(size if d == pair.dim else 1 for d, size in enumerate(factor.shapes[pair.left]))
        codes = _codes_at(blocks, blocks.group, pair.left, [pair.dim], shape).ravel()
        for unit, code in zip(pair.unit.tolist(), codes.tolist(), strict=True):
            found[unit].append((code, (number,)))
    return found


def _copies(blocks: Blocks, factor: LinearFactor | RotationFactor) -> Places:
    found: Places = defaultdict(list)
    parts: list[Mixed | Turned] = [*(factor.mixed if isinstance(factor, LinearFactor) else factor.turned)]
    for number, mixed in enumerate(parts):
        shape = tuple(size if d == mixed.dim else 1 for d, size in enumerate(mixed.shape))
        codes = _codes_at(blocks, blocks.group, mixed.tensor, [mixed.dim], shape).ravel()
        for copy in range(factor.copies):
            for code in np.unique(codes[mixed.positions[copy]]).tolist():
                found[copy].append((code, (number,)))
    return found


def _inner(blocks: Blocks, factor: PermutationFactor) -> Places:
    """Copies of a level below, however deep: the block that all their labels lie in."""
    structure, level = factor.structure, factor.structure.levels[factor.level]
    above = level.parent
    while above >= 0 and above != blocks.factor.level:
        above = structure.levels[above].parent
    if above < 0:
        return {}
    return {
        copy: [(code, (0,)) for code in np.unique(blocks.codes[level.nodes[copy]]).tolist()]
        for copy in range(level.copies)
    }
