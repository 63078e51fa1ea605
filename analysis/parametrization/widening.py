"""A family at several widths: which fields of its config are widths is found by building it, never stated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from analysis.parametrization.widths import growing_scores, labelled_widths
from graphs.program import Program, trace
from modelzoo.errors import UnknownNameError, UserError
from modelzoo.family import Family, resolve
from modelzoo.task import Task, task


@dataclass(frozen=True)
class Widening:
    """A family whose members differ in width alone.

    Args:
        family: the family.
        task: its task.
        fields: config fields of the narrowest member.
        widths: those of them that are multiplied.
    """

    family: Family
    task: Task
    fields: Mapping[str, Any]
    widths: tuple[str, ...]

    def build(self, factor: int, seed: int = 0) -> nn.Module:
        """The member whose width is `factor` times the narrowest's."""
        config = self.family.configure(self.task, {**self.fields, **_scaled(self.fields, self.widths, factor)})
        return self.family.build(config, seed)

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Example inputs."""
        return self.task.example_inputs(batch)


def widening(name: str, widths: Sequence[str] = (), config: Mapping[str, Any] | None = None) -> Widening:
    """The members of a family that are wider than its tiny one.

    A config field is a width if doubling it leaves names and number of tensors as they are and lengthens a dimension that
    some permutation symmetry moves. If products of activations then sum over more entries (attention heads have grown),
    a further field is doubled that keeps them as they were (the number of heads).

    Args:
        name: `family` or `family.variant`.
        widths: config fields to multiply, none to find them.
        config: fields of the narrowest member, over its tiny ones.

    Raises:
        UserError: there is no such family or field, the family is not trained by gradient, or no field is a width.
    """
    family, variant = resolve(name)
    chosen = task(family.task)
    if family.fit is not None:
        raise UserError(f"family {name!r} is fitted in one shot, so it has no learning rates; choose another family.")
    adapted = family.adapt(chosen)
    narrowest = family.configure(chosen, {**family.tiny, **variant, **(config or {})}).model_dump()
    fields = {key: value for key, value in narrowest.items() if key not in adapted and _is_size(value)}
    for width in widths:
        if width not in fields:
            raise UnknownNameError(f"size of {name}", width, fields)
    start = {key: value for key, value in narrowest.items() if key not in adapted}
    if widths:
        return Widening(family, chosen, start, tuple(widths))
    inputs = chosen.example_inputs()
    narrow = trace(family.build(family.configure(chosen, start), 0), inputs)
    found = [key for key in fields if _lengthens(narrow, _doubled(family, chosen, start, [key], inputs))]
    if not found:
        raise UserError(f"no size of family {name!r} is a width; name the fields to multiply, --set 'widths=[\"…\"]'.")
    both = _doubled(family, chosen, start, found, inputs)
    if both is not None and not growing_scores(narrow, both):
        return Widening(family, chosen, start, tuple(found))
    for key in (key for key in fields if key not in found):
        wide = _doubled(family, chosen, start, [*found, key], inputs)
        if wide is not None and _lengthens(narrow, wide) and not growing_scores(narrow, wide):
            return Widening(family, chosen, start, (*found, key))
    return Widening(family, chosen, start, tuple(found))


def _is_size(value: Any) -> bool:
    entries = value if isinstance(value, tuple | list) else (value,)
    return bool(entries) and all(isinstance(entry, int) and not isinstance(entry, bool) for entry in entries)


def _scaled(fields: Mapping[str, Any], widths: Sequence[str], factor: int) -> dict[str, Any]:
    def times(value: Any) -> Any:
        return tuple(factor * entry for entry in value) if isinstance(value, tuple | list) else factor * value

    return {key: times(fields[key]) for key in widths}


def _doubled(
    family: Family, chosen: Task, start: Mapping[str, Any], keys: Sequence[str], inputs: Any
) -> Program | None:
    """The program with some fields doubled; None where the family refuses that."""
    try:
        config = family.configure(chosen, {**start, **_scaled(start, keys, 2)})
        return trace(family.build(config, 0), inputs)
    except (UserError, ValueError):  # sizes that do not divide, a kernel longer than the input
        return None


def _lengthens(narrow: Program, wide: Program | None) -> bool:
    """Whether two programs have the same tensors and outputs, and one that symmetries move is longer in the second."""
    if wide is None or narrow.parameters.keys() != wide.parameters.keys():
        return False
    outputs = [[program.values[value].shape for value in program.outputs] for program in (narrow, wide)]
    movable = labelled_widths(narrow)
    for name, value in narrow.parameters.items():
        before, after = narrow.values[value].shape, wide.values[wide.parameters[name]].shape
        if len(before) != len(after):
            return False
        if any(after[k] > before[k] and k in movable[value] for k in range(len(before))):
            return outputs[0] == outputs[1]
    return False
