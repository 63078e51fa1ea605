"""One layer's share of a tangent kernel, three ways, and a cost model that chooses.

With a `[N, S, I]` what enters a layer and g_o `[N, S, J]` the gradients of output o to its pre-activation, the share is
Σ_st (a_ns · a'_mt)(g_ons · g'_pmt):

* `hadamard`: one position; the matrix a a'ᵀ times, entry by entry, the matrices g_o g'_pᵀ;
* `jacobian`: the layer's Jacobian Σ_s g_ons a_nsᵀ is formed, and multiplied with itself; few inputs and outputs;
* `ghost`: the matrices of `hadamard` between all positions, then summed over them; few positions.

Papers: Fast Finite Width Neural Tangent Kernel (Novak et al., 2022).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from analysis.ntk.layers import Layer, jacobian
from analysis.ntk.uses import Use
from modelzoo.kernels.ntk_layer import ntk_layer

Form = Literal["full", "trace", "diagonal", "pseudo"]
Method = Literal["hadamard", "jacobian", "ghost"]
TOUCH = 16.0  # multiplications that reading and writing one entry of a large matrix costs
GHOST_ENTRIES = 2**22  # of the position-by-position matrices held at once

Target = tuple[int, int, Tensor]  # output on the left, output on the right, where their [N, M] is added


@dataclass(frozen=True)
class Costs:
    """Work of one layer for the whole kernel, multiplications and additions, by method; absent: not possible."""

    work: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The method with the least work."""
        return min(self.work, key=lambda name: self.work[name])


def costs(layer: Layer, rows: int, columns: int, outputs: int, form: Form, symmetric: bool) -> Costs:
    """What each method costs for a layer.

    Args:
        layer: the layer.
        rows: N.
        columns: M.
        outputs: O (1 for the pseudo form).
        form: of the kernel.
        symmetric: whether both sides are the same samples, so that output pairs o ≥ p suffice.
    """
    pairs = outputs if form in ("trace", "diagonal") else outputs * (outputs + 1) // 2 if symmetric else outputs**2
    entries, positions, sides = float(rows * columns), layer.positions, rows if symmetric else rows + columns
    forming = 2.0 * outputs * sides * positions * (layer.fan_in * layer.fan_out if layer.kind == "matrix" else layer.fan_out)  # fmt: skip
    work = {"jacobian": forming + TOUCH * outputs * sides * layer.size + 2.0 * pairs * entries * layer.size}
    if layer.kind in ("matrix", "embedding"):
        square = entries * positions**2
        inner = 2.0 * square * layer.fan_in if layer.kind == "matrix" else TOUCH * square
        outer = 0.0 if layer.last else 2.0 * pairs * square * layer.fan_out
        touches = (1 if form == "trace" else pairs) * square
        work["hadamard" if positions == 1 else "ghost"] = inner + outer + TOUCH * touches
    return Costs(work)


@dataclass
class Side:
    """What a layer needs of one block of samples.

    Args:
        uses: the layer's uses, with the role of the parameter in each.
        entered: of every use, see `entering`.
        gradients: of every use `[O, N, S, J]`; None for the layer that is the module's output (unit vectors).
    """

    uses: Sequence[tuple[Use, str]]
    entered: list[Tensor]
    gradients: list[Tensor] | None

    def rows(self) -> Tensor:
        """All that enters, `[N, S, I]`."""
        return self.entered[0] if len(self.entered) == 1 else torch.cat(self.entered, 1)

    def columns(self) -> Tensor:
        """All gradients, `[O, N, S, J]`."""
        assert self.gradients is not None
        return self.gradients[0] if len(self.gradients) == 1 else torch.cat(self.gradients, 2)

    def jacobian(self, output: int) -> Tensor:
        """∂f_o/∂θ for every sample, `[N, size]`: the sum over the uses."""
        if self.gradients is None:
            (only,) = self.entered
            unit = only.new_zeros(len(only), 1, self._fan_out)
            unit[..., output] = 1
            return jacobian(*self.uses[0], only, unit)
        total: Tensor | None = None
        for (use, role), entered, gradients in zip(self.uses, self.entered, self.gradients, strict=True):
            share = jacobian(use, role, entered, gradients[output])
            total = share if total is None else total.add_(share)
        assert total is not None
        return total

    @property
    def _fan_out(self) -> int:
        return self.uses[0][0].output.shape[-1]


