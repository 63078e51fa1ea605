"""Linear layers under a product of groups: collections of tensors whose axes belong to different groups.

The weights of a network are such a collection: hidden layer i is permuted by its own S_{n_i}, which acts on the rows of one
matrix, the columns of the next, and a bias. A diagram of the product is one diagram for every factor, side by side.
"Connecting Permutation Equivariant Neural Networks and Partition Diagrams" (Pearce-Crump, 2022), section on local symmetries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from math import prod, sqrt

import torch
from torch import Tensor, nn

from metanets.equivariant.chained_product import ChainedProduct, Link
from metanets.equivariant.contraction import DiagramProduct
from metanets.equivariant.diagrams import Diagram
from metanets.equivariant.functor import basis, spanning_set
from metanets.equivariant.groups import Group, Orthogonal, Symmetric
from modelzoo.errors import UserError

Axis = str | int


@dataclass(frozen=True)
class TensorSpace:
    """Named tensors with axes that belong to the factors of a product of groups.

    Args:
        tensors: axes by tensor name; a string names a factor, an integer is the length of an axis that no group moves.
        factors: groups by name.
        nested: factors inside blocks of another one, by name: a wreath product, as attention's head dimensions inside
            heads. Every block has its own copy; an axis of a nested factor belongs to the nearest axis of the other
            factor to its left in the same tensor.

    Raises:
        UserError: an axis names no factor, a nested factor is neither symmetric nor orthogonal, or a nested axis stands alone.
    """

    tensors: Mapping[str, tuple[Axis, ...]]
    factors: Mapping[str, Group]
    nested: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, axes in self.tensors.items():
            for axis in axes:
                if isinstance(axis, str) and axis not in self.factors:
                    raise UserError(
                        f"axis {axis!r} of tensor {name!r} names no factor; known: {', '.join(self.factors)}."
                    )
                if axis in self.nested and self.nested[str(axis)] not in axes[: axes.index(axis)]:
                    raise UserError(
                        f"axis {axis!r} of tensor {name!r} is nested in {self.nested[str(axis)]!r}, which must come before it."
                    )
        if self.nested and not self.joint:
            names = ", ".join(map(str, self.factors.values()))
            raise UserError(f"nested factors must all be Symmetric or Orthogonal, got {names}; leave the nesting out.")

    @property
    def joint(self) -> bool:
        """Whether diagrams of all factors can be drawn into one: those without heads, forms and edges."""
        return all(isinstance(group, Symmetric | Orthogonal) for group in self.factors.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """Lengths of a tensor's axes."""
        return tuple(axis if isinstance(axis, int) else self.factors[axis].n for axis in self.tensors[name])

    def moved(self, name: str) -> list[int]:
        """Positions of the axes that belong to a factor."""
        return [i for i, axis in enumerate(self.tensors[name]) if isinstance(axis, str)]

    def multiplicity(self, name: str) -> int:
        """Number of copies that the unmoved axes make."""
        return prod(axis for axis in self.tensors[name] if isinstance(axis, int))

    def with_tensors(self, tensors: Mapping[str, tuple[Axis, ...]]) -> "TensorSpace":
        """Other tensors over the same factors."""
        return TensorSpace(tensors, self.factors, self.nested)

    def parents(self, axes: Sequence[Axis]) -> list[int]:
        """For every axis the position of the axis it is nested in, −1 for none."""
        found = []
        for i, axis in enumerate(axes):
            outer = self.nested.get(axis) if isinstance(axis, str) else None
            found.append(-1 if outer is None else max(j for j in range(i) if axes[j] == outer))
        return found

    def invariants(self, count: int = 1) -> "TensorSpace":
        """`count` numbers that no factor moves, as one tensor `invariant`."""
        return self.with_tensors({"invariant": (count,)})

    def transform(self, values: Mapping[str, Tensor], elements: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Apply one group element per factor to tensors `[B, *shape, C]`."""
        moved = dict(values)
        for name, axes in self.tensors.items():
            for position, axis in enumerate(axes):
                if isinstance(axis, str):
                    matrix = elements[axis].to(moved[name])
                    moved[name] = torch.tensordot(moved[name], matrix, dims=([1 + position], [1])).movedim(
                        -1, 1 + position
                    )
        return moved


def mlp_space(widths: Sequence[int], bias: bool = True) -> TensorSpace:
    """The weights of an MLP, layer i as `{i}.weight [out, in]` and `{i}.bias [out]`; hidden neurons may be permuted.

    Args:
        widths: of input, hidden layers and output.
        bias: whether the layers have biases.
    """
    last = len(widths) - 1
    axes: list[Axis] = [widths[0], *(f"hidden{i}" for i in range(1, last)), widths[last]]
    tensors: dict[str, tuple[Axis, ...]] = {}
    for layer in range(last):
        tensors[f"{layer}.weight"] = (axes[layer + 1], axes[layer])
        if bias:
            tensors[f"{layer}.bias"] = (axes[layer + 1],)
    return TensorSpace(tensors, {f"hidden{i}": Symmetric(widths[i]) for i in range(1, last)})


def _joint_diagrams(source: TensorSpace, a: Sequence[Axis], b: Sequence[Axis], independent: bool) -> list[Diagram]:
    """Diagrams from moved axes `a` to moved axes `b`: one diagram for every factor, on the axes of that factor.

    Axes of a nested factor meet only where the axes they are nested in do: one diagram for every block of those.
    """
    axes = [*b, *a]
    outer = [*source.parents(b), *(-1 if p < 0 else len(b) + p for p in source.parents(a))]
    partial: list[list[tuple[int, ...]]] = [[]]
    for factor in _outermost_first(source):
        points = [p for p, axis in enumerate(axes) if axis == factor]
        grown = []
        for blocks in partial:
            inside: dict[tuple[int, ...], list[int]] = {}
            for p in points:
                inside.setdefault(next((k for k in blocks if outer[p] in k), ()), []).append(p)
            each = [_partitions(source.factors[factor], own, len(b), independent) for own in inside.values()]
            grown += [[*blocks, *chain.from_iterable(choice)] for choice in product(*each)]
        partial = grown
    return [Diagram(len(a), len(b), tuple(blocks)) for blocks in partial]


def _joint(
    source: TensorSpace, axes_in: Sequence[Axis], axes_out: Sequence[Axis]
) -> tuple[nn.Module, list[float], int]:
    """The product for one pair of tensors, how many entries every term of the basis sums, and the spanning count."""
    terms = _joint_diagrams(source, axes_in, axes_out, independent=True)
    sizes = [[source.factors[str(axis)].n for axis in axes] for axes in (axes_in, axes_out)]
    summed = [float(prod(sizes[0][b[0] - term.upper] for b in term.blocks if b[0] >= term.upper)) for term in terms]
    spanning = len(_joint_diagrams(source, axes_in, axes_out, independent=False))
    return DiagramProduct(terms, sizes[0], sizes[1]), summed, spanning


def _chained(
    source: TensorSpace, axes_in: Sequence[Axis], axes_out: Sequence[Axis]
) -> tuple[nn.Module, list[float], int]:
    """The same where diagrams of different factors do not join: one factor after the other."""
    links, spanning = [], 1
    for name, group in source.factors.items():
        rows = [tuple(i for i, axis in enumerate(axes) if axis == name) for axes in (axes_in, axes_out)]
        orders = len(rows[0]), len(rows[1])
        if any(orders) or len(source.factors) == 1:
            spanning *= len(spanning_set(group, *orders))
            links.append(Link(group, rows[0], rows[1], basis(group, *orders)))
    links = links or [Link(next(iter(source.factors.values())), (), (), [Diagram(0, 0, ())])]
    summed = [
        float(
            prod(link.group.n ** sum(b[0] >= t.upper for b in t.blocks) for link, t in zip(links, choice, strict=True))
        )
        for choice in product(*(link.terms for link in links))
    ]
    return ChainedProduct(links), summed, spanning


def _partitions(group: Group, points: Sequence[int], upper: int, independent: bool) -> list[list[tuple[int, ...]]]:
    """The diagrams of one group on some points, of which those below `upper` are the upper row, as blocks of points."""
    over = sum(p < upper for p in points)
    found = (basis if independent else spanning_set)(group, len(points) - over, over)
    return [[tuple(points[p] for p in block) for block in diagram.blocks] for diagram in found]


def _outermost_first(space: TensorSpace) -> list[str]:
    """The factors, each after the one it is nested in."""

    def depth(name: str) -> int:
        return 1 + depth(space.nested[name]) if name in space.nested else 0

    return sorted(space.factors, key=depth)


class WeightSpaceLinear(nn.Module):
    """Every linear map between two tensor spaces that commutes with the product of groups, plus invariant biases.

    Args:
        source: space of the input.
        target: space of the output, over the same factors.
        channels_in: C, of every input tensor.
        channels_out: D.
        bias: whether to add invariant tensors.

    Shape:
        input `{name: [B, *shape, C]}`, output `{name: [B, *shape, D]}`.

    Raises:
        UserError: the spaces have different factors, or nothing but zero reaches a tensor of the target.
    """

    def __init__(
        self, source: TensorSpace, target: TensorSpace, channels_in: int, channels_out: int, bias: bool = True
    ) -> None:
        super().__init__()
        if dict(source.factors) != dict(target.factors) or dict(source.nested) != dict(target.nested):
            raise UserError(
                "source and target must have the same factors; build the target with source.with_tensors(...)."
            )
        self.source, self.target, self.channels_out = source, target, channels_out
        self.spanning_count = self.true_dimension = 0
        self.products, self.weights = nn.ModuleDict(), nn.ParameterDict()
        self._pairs: list[tuple[str | None, str, str]] = []
        for b in target.tensors:
            axes_out = [target.tensors[b][i] for i in target.moved(b)]
            inputs: list[str | None] = [*source.tensors, *([None] if bias else [])]
            for a in inputs:
                axes_in = [] if a is None else [source.tensors[a][i] for i in source.moved(a)]
                copies = target.multiplicity(b) * (1 if a is None else source.multiplicity(a))
                step, summed, spanning = (_joint if source.joint else _chained)(source, axes_in, axes_out)
                if not summed:
                    continue  # no equivariant map but zero
                key = f"{len(self._pairs)}"
                self._pairs.append((a, b, key))
                self.products[key] = step
                rows = 1 if a is None else source.multiplicity(a) * channels_in
                weight = torch.randn(len(summed), rows, target.multiplicity(b) * channels_out)
                weight /= sqrt(len(summed) * max(rows, 1) * len(source.tensors))
                weight /= torch.tensor(summed).sqrt()[:, None, None]
                self.weights[key] = nn.Parameter(torch.zeros_like(weight) if a is None else weight)
                if a is not None:
                    self.true_dimension += len(summed) * copies
                    self.spanning_count += spanning * copies
        if missing := set(target.tensors) - {b for _, b, _ in self._pairs}:
            raise UserError(
                f"no equivariant map into tensor {min(missing)!r} but zero exists; leave it out of the target."
            )

    def forward(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        batch = next(iter(values.values())).shape[0]
        arranged = {name: self._arrange(name, values[name]) for name in self.source.tensors}
        results: dict[str, Tensor] = {}
        for a, b, key in self._pairs:
            weight = self.weights[key]
            x = weight.new_ones(1, 1) if a is None else arranged[a]
            y = self.products[key](x, weight)
            results[b] = results[b] + y if b in results else y
        return {b: self._restore(b, y.expand(batch, *y.shape[1:])) for b, y in results.items()}

    def _arrange(self, name: str, value: Tensor) -> Tensor:
        """Unmoved axes join the channels: `[B, *moved, copies · C]`."""
        moved = [1 + i for i in self.source.moved(name)]
        still = [axis for axis in range(1, value.ndim - 1) if axis not in moved]
        value = value.permute(0, *moved, *still, value.ndim - 1)
        return value.reshape(*value.shape[: 1 + len(moved)], -1)

    def _restore(self, name: str, value: Tensor) -> Tensor:
        axes, moved = self.target.tensors[name], self.target.moved(name)
        still = [i for i in range(len(axes)) if i not in moved]
        shape = self.target.shape(name)
        value = value.reshape(*value.shape[: 1 + len(moved)], *(shape[i] for i in still), self.channels_out)
        order = [*moved, *still]
        return value.permute(0, *(1 + order.index(i) for i in range(len(axes))), value.ndim - 1)
