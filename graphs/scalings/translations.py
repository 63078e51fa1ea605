"""Translations: biases (and weights) whose shift a later bias takes back or a later operator does not see.

Three shapes of a shift are tried: any; the same along a dimension (what a mean subtraction or a softmax swallows); and,
for a weight W that reads a layer norm γ n + β, one along 1/γ: as Σ n_i = 0, W + u (1/γ)ᵀ adds u Σ β_i/γ_i for all inputs.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from graphs.factors import Factor, PermutationFactor, Slot, Tensors
from graphs.finders import Context, finder
from graphs.interpreter import Run, Shifted, call, widen
from graphs.program import Op, Reference, references
from graphs.scalings.diagonal import DiagonalFactor
from graphs.scalings.leaves import LARGEST, MOVES, Leaf, Sink, placed, random_tensor
from graphs.scalings.linear import LinearFactor
from graphs.scalings.shifts import BIAS, PICKS, SUMS, Shifts

DEPTHS = (0, 1, 2, 4, 1_000_000)  # operators before the way of a shift to evaluate: as few as give the right one
AVERAGES = MOVES | {"aten.mean", "aten.sum"}  # over positions: what every position lacks their mean lacks, too
SWALLOWED = 1e-9  # of the values: a smaller change is rounding
Schedules = list[
    list[tuple[Op, bool]]
]  # for every sink the operators to evaluate, and whether what they read is shifted
Plan = tuple[Schedules, frozenset[str]]  # and the tensors they read


class TranslationFactor(Factor):
    """Adds a vector to part of a tensor and takes its effect back in later biases; parameters are `[..., k]`.

    Args:
        name: unique in the group.
        leaf: the part that is shifted.
        common: dimensions of it along which the shift is constant.
        gain: a tensor by which the shift is divided along the first of these dimensions.
        sinks: the biases that take the shift back, in the order in which they are met.
        shifts: the program and one run of it: what depends on the inputs is taken from there, the result does not.
        step: the shift of one unit of the parameters; imaginary for imaginary parts.
    """

    def __init__(
        self, name: str, leaf: Leaf, common: tuple[int, ...], gain: str | None, sinks: list[Sink], shifts: Shifts,
        step: complex = 1.0,
    ) -> None:  # fmt: skip
        self.name, self.leaf, self.common, self.gain, self.step = name, leaf, common, gain, step
        self.sinks, self.program, self.tied = tuple(sinks), shifts.program, shifts.tied
        self.shape = tuple(1 if d in common else size for d, size in enumerate(leaf.shape))
        self.count = self.dimension = int(torch.Size(self.shape).numel())
        self.kind = "translation" + (f"^{self.dimension}" if self.dimension > 1 else "")
        self.writes = frozenset(n for first in (leaf.tensor, *(s.tensor for s in sinks)) for n in shifts.tied[first])
        paths = self._paths(shifts)
        for depth in DEPTHS:
            self.schedules, self.reads = self._plan(shifts, paths, depth)
            self.reference = self._reference(shifts)
            if not sinks or not self.reference or depth == DEPTHS[-1] or self._agrees(shifts.twin):
                break
        dims = len(leaf.source)
        self.slots = (Slot(leaf.tensor, tuple(range(dims)) if dims > 1 else (0,)[:dims]),
                      *dict.fromkeys(Slot(sink.tensor, (0,)) for sink in sinks))  # fmt: skip

    def _paths(self, shifts: Shifts) -> list[frozenset[int]]:
        """For every sink the operators that carry the shift to it from what has been changed before.

        Where it is swallowed on some way, as by a layer norm, that way is not followed.
        """
        tensor_of, base = self.program.tensors, shifts.runs[0]
        moved = self._moved(self.sample(torch.Generator().manual_seed(4)), shifts.tensors)
        backs: dict[str, Tensor] = {}
        paths = []
        for sink in self.sinks:
            now: dict[int, Tensor | Shifted] = {
                tensor_of[self.leaf.tensor]: moved if moved.base.numel() > LARGEST else moved.total(),
                **{tensor_of[name]: base[tensor_of[name]] + change for name, change in backs.items()},
            }
            carrying = set()
            for op in shifts.path({self.leaf.tensor, *backs}, sink):
                if any(value in now for value in op.inputs):
                    results = call(op, lambda value: now[value] if value in now else base[value])  # noqa: B023
                    found = zip(op.outputs, results, strict=False)
                    carried = {o: r for o, r in found if o is not None and _differ(r, base[o])}
                    now.update(carried)
                    carrying.update([op.index] if carried else [])
            paths.append(frozenset(carrying))
            after = now[sink.value]
            amount = (after.total() if isinstance(after, Shifted) else after) - base[sink.value]
            change = placed(-amount.flatten()[sink.places], sink.entries, shifts.tensors[sink.tensor].shape)
            backs[sink.tensor] = backs[sink.tensor] + change if sink.tensor in backs else change
        return paths

    def _plan(self, shifts: Shifts, paths: list[frozenset[int]], depth: int) -> Plan:
        """What has to be evaluated for every sink: the operators on the way, and what they read.

        Args:
            shifts: the program and one run of it.
            paths: for every sink the operators on the way.
            depth: how many operators before the way whose outputs depend on the inputs are evaluated too; what the
                first of them reads is taken from the reference run.
        """
        program = self.program
        first = {program.tensors[name]: name for name in self.tied}
        reads = {self.gain} if self.gain else set()
        schedules: Schedules = []
        for path in paths:
            needed = {op.output: depth for op in program.ops if op.index in path}
            schedule = []
            for op in reversed(program.ops):
                if not any(value in needed for value in op.outputs):
                    continue
                left = max(needed[value] for value in op.outputs if value in needed)
                schedule.append((op, op.index in path))
                for position, argument in enumerate(op.arguments):
                    bias = op.index in path and (op.name in SUMS or BIAS.get(op.name) == position)
                    for value in references((argument,)):
                        known = value in shifts.known and not (bias and not depth)
                        if known or left:
                            after = left if known or op.name in MOVES else left - 1
                            needed[value] = max(needed.get(value, 0), after)
            schedules.append(schedule[::-1])
            reads |= {first[value] for value in needed if value in first}
        return schedules, frozenset(reads)

    def _reference(self, shifts: Shifts) -> dict[int, Tensor]:
        """What is read by the operators to evaluate and not among what is evaluated, from one run."""
        read: set[int] = set()
        for sink, schedule in zip(self.sinks, self.schedules, strict=True):
            made = {value for op, _ in schedule for value in op.outputs}
            read |= {sink.value, *(value for op, _ in schedule for value in op.inputs)} - made
        given = {
            self.program.tensors[name] for name in (self.leaf.tensor, *self.reads, *(s.tensor for s in self.sinks))
        }
        return {value: shifts.runs[0][value] for value in sorted(read - given)}

    def _agrees(self, twin: Shifts) -> bool:
        """Whether the reference run does for other parameters too, tried on the random ones of another run."""
        parameters = self.sample(torch.Generator().manual_seed(3))
        found = self._backs(parameters, twin.tensors)
        expected = self._backs(parameters, twin.tensors, twin.runs[0])
        return all(torch.allclose(found[name], expected[name], rtol=1e-7, atol=1e-9) for name in expected)

    def _backs(self, parameters: Tensor, tensors: Tensors, run: Run | None = None) -> dict[str, Tensor]:
        """What is added to the sinks, for one model; the shift may be as large as all weights and is not written out.

        Args:
            parameters: of an element.
            tensors: what it is applied to.
            run: every value of a run with these tensors.
        """
        return self._taken_back(self._moved(parameters, tensors), tensors, run)

    def _moved(self, parameters: Tensor, tensors: Tensors) -> Shifted:
        """The tensor of the leaf with its shift, not written out."""
        source = tensors[self.leaf.tensor].shape
        shift, gain = self._shift(parameters, tensors)
        if gain is not None and not self.leaf.is_view:
            shift, gain = shift / gain, None
        put = self.leaf.put(shift, source), None if gain is None else self.leaf.put(gain, source)
        return Shifted(widen(tensors[self.leaf.tensor]), *put)

    def _taken_back(self, moved: Shifted, tensors: Tensors, run: Run | None = None) -> dict[str, Tensor]:
        """What is added to the sinks when the tensor of the leaf is moved so."""
        backs: dict[str, Tensor] = {}
        for sink, schedule in zip(self.sinks, self.schedules, strict=True):
            amount = self._amount(sink, schedule, tensors, moved, backs, run)
            change = placed(-amount, sink.entries, tensors[sink.tensor].shape)
            backs[sink.tensor] = backs[sink.tensor] + change if sink.tensor in backs else change
        return backs

    def identity(self) -> Tensor:
        return torch.zeros(self.count, dtype=torch.float64)

    def sample(self, generator: torch.Generator, scale: float = 1.0, models: int | None = None) -> Tensor:
        shape = (self.count,) if models is None else (models, self.count)
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

    def apply(self, parameters: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        used = {
            name: tensors[name] for name in sorted({self.leaf.tensor, *self.reads, *(s.tensor for s in self.sinks)})
        }
        rank = {name: len(self.program.values[self.program.tensors[name]].shape) for name in used}
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
            one = parameters.expand(*lead, self.count).flatten(0, len(lead) - 1)
            changes = torch.vmap(self._changes)(one, flat)
            changes = {name: change.unflatten(0, lead) for name, change in changes.items()}
        return {
            name: tensors[name] + changes[first].to(tensors[name])
            for first in changes for name in self.tied[first] if name in tensors
        }  # fmt: skip

    def _changes(self, parameters: Tensor, tensors: Tensors) -> dict[str, Tensor]:
        """What is added to every tensor, for one model."""
        shift = self.leaf.put(self._divided(*self._shift(parameters, tensors)), tensors[self.leaf.tensor].shape)
        moved = Shifted(widen(tensors[self.leaf.tensor]), shift)
        return {self.leaf.tensor: shift, **self._taken_back(moved, tensors)}

    def _shift(self, parameters: Tensor, tensors: Tensors) -> tuple[Tensor, Tensor | None]:
        """What is added to the leaf, `[..., *shape of the leaf]`, and what that is divided by first."""
        lead = parameters.shape[:-1]
        shape, source = self.leaf.shape, tensors[self.leaf.tensor].shape
        if not self.leaf.trail and self.leaf.entries is None:  # an embedding may have fewer rows here
            shape = tuple(source[len(source) - len(shape) :])
        shift = (parameters.reshape(*lead, *self.shape) * self.step).expand(*lead, *shape)
        if self.gain is None:
            return shift, None
        gain = self._wide(widen(tensors[self.gain]), len(shape))
        return shift, gain.expand(*gain.shape[: gain.ndim - len(shape)], *shape)

    @staticmethod
    def _divided(shift: Tensor, gain: Tensor | None) -> Tensor:
        return shift if gain is None else shift / gain

    def _wide(self, gain: Tensor, dims: int) -> Tensor:
        """A gain `[..., size]` along the dimension of the leaf that it divides, all others 1."""
        return gain.unflatten(-1, [-1 if d == self.common[0] else 1 for d in range(dims)])

    def centring(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The parameters that bring the leaf to mean zero along the dimensions that are shifted alike, `[k]`.

        With a gain the mean is one of products with it, which scales leave alone as they do the leaf's own zeros.
        """
        tensor = tensors[self.leaf.tensor]
        values = tensor.flatten()[self.leaf.locate(tensor.shape)]
        if self.gain is not None:
            values = values * self._wide(tensors[self.gain], values.ndim)
        mean = values.mean(self.common, keepdim=True) if self.common else values
        found = -mean.flatten() / self.step
        return found.real if found.is_complex() else found

    def _amount(
        self,
        sink: Sink,
        schedule: list[tuple[Op, bool]],
        tensors: Tensors,
        moved: Shifted,
        backs: Tensors,
        run: Run | None,
    ) -> Tensor:
        """By how much the value at a sink is shifted, after what was taken back before."""
        tensor_of, reference = self.program.tensors, self.reference
        base = {} if run is not None else {tensor_of[name]: widen(tensor) for name, tensor in tensors.items()}

        def plain(value: int) -> Tensor:
            return base[value] if value in base else reference[value] if run is None else run[value]

        now: dict[int, Tensor | Shifted] = {
            tensor_of[self.leaf.tensor]: moved if moved.base.numel() > LARGEST else moved.total(),
            **{tensor_of[name]: plain(tensor_of[name]) + change for name, change in backs.items()},
        }

        def shifted(value: int) -> Tensor | Shifted:
            return now[value] if value in now else plain(value)

        for op, moves in schedule:
            if run is None:
                base.update({o: r for o, r in zip(op.outputs, call(op, plain), strict=False) if o is not None})
            if moves:
                now.update({o: r for o, r in zip(op.outputs, call(op, shifted), strict=False) if o is not None})
        found = now[sink.value]
        return ((found.total() if isinstance(found, Shifted) else found) - plain(sink.value)).flatten()[sink.places]

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
        moved_by, own = (
            {slot.tensor for slot in by.slots},
            {*self.tied[self.leaf.tensor], *([self.gain] if self.gain else [])},
        )
        if not own & moved_by:
            return parameters  # biases take back what they have to, whatever they are
        names = own if isinstance(by, DiagonalFactor) else own | moved_by
        reference = {name: self._anything(name) for name in names}
        before = dict(reference)
        before.update(by.apply(by.inverse(other), before))
        field = {n: torch.zeros_like(t) for n, t in before.items()}
        positions, source = self.leaf.positions, self.leaf.source
        for name in self.tied[self.leaf.tensor]:
            field[name] = self.leaf.put(self._divided(*self._shift(parameters, before)), source)
        moved = by.apply(other, field).get(self.leaf.tensor, field[self.leaf.tensor])
        lead = moved.shape[: moved.ndim - len(source)]
        found = moved.flatten(len(lead))[..., positions]
        if self.gain is not None:
            found = found * self._wide(reference[self.gain], positions.ndim)
        for d in self.common:
            found = found.narrow(len(lead) + d, 0, 1)
        found = found.flatten(len(lead)) / self.step
        if found.is_complex():
            found = found.real
        again = self.leaf.put(self._divided(*self._shift(found, reference)), source)
        return found if torch.allclose(again, moved, rtol=1e-9, atol=1e-12) else None

    def _anything(self, name: str) -> Tensor:
        """A random tensor of the shape of one of the program's."""
        value = self.program.values[self.program.tensors[name]]
        return random_tensor(value.shape, value.dtype, 1.0, torch.Generator().manual_seed(0))


