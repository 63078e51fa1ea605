"""Elements of a symmetry group.

An *element* is a word in the factors, applied from left to right; composing brings it to the order of
`SymmetryGroup.factors` with one entry per factor, as far as the factors know how to pass each other
(`Factor.conjugate`), so a semidirect product composes and inverts exactly.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from graphs.factors import Factor, Tensors
from modelzoo.errors import UserError

if TYPE_CHECKING:
    from graphs.group import SymmetryGroup


@dataclass(frozen=True)
class GroupElement:
    """A symmetry: a word in the factors of a group, applied from left to right.

    Args:
        group: the group.
        word: (factor, parameters); after composing, in the order of the group's factors as far as they can pass.
    """

    group: "SymmetryGroup" = field(repr=False)
    word: tuple[tuple[Factor, Tensor], ...]

    def apply(self, tensors: Tensors) -> dict[str, Tensor]:
        """Transform named parameters and buffers; other names pass through.

        Args:
            tensors: by name, `[*shape]`, or `[models, *shape]`.
        """
        result = dict(tensors)
        for factor, parameters in self.word:
            result.update(factor.apply(parameters, result))
        return result

    def apply_stacked(self, stacked: Tensors) -> dict[str, Tensor]:
        """Transform a stacked population, `[models, *shape]` each, in one vectorised pass."""
        return self.apply(stacked)

    def apply_module(self, module: nn.Module) -> nn.Module:
        """Transform a module's own parameters and state buffers in place, and return it."""
        with torch.no_grad():
            own = dict(module.named_parameters()) | dict(module.named_buffers())
            for name, tensor in self.apply(own).items():
                own[name].copy_(tensor)
        return module

    def call(self, module: nn.Module, tensors: Tensors, *inputs: Any) -> Any:
        """The module's output with transformed tensors."""
        return functional_call(module, self.apply(tensors), inputs, tie_weights=False)

    def __matmul__(self, other: "GroupElement") -> "GroupElement":
        """`self @ other`: first `other`, then `self`."""
        return GroupElement(self.group, _sorted(self.group, [*other.word, *self.word]))

    def in_order(self) -> "GroupElement":
        """The same element with its word in the order of the factors."""
        return GroupElement(self.group, _sorted(self.group, list(self.word)))

    def inverse(self) -> "GroupElement":
        """The element that undoes this one."""
        return self.backwards().in_order()

    def backwards(self) -> "GroupElement":
        """The element that undoes this one, its word as it comes: the inverse without the work of ordering it."""
        return GroupElement(self.group, tuple((f, f.inverse(parameters)) for f, parameters in reversed(self.word)))

    def to_json(self) -> list[dict[str, Any]]:
        """The word as JSON can hold it."""
        return [{"factor": f.name, "group": f.kind, "parameters": f.to_json(p)} for f, p in self.word]

    def __getitem__(self, name: str) -> Tensor:
        """The parameters of one factor (its identity if the element does not use it)."""
        factor = self.group[name]
        found = [parameters for other, parameters in self.word if other is factor]
        if len(found) > 1:
            raise UserError(f"factor {name!r} occurs {len(found)} times in this element; it has no single value.")
        return found[0] if found else factor.identity()


def _sorted(group: "SymmetryGroup", word: list[tuple[Factor, Tensor]]) -> tuple[tuple[Factor, Tensor], ...]:
    """Bring a word to the order of the factors: neighbours of one factor compose, others pass by conjugation."""
    place = {id(factor): k for k, factor in enumerate(group.factors)}
    done: list[tuple[Factor, Tensor]] = []
    for factor, parameters in word:
        entry = (factor, parameters)
        position = len(done)
        moved: list[tuple[Factor, Tensor]] = []
        while position and place[id(done[position - 1][0])] > place[id(factor)]:
            late, value = done[position - 1]
            changed = late.conjugate(value, factor, parameters)
            if changed is None:
                break
            moved.insert(0, (late, changed))
            position -= 1
        if position and done[position - 1][0] is factor:
            entry = (factor, factor.compose(parameters, done[position - 1][1]))
            position -= 1
        elif position and place[id(done[position - 1][0])] > place[id(factor)]:  # cannot pass: stay at the end
            done.append(entry)
            continue
        done = [*done[:position], entry, *moved]
    return tuple(done)
