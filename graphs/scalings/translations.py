"""Translations: biases (and weights) whose shift a later bias takes back or a later operator does not see."""

from collections.abc import Iterator

import torch
from torch import Tensor

from graphs.factors import Factor, PermutationFactor, Slot, Tensors
from graphs.finders import Context, finder
from graphs.interpreter import widen
from graphs.program import Op
from graphs.scalings.diagonal import DiagonalFactor
from graphs.scalings.linear import LinearFactor
from graphs.scalings.shifts import Leaf, Shifts, Sink, call


class TranslationFactor(Factor):
    """Adds a vector to part of a tensor and takes its effect back in later biases; parameters are `[..., k]`.

    Args:
        name: unique in the group.
        leaf: the part that is shifted.
        common: dimensions of it along which the shift is constant.
        sinks: the biases that take the shift back, in the order in which they are met.
        shifts: the program and one run of it: what depends on the inputs is taken from there, the result does not.
    """

    def __init__(self, name: str, leaf: Leaf, common: tuple[int, ...], sinks: list[Sink], shifts: Shifts) -> None:
        self.name, self.leaf, self.common, self.sinks, self.shifts = name, leaf, common, tuple(sinks), shifts
        shape = leaf.positions.shape
        self.shape = tuple(1 if d in common else size for d, size in enumerate(shape))
        self.dimension = int(torch.Size(self.shape).numel())
        self.kind = "translation" + (f"^{self.dimension}" if self.dimension > 1 else "")
        changed, self.paths = {leaf.tensor}, []
        for sink in sinks:
            self.paths.append(shifts.path(changed, sink))
            changed.add(sink.tensor)
        self.writes = frozenset(name for first in changed for name in shifts.tied[first])
        self.reads = frozenset(self._reads(changed))
        dims = shifts.tensors[leaf.tensor].ndim
        self.slots = (Slot(leaf.tensor, tuple(range(dims)) if dims > 1 else (0,)[:dims]),
                      *dict.fromkeys(Slot(sink.tensor, (0,)) for sink in sinks))  # fmt: skip

    def _reads(self, changed: set[str]) -> Iterator[str]:
        """First names of the tensors that the operators on the way compute with."""
        program = self.shifts.program
        first = {program.tensors[name]: name for name in self.shifts.tied}
        waiting = [value for path in self.paths for op in path for value in op.inputs]
        seen: set[int] = set()
        while waiting:
            value = waiting.pop()
            if value in seen or value not in self.known:
                continue
            seen.add(value)
            if value in first:
                yield first[value]
            producer = program.values[value].producer
            waiting += program.ops[producer].inputs if producer is not None else ()

    @property
    def known(self) -> set[int]:
        """The values that depend on no input."""
        return known_values(self.shifts)

    def identity(self) -> Tensor:
        return torch.zeros(self.dimension, dtype=torch.float64)

    def sample(self, generator: torch.Generator, scale: float = 1.0, models: int | None = None) -> Tensor:
        shape = (self.dimension,) if models is None else (models, self.dimension)
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

    def apply(self, parameters: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        used = {name: tensors[name] for name in {self.leaf.tensor, *self.reads, *(s.tensor for s in self.sinks)}}
        rank = {name: self.shifts.tensors[name].ndim for name in used}
        lead = torch.broadcast_shapes(
            parameters.shape[:-1], *(tensor.shape[: tensor.ndim - rank[name]] for name, tensor in used.items())
        )
        if not lead:
            changes = self._changes(parameters, used)
        else:
            flat = {
                name: tensor.expand(*lead, *tensor.shape[tensor.ndim - rank[name] :]).flatten(0, len(lead) - 1)
                for name, tensor in used.items()
            }
            one = parameters.expand(*lead, self.dimension).flatten(0, len(lead) - 1)
            changes = torch.vmap(self._changes)(one, flat)
            changes = {name: change.unflatten(0, lead) for name, change in changes.items()}
        return {
            name: tensors[name] + changes[first].to(tensors[name])
            for first in changes for name in self.shifts.tied[first] if name in tensors
        }  # fmt: skip

    def _changes(self, parameters: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is added to every tensor, for one model."""
        shape = self.leaf.positions.shape
        shift = parameters.reshape(self.shape).expand(shape)
        changes = {self.leaf.tensor: _placed(shift, self.leaf.positions, self.shifts.tensors[self.leaf.tensor])}
        for sink, path in zip(self.sinks, self.paths, strict=True):
            amount = self._amount(sink, path, tensors, changes)
            target = self.shifts.tensors[sink.tensor]
            change = _placed(-amount, sink.entries, target)
            changes[sink.tensor] = changes[sink.tensor] + change if sink.tensor in changes else change
        return changes

    def _amount(
        self, sink: Sink, path: tuple[Op, ...], tensors: dict[str, Tensor], changes: dict[str, Tensor]
    ) -> Tensor:
        """By how much the value at a sink is shifted."""
        program, reference, known = self.shifts.program, self.shifts.runs[0], self.known
        base = {program.tensors[name]: widen(tensor) for name, tensor in tensors.items()}
        now = {program.tensors[name]: base[program.tensors[name]] + change for name, change in changes.items()}

        def plain(value: int) -> Tensor:
            if value not in base:
                producer = program.values[value].producer
                if value not in known or producer is None or value in program.constants:
                    base[value] = reference[value]
                else:
                    op = program.ops[producer]
                    base.update({o: r for o, r in zip(op.outputs, call(op, plain), strict=False) if o is not None})
            return base[value]

        def shifted(value: int) -> Tensor:
            return now[value] if value in now else plain(value)

        for op in path:
            base.update({o: r for o, r in zip(op.outputs, call(op, plain), strict=False) if o is not None})
            now.update({o: r for o, r in zip(op.outputs, call(op, shifted), strict=False) if o is not None})
        return (now[sink.value] - base[sink.value]).flatten()[sink.places]

    def compose(self, after: Tensor, before: Tensor) -> Tensor:
        return after + before

    def inverse(self, parameters: Tensor) -> Tensor:
        return -parameters

    def conjugate(self, parameters: Tensor, by: Factor, other: Tensor) -> Tensor | None:
        if isinstance(by, TranslationFactor):
            free = not (by.writes & self.reads or self.writes & by.reads)
            return parameters if free else None
        if not isinstance(by, PermutationFactor | LinearFactor | DiagonalFactor) and not getattr(
            by, "moves_entries", False
        ):
            return None
        if isinstance(by, DiagonalFactor) and self.leaf.tensor in by.additive:
            return None
        tensor = self.shifts.tensors[self.leaf.tensor]
        shift = parameters.reshape(*parameters.shape[:-1], *self.shape)
        shift = shift.expand(*parameters.shape[:-1], *self.leaf.positions.shape)
        field = {
            name: torch.zeros_like(t) for name, t in self.shifts.tensors.items() if name in {s.tensor for s in by.slots}
        }
        field |= {name: _placed(shift, self.leaf.positions, tensor) for name in self.shifts.tied[self.leaf.tensor]}
        moved = by.apply(other, field).get(self.leaf.tensor, field[self.leaf.tensor])
        lead = moved.shape[: moved.ndim - tensor.ndim]
        image = moved.flatten(len(lead))[..., self.leaf.positions]
        found = image
        for d in self.common:
            found = found.narrow(len(lead) + d, 0, 1)
        again = _placed(found.expand(image.shape), self.leaf.positions, tensor)
        return found.flatten(len(lead)) if torch.allclose(again, moved, rtol=1e-9, atol=1e-12) else None


def _placed(values: Tensor, positions: Tensor, like: Tensor) -> Tensor:
    """Zeros of a tensor's shape with values at flat positions, leading axes of the values kept."""
    lead = values.shape[: values.ndim - positions.ndim]
    flat = torch.zeros(*lead, like.numel(), dtype=torch.float64)
    flat = flat.index_add(-1, positions.flatten(), values.flatten(len(lead)).to(torch.float64))
    return flat.reshape(*lead, *like.shape)


def known_values(shifts: Shifts) -> set[int]:
    """The values of a program that depend on no input."""
    unknown = set(shifts.program.inputs)
    for op in shifts.program.ops:
        if any(value in unknown for value in op.inputs):
            unknown |= {output for output in op.outputs if output is not None}
    return set(range(len(shifts.program.values))) - unknown


@finder(40)
def translations(context: Context) -> list[Factor]:
    """Every part of a tensor that can be shifted, with the biases that take the shift back."""
    shifts = Shifts(context.program)
    generator = torch.Generator().manual_seed(2)
    after: dict[str, set[str]] = {}  # tensor → tensors that take its shifts back
    found: list[Factor] = []

    def allowed_for(source: str, tensor: str) -> bool:
        """Whether shifting `tensor` back makes no circle: every factor shifts something that no later one does."""
        reached, waiting = {tensor}, [tensor]
        while waiting:
            for other in after.get(waiting.pop(), ()):
                if other not in reached:
                    reached.add(other)
                    waiting.append(other)
        return source not in reached

    def search(leaf: Leaf, common: tuple[int, ...]) -> bool:
        shape = tuple(1 if d in common else size for d, size in enumerate(leaf.positions.shape))
        shift = torch.randn(shape, generator=generator, dtype=torch.float64).expand(leaf.positions.shape)
        sinks = shifts.follow(leaf, shift, lambda tensor: allowed_for(leaf.tensor, tensor))
        if sinks is None:
            return False
        after.setdefault(leaf.tensor, set()).update(sink.tensor for sink in sinks)
        found.append(TranslationFactor(_name(leaf, common, shifts), leaf, common, sinks, shifts))
        return True

    for leaf in shifts.leaves:
        if search(leaf, ()):
            continue
        wide = [d for d, size in enumerate(leaf.positions.shape) if size > 1]
        if any(search(leaf, (d,)) for d in wide):
            continue
        if len(wide) > 1 and search(leaf, tuple(wide)):
            continue
        for part in _parts(shifts, leaf):
            search(part, ())
    return found


def _parts(shifts: Shifts, leaf: Leaf) -> list[Leaf]:
    """Parts of a bias that are told apart where what it is added to is split up."""
    if sum(size > 1 for size in leaf.positions.shape) != 1:
        return []
    entries = leaf.positions.flatten()
    kinds = torch.zeros(len(entries), dtype=torch.int64)
    for value in range(len(shifts.program.values)):
        for other, where in shifts.carried(value):
            if other is leaf:
                present = torch.isin(entries, where.flatten())
                if not bool(present.all()):
                    kinds = torch.stack([kinds, present.to(torch.int64)]).unique(dim=1, return_inverse=True)[1]
    if not bool(kinds.any()):
        return []
    return [Leaf(leaf.tensor, leaf.value, entries[kinds == kind]) for kind in kinds.unique().tolist()]


def _name(leaf: Leaf, common: tuple[int, ...], shifts: Shifts) -> str:
    """The tensor, the range of a part of it, and whether the shift is a common one."""
    entries = leaf.positions.flatten()
    whole = len(entries) == shifts.tensors[leaf.tensor].numel()
    width = max(1, shifts.tensors[leaf.tensor].numel() // max(1, shifts.tensors[leaf.tensor].shape[0] if shifts.tensors[leaf.tensor].ndim else 1))  # fmt: skip
    first, last = int(entries.min()) // width, int(entries.max()) // width
    part = "" if whole else f"[{first}:{last + 1}]"
    return f"{'common shift' if common else 'shift'} {leaf.tensor}{part}"