def _differ(left: Tensor | Shifted, right: Tensor) -> bool:
    """Whether two results are apart by more than rounding."""
    if isinstance(left, Shifted):  # turned
        return True
    if not (left.is_floating_point() or left.is_complex()) or not left.numel():
        return not torch.equal(left, right)
    return float((left - right).abs().max()) > SWALLOWED * (1 + float(right.abs().max()))


@finder(40)
def translations(context: Context) -> list[Factor]:
    """Every part of a tensor that can be shifted, with the biases that take the shift back."""
    shifts = context.shifts
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

    def search(leaf: Leaf, common: tuple[int, ...], gain: str | None = None) -> bool:
        if not common and shifts.multiplied(leaf):
            return False
        whole = not leaf.trail and leaf.entries is None  # an embedding has fewer rows here
        here = shifts.shapes[leaf.tensor] if whole else leaf.shape
        shape = tuple(1 if d in common else size for d, size in enumerate(here))
        shift = torch.randn(shape, generator=generator, dtype=torch.float64).expand(here)
        divisor = None
        if gain is not None:
            divisor = (
                shifts.tensors[gain].reshape([-1 if d == common[0] else 1 for d in range(len(shape))]).expand(here)
            )
        sinks = shifts.follow(leaf, shift, lambda tensor: allowed_for(leaf.tensor, tensor), divisor)
        if sinks is None:
            return False
        after.setdefault(leaf.tensor, set()).update(sink.tensor for sink in sinks)
        found.append(TranslationFactor(_name(leaf, common, gain), leaf, common, gain, sinks, shifts))
        return True

    for leaf in shifts.leaves:
        if search(leaf, ()) or any(search(block, (1,)) for block in _blocks(shifts, leaf)):
            continue
        wide = [d for d, size in enumerate(leaf.shape) if size > 1]
        several = [search(leaf, (0,), gain) for gain in _gains(shifts, leaf)]
        if any(search(leaf, (d,)) for d in wide) or any(several):
            continue
        if len(wide) > 1 and search(leaf, tuple(wide)):
            continue
        for part in _parts(shifts, leaf):
            search(part, ())
    return found


