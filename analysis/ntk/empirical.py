"""The empirical neural tangent kernel of any module, exactly.

Papers: Neural Tangent Kernel: Convergence and Generalization in Neural Networks (Jacot et al., 2018); Fast Finite Width
Neural Tangent Kernel (Novak et al., 2022); A Fast, Well-Founded Approximation to the Empirical Neural Tangent Kernel
(Mohamadi et al., 2023), for the pseudo form.

    Θ_op(x, x') = Σ_θ ∂f_o(x)/∂θ ∂f_p(x')/∂θ

One pass forward records what enters every layer, one pass backward the gradients to pre-activations, and no gradient of
a parameter is formed unless the cost model finds that cheaper (see `analysis.ntk.products`). Parameters in operations
that have no layer product are differentiated sample by sample in one batch (`analysis.ntk.remainder`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from analysis.ntk.layers import Layer, Structure, structure
from analysis.ntk.products import Costs, Form, Side, Target, add_layer, add_products, costs, mirror
from analysis.ntk.tile import Tile
from graphs.program import evaluation_mode
from modelzoo.errors import UnknownNameError, UserError

Reduction = Literal["sum", "mean"]
MAX_MEMORY = 2**30
CACHED = 2**22  # bytes of gradients that are taken together where outputs can be taken one by one


@dataclass(frozen=True)
class LayerShare:
    """What was done for one layer.

    Args:
        layer: the layer.
        method: `hadamard`, `jacobian` or `ghost`; `vjp` for parameters without a layer product.
        costs: of the methods that were possible.
    """

    layer: Layer
    method: str
    costs: Costs


@dataclass(frozen=True)
class EmpiricalKernel:
    """An empirical tangent kernel.

    Args:
        values: full `[N, M, O, O]`, diagonal `[N, M, O]`, trace and pseudo `[N, M]`.
        form: which of these.
        reduction: over outputs: the sum or the mean of Θ_oo for the trace, of Θ_op over o and p (the mean: by 1/O) for
            the pseudo form.
        shares: how every layer was computed.
        tile: samples that were held at a time.
        samplewise: False where an output depends on all inputs (the nodes of a graph); N then counts rows of the output.
        one_by_one: why parameters without a layer product took a pass a sample, empty if they did not.
    """

    values: Tensor
    form: Form
    reduction: Reduction
    shares: tuple[LayerShare, ...]
    tile: int
    samplewise: bool
    one_by_one: str

    def matrix(self) -> Tensor:
        """The kernel as one matrix, `[N·O, M·O]` in the full form (rows by sample, then output), else `[N, M]`."""
        if self.form == "full":
            return self.values.transpose(1, 2).flatten(2).flatten(0, 1)
        if self.form == "diagonal":
            raise UserError("the diagonal form has a matrix for every output; take values[:, :, output].")
        return self.values


def empirical_kernel(
    module: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    others: Tensor | Sequence[Tensor] | None = None,
    *,
    form: Form = "full",
    reduction: Reduction = "sum",
    outputs: Sequence[int] | None = None,
    parameters: Sequence[str] | None = None,
    method: str | None = None,
    max_memory: int = MAX_MEMORY,
) -> EmpiricalKernel:
    """The tangent kernel between two sets of samples, in evaluation mode.

    Args:
        module: any module whose first output is a real tensor `[N, *]`.
        inputs: of N samples, each `[N, *]`; or of one coupled sample such as a graph.
        others: of M samples, None for `inputs`.
        form: `full`, `trace` (Θ_oo over outputs), `diagonal` (every Θ_oo) or `pseudo` (of the sum of all outputs).
        reduction: see `EmpiricalKernel`.
        outputs: positions among the flattened outputs of a sample, None for all.
        parameters: names of those that count, None for all that require gradients.
        method: force one on every layer that can take it (for comparison); None lets the cost model choose.
        max_memory: bytes that the work beside the result may take; samples are then taken in tiles.

    Raises:
        UserError: a name or position is unknown, or one sample alone needs more than `max_memory`.
    """
    left = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    right = None if others is None else (others,) if isinstance(others, Tensor) else tuple(others)
    with evaluation_mode(module), torch.enable_grad():
        names = _names(module, parameters)
        found = structure(module, left if right is None or len(left[0]) > 1 else right, names)
        work = _Work(module, found, form, outputs, names)
        counts = (work.count(left), work.count(left if right is None else right))
        shares = work.choose(*counts, right is None, method)
        tile, step = work.tile(max(counts), shares, right is None, max_memory)
        values = work.kernel(left, right, counts, shares, tile, step)
    if not found.samplewise:
        values = _by_rows(values[0, 0], work.outputs, form)
    elif form == "full":
        values = values.permute(2, 3, 0, 1)
    elif form == "diagonal":
        values = values.permute(1, 2, 0)
    if reduction == "mean" and form in ("trace", "pseudo"):
        values /= work.outputs
    return EmpiricalKernel(values, form, reduction, tuple(shares), tile, found.samplewise, work.one_by_one)


def _names(module: nn.Module, chosen: Sequence[str] | None) -> list[str]:
    own = {name: value.requires_grad for name, value in module.named_parameters()}
    for name in chosen or ():
        if name not in own:
            raise UnknownNameError("parameter", name, own)
    names = [name for name in own if (own[name] if chosen is None else name in chosen)]
    if not names:
        raise UserError("the module has no parameter that requires a gradient, so it has no tangent kernel.")
    return names


def _by_rows(values: Tensor, outputs: int, form: Form) -> Tensor:
    """The kernel of all outputs of a coupled sample `[N·O, M·O]` in the form asked for."""
    full = values.unflatten(0, (-1, outputs)).unflatten(2, (-1, outputs)).transpose(1, 2)  # [N, M, O, O]
    if form == "diagonal":
        return full.diagonal(dim1=2, dim2=3).clone()
    if form == "trace":
        return full.diagonal(dim1=2, dim2=3).sum(-1)
    return full.sum((2, 3)) if form == "pseudo" else full


class _Work:
    """A kernel under construction."""

    def __init__(
        self, module: nn.Module, found: Structure, form: Form, outputs: Sequence[int] | None, names: Sequence[str]
    ) -> None:
        self.module, self.found, self.selected, self.names = module, found, outputs, names
        for place in outputs or ():
            if not 0 <= place < found.outputs:
                raise UserError(f"output {place} is not there; a sample has outputs 0 to {found.outputs - 1}.")
        self.outputs = found.outputs if outputs is None else len(outputs)
        # Where outputs are coupled every one of them is a sample with one output.
        self.form: Form = form if found.samplewise else "full"
        self.summed = found.samplewise and form == "pseudo"
        self.columns = self.outputs if found.samplewise and not self.summed else 1
        self.one_by_one = ""

    def count(self, inputs: tuple[Tensor, ...]) -> int:
        """Samples; of a coupled sample its outputs."""
        if self.found.samplewise:
            return len(inputs[0])
        with torch.no_grad():
            return len(pytree.tree_leaves(self.module(*inputs))[0]) * self.outputs

    def choose(self, rows: int, columns: int, symmetric: bool, method: str | None) -> list[LayerShare]:
        """The method of every layer."""
        shares = []
        for layer in self.found.layers:
            priced = costs(layer, rows, columns, self.columns, self.form, symmetric)
            forced = method if method in priced.work else None
            shares.append(LayerShare(layer, forced or priced.best, priced))
        if self.found.remainder:
            own = dict(self.module.named_parameters())
            size = sum(own[name].numel() for name in self.found.remainder)
            layer = Layer(self.found.remainder, "remainder", (), False, size, 1, 1, size)
            shares.append(LayerShare(layer, "vjp", costs(layer, rows, columns, self.columns, self.form, symmetric)))
        return shares

    def tile(self, count: int, shares: Sequence[LayerShare], single: bool, max_memory: int) -> tuple[int, int]:
        """Samples a tile, so that two of them fit, and outputs whose gradients are held at a time.

        Where only o = p counts and Jacobians are formed output by output, as many outputs are taken together as have
        gradients that stay in the processor's cache, if all samples are one tile.
        """
        item = max(value.element_size() for value in self.module.parameters())
        entering, gradients, formed = 0, 0, 0  # scalars a sample: in all layers; of an output in all; in one layer
        for share in shares:
            layer = share.layer
            if share.method == "vjp":
                entering += 3 * self.columns * layer.size
                continue
            entering += layer.positions * (2 * layer.fan_in + 2 * min(layer.fan_out, layer.size))
            gradients += layer.positions * min(layer.fan_out, layer.size)
            if share.method == "jacobian":
                formed = max(formed, layer.size * (self.columns if self.form == "full" else 1))
        alone = all(
            share.method in ("jacobian", "vjp") or (share.layer.last and self.selected is None) for share in shares
        )
        steps = [self.columns]
        if single and alone and self.form in ("trace", "diagonal"):
            steps.insert(0, min(self.columns, max(1, CACHED // max(1, item * count * gradients))))
        for step in steps:
            needed = item * (entering + step * gradients + formed)
            if needed * count <= max_memory:
                return count, step
        if 2 * needed > max_memory:
            raise UserError(f"two samples need about {2 * needed:,} bytes, max_memory is {max_memory:,}; raise it, take fewer outputs, or use the operator.")  # fmt: skip
        return max_memory // (2 * needed), self.columns

    def samples(self, inputs: tuple[Tensor, ...], rows: slice, shares: Sequence[LayerShare]) -> Tile:
        """A tile after its pass forward."""
        layers = [share.layer for share in shares]
        return Tile(self.module, self.found, layers, self.names, inputs, rows, self.selected, self.summed)

    def sides(self, tile: Tile, chosen: slice) -> list[Side | Tensor]:
        """What every layer needs of a tile."""
        sides = tile.sides(chosen)
        self.one_by_one = self.one_by_one or tile.one_by_one
        return sides

    def kernel(
        self, left: tuple[Tensor, ...], right: tuple[Tensor, ...] | None, counts: tuple[int, int],
        shares: Sequence[LayerShare], tile: int, step: int,
    ) -> Tensor:  # fmt: skip
        """The kernel, outputs first: `[O, O, N, M]`, `[O, N, M]` or `[N, M]`."""
        example = next(self.module.parameters())
        real = example.real if example.is_complex() else example
        lead = {"full": (self.columns,) * 2, "diagonal": (self.columns,), "trace": (), "pseudo": ()}[self.form]
        out = real.new_zeros(*lead, *counts)
        every = slice(0, self.columns)
        for rows in _blocks(counts[0], tile):
            own = self.samples(left, rows, shares)
            if right is None:
                for chosen in _blocks(self.columns, step):
                    sides = self.sides(own, chosen)
                    out = self.add(sides, sides, shares, out, rows, rows, chosen)
                self.complete(out[..., rows, rows])
            else:
                sides = self.sides(own, every)
            for columns in _blocks(counts[1] if right is not None else rows.start, tile):
                other = self.samples(left if right is None else right, columns, shares)
                self.add(sides, self.sides(other, every), shares, out, rows, columns, every)
                if right is None:
                    block = out[..., rows, columns].mT
                    out[..., columns, rows] = block.transpose(0, 1) if self.form == "full" else block
        return out

    def add(
        self, left: list[Side | Tensor], right: list[Side | Tensor], shares: Sequence[LayerShare], out: Tensor,
        rows: slice, columns: slice, chosen: slice,
    ) -> Tensor:  # fmt: skip
        """Add all layers' shares to one tile; returns the kernel (another tensor where it was one tile)."""
        same = left is right
        single = same and self.form == "full" and rows == slice(0, out.shape[-1])
        for share, a, b in zip(shares, left, right, strict=True):
            constant = isinstance(a, Side) and a.gradients is None  # the same for every output, so added once to all
            if constant and chosen.start:
                continue
            targets = self.targets(out[..., rows, columns], slice(0, self.columns) if constant else chosen, same)
            if isinstance(a, Tensor) and isinstance(b, Tensor):
                add_products(a.__getitem__, b.__getitem__, targets, same)
                continue
            assert isinstance(a, Side)
            assert isinstance(b, Side)
            replaced = add_layer(share.layer, share.method, self.form, a, b, targets, out if single else None)
            out = out if replaced is None else replaced
        return out

    def complete(self, tile: Tensor) -> None:
        """The other half of a tile of samples against themselves."""
        if self.form != "full":
            for target in tile if self.form == "diagonal" else (tile,):
                mirror(target)
            return
        for o in range(self.columns):
            mirror(tile[o, o])
            for p in range(o):
                tile[p, o] = tile[o, p].T

    def targets(self, tile: Tensor, chosen: slice, same: bool) -> list[Target]:
        """Pairs of the chosen outputs, counted from the first, and the part of the kernel that is theirs; against itself only o ≥ p."""
        count = range(chosen.stop - chosen.start)
        if self.form == "full":
            return [(o, p, tile[o, p]) for o in count for p in count if not (same and p > o)]
        if self.form == "diagonal":
            return [(o, o, tile[chosen.start + o]) for o in count]
        return [(o, o, tile) for o in count]


def _blocks(count: int, tile: int) -> Iterator[slice]:
    for start in range(0, count, tile):
        yield slice(start, min(start + tile, count))