def add_layer(
    layer: Layer, method: str, form: Form, left: Side, right: Side, targets: Sequence[Target], whole: Tensor | None
) -> Tensor | None:
    """Add a layer's share to the kernel; to a target that is symmetric at least on and below the diagonal.

    Args:
        layer: the layer.
        method: of `Costs`.
        form: of the kernel.
        left: rows.
        right: columns.
        targets: where to add.
        whole: the kernel `[O, O, N, N]` where it is one symmetric tile in the full form (then it may be replaced), or None.

    Returns:
        The kernel that takes the place of `whole`, None if `targets` were added to.
    """
    if method == "jacobian":
        add_products(left.jacobian, right.jacobian, targets, left is right)
    elif layer.last and left.gradients is None:
        inner = _inner(layer, left, right)[:, :, 0, 0] if layer.kind == "embedding" else left.rows()[:, 0] @ right.rows()[:, 0].T  # fmt: skip
        for o, p, target in targets:
            if o == p:
                target += inner
    elif method == "hadamard" and whole is not None and whole.is_cuda and layer.kind == "matrix":
        return ntk_layer(left.rows(), left.columns(), kernel=whole, bias=False)  # on the CPU adding in place is faster
    else:
        _add_matched(layer, form, left, right, targets)
    return None


def add_products(
    left: Callable[[int], Tensor], right: Callable[[int], Tensor], targets: Sequence[Target], same: bool
) -> None:
    """K_op += J_o J'_pᵀ for Jacobians given output by output; one of them is kept at a time where pairs are o = p."""
    if all(o == p for o, p, _ in targets):
        for o, _, target in targets:
            if same:
                _add_square(target, left(o))
            else:
                target.addmm_(left(o), right(o).T)
        return
    outputs = range(1 + max(o for o, _, _ in targets)), range(1 + max(p for _, p, _ in targets))
    lefts = [left(o) for o in outputs[0]]
    rights = lefts if same else [right(p) for p in outputs[1]]
    for o, p, target in targets:
        if same and o == p:
            _add_square(target, lefts[o])
        else:
            target.addmm_(lefts[o], rights[p].T)


def _add_square(target: Tensor, rows: Tensor) -> None:
    """K += J Jᵀ on and below the diagonal: general products of blocks are steadier than BLAS's symmetric one.

    The sum over parameters is made apart: rounded at the size of what it is added to it would be less exact.
    """
    for block in _blocks(len(rows), len(rows)):
        target[block.start :, block] += rows[block.start :] @ rows[block].T


def mirror(target: Tensor) -> None:
    """Fill a symmetric matrix above its diagonal from below."""
    for block in _blocks(len(target), len(target)):
        square = target[block, block]
        square.copy_(square.tril() + square.tril(-1).T)
        target[block, block.stop :] = target[block.stop :, block].T


def _blocks(count: int, most: int) -> list[slice]:
    """Quarters of the samples, not smaller than 32 and not larger than `most`."""
    return _slices(count, max(1, min(most, max(32, -(-count // 4)))))


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _inner(layer: Layer, left: Side, right: Side, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
    """a_ns · a'_mt of all positions, `[n S, m T]`; for an embedding whether the indices agree."""
    own, other = (x.rows()[part].flatten(0, 1) for x, part in ((left, rows), (right, columns)))
    if layer.kind == "matrix":
        return own @ other.T
    agree = own[:, None] == other
    if (missing := left.uses[0][0].settings["padding_index"]) is not None:
        agree &= own[:, None] != missing
    return agree


def _add_matched(layer: Layer, form: Form, left: Side, right: Side, targets: Sequence[Target]) -> None:
    """`hadamard` and `ghost`: Σ_st of (a_ns · a'_mt)(g_ons · g'_pmt); where a target is symmetric only half of it."""
    g, h, same = left.columns(), right.columns(), left is right
    if form == "trace":  # Σ_o g_o · g'_o is one product of gradients side by side
        g, h = (x.movedim(0, 2).flatten(2).unsqueeze(0) for x in (g, h))
        targets = [(0, 0, targets[0][2])]
    _, count, positions, _ = g.shape
    others, opposite = h.shape[1:3]
    most = max(1, GHOST_ENTRIES // (positions * opposite * max(count, others)))
    halved, whole = (
        [target for target in targets if (same and target[0] == target[1]) == half] for half in (True, False)
    )
    lower = [(slice(block.start, None), block) for block in _blocks(count, most)]
    for pairs, blocks in ((halved, lower), (whole, [(rows, slice(None)) for rows in _slices(count, most)])):
        for rows, columns in blocks if pairs else ():
            inner = _inner(layer, left, right, rows, columns)
            for o, p, target in pairs:
                outer = g[o, rows].flatten(0, 1) @ h[p, columns].flatten(0, 1).T
                outer *= inner
                part = target[rows, columns]
                if positions * opposite > 1:
                    outer = outer.view(part.shape[0], positions, part.shape[1], opposite).sum((1, 3))
                part += outer