def _gains(shifts: Shifts, leaf: Leaf) -> list[str]:
    """The gains of the layer norms whose output a weight is multiplied with."""
    program = shifts.program
    names = {program.tensors[name]: name for name in shifts.tied}
    found = []
    for op in (program.ops[i] for i in shifts.users[leaf.value]):
        if op.name not in ("aten.mm", "aten.addmm") or op.arguments[-1] != Reference(leaf.value):
            continue
        source = op.arguments[-2].value
        while (producer := program.values[source].producer) is not None and program.ops[producer].name in AVERAGES:
            source = program.ops[producer].inputs[0]
        norm = None if producer is None else program.ops[producer]
        if norm is None or norm.name != "aten.native_layer_norm" or not isinstance(norm.arguments[2], Reference):
            continue
        name = names.get(norm.arguments[2].value)
        if name is not None and shifts.shapes[name] == leaf.shape[:1]:
            found.append(name)
    return list(dict.fromkeys(found))


def _blocks(shifts: Shifts, leaf: Leaf) -> list[Leaf]:
    """A bias of as many channels as a group norm normalizes in groups, as `[group, channel of it]`."""
    size = math.prod(leaf.shape)
    if size not in shifts.group_norms or max(leaf.shape) < size:
        return []
    entries = leaf.positions.flatten()
    return [
        Leaf(leaf.tensor, leaf.value, leaf.source, (groups, size // groups), entries=entries.reshape(groups, -1))
        for groups in sorted(shifts.group_norms[size], reverse=True)
    ]


def _parts(shifts: Shifts, leaf: Leaf) -> list[Leaf]:
    """Parts of a bias that are told apart where what it is added to is split up."""
    if sum(size > 1 for size in leaf.shape) != 1:
        return []
    entries = leaf.positions.flatten()
    kinds = torch.zeros(len(entries), dtype=torch.int64)
    for value in shifts.behind(leaf):
        if (producer := shifts.program.values[value].producer) is None:
            continue
        if shifts.program.ops[producer].name not in PICKS | {"aten.embedding"}:
            continue
        for carried in shifts.carried(value):
            if carried.leaf is leaf:
                present = torch.isin(entries, carried.where.flatten())
                if not bool(present.all()):
                    kinds = torch.stack([kinds, present.to(torch.int64)]).unique(dim=1, return_inverse=True)[1]
    if not bool(kinds.any()):
        return []
    parts = [entries[kinds == kind] for kind in kinds.unique().tolist()]
    return [Leaf(leaf.tensor, leaf.value, leaf.source, tuple(part.shape), entries=part) for part in parts]


def part_name(leaf: Leaf) -> str:
    """The tensor, and the range of a part of it."""
    size = math.prod(leaf.source)
    if math.prod(leaf.shape) == size:
        return leaf.tensor
    entries, width = leaf.positions.flatten(), max(1, size // max(1, leaf.source[0] if leaf.source else 1))
    return f"{leaf.tensor}[{int(entries.min()) // width}:{int(entries.max()) // width + 1}]"


def _name(leaf: Leaf, common: tuple[int, ...], gain: str | None) -> str:
    """Which part of which tensor is shifted, and whether by a common amount."""
    kind = f"shift along 1/{gain} of" if gain else "common shift" if common else "shift"
    return f"{kind} {part_name(leaf)}"
