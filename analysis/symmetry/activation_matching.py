"""Activation matching: neurons of two models are paired by how their activations correlate on the same inputs.

The second method of "Git Re-Basin: Merging Models modulo Permutation Symmetries" (Ainsworth, Hayase and Srinivasa,
2023), after "Convergent Learning: Do different neural networks learn the same representations?" (Li et al., 2016).
The activations are found in the program: whatever feeds a contraction or a convolution and carries the labels of a
permutation factor. Signs, rotations and the like are then chosen by the weights with the permutations held.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from analysis.analysis import analysis
from analysis.symmetry.descent import Descent
from analysis.symmetry.occurrences import matrices_of
from analysis.symmetry.plan import Plan
from analysis.symmetry.weight_matching import SWEEPS, Alignment, Matching, PairOptions, pair, state
from graphs.elements import GroupElement
from graphs.factors import Factor, PermutationFactor
from graphs.group import SymmetryGroup
from graphs.interpreter import interpret
from graphs.scalings.diagonal import DiagonalFactor
from graphs.symmetry import symmetry
from metanets.alignment import assignment
from modelzoo.errors import UserError
from modelzoo.store import Population

CONTRACTIONS = frozenset({
    "aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten.mv", "aten.addmv", "aten.convolution", "aten.einsum",
    "aten.scaled_dot_product_attention",
})  # fmt: skip


def watched(group: SymmetryGroup) -> dict[str, int]:
    """The values whose activations are compared: what contractions read, as far as the group moves it."""
    program, depends = group.program, group.program.depends_on_parameters()
    tensors = {*program.tensors.values(), *program.constants}
    found: dict[str, int] = {}
    for op in program.ops:
        if op.name in CONTRACTIONS:
            for value in op.inputs:
                if value not in tensors and depends[value] and program.values[value].dtype.is_floating_point:
                    found[f"value {value}"] = value
    return found


class ActivationPlan(Plan):
    """A plan over activations: only permutations move them."""

    def __init__(self, group: SymmetryGroup, values: Mapping[str, int]) -> None:
        program = group.program
        super().__init__(group, {name: (group.labelling.raw[v], program.values[v].shape) for name, v in values.items()})
        self.signed = {
            name for name, owns in self.owns.items() if any(isinstance(own.factor, DiagonalFactor) for own in owns)
        }  # a block of these may come with its sign turned
        self.owns = {
            name: [own for own in owns if isinstance(own.factor, PermutationFactor)] for name, owns in self.owns.items()
        }
        self.outer = [factor for factor in self.outer if isinstance(factor, PermutationFactor)]


class ActivationDescent(Descent):
    """Permutations that make the activations of one model most like those of another."""

    plan: ActivationPlan

    def apply(self, factor: Factor, parameters: Tensor) -> None:
        assert isinstance(factor, PermutationFactor)
        self.tensors.update(self.plan.blocks[factor.name].mix(matrices_of(parameters), self.tensors))
        self.word.append((factor, parameters))
        self.known = None

    def assign(self, factor: PermutationFactor) -> None:
        blocks = self.plan.blocks[factor.name]
        overlap = blocks.overlap(self.reference, self.tensors)
        self.apply(factor, assignment(overlap.abs() if factor.name in self.plan.signed else overlap).argsort(-1))


def activations(
    group: SymmetryGroup, tensors: Mapping[str, Tensor], batches: Sequence[Sequence[Tensor]], values: Mapping[str, int]
) -> dict[str, Tensor]:
    """Standardised activations by name, `[batch, *shape]`: mean 0 and variance 1 over batches, constants 0."""
    rows: dict[str, list[Tensor]] = {name: [] for name in values}
    with torch.no_grad():
        for batch in batches:
            found = interpret(group.program, tensors, list(batch))
            for name, value in values.items():
                rows[name].append(found[value])
    result = {}
    for name, row in rows.items():
        stacked = torch.stack(row)
        spread = stacked.std(0, correction=0)
        floor = 1e-6 * stacked.abs().max().clamp_min(1e-300)
        result[name] = torch.where(spread > floor, (stacked - stacked.mean(0)) / spread.clamp_min(floor), 0.0)
    return result


def match_activations(
    group: SymmetryGroup, reference: Mapping[str, Tensor], tensors: Mapping[str, Tensor],
    batches: Sequence[Sequence[Tensor]], seed: int = 0,
) -> Alignment:  # fmt: skip
    """Align one model with another by the correlation of their activations.

    Args:
        group: the symmetry group, from `graphs.symmetry`.
        reference: parameters and state buffers of the model that stays, by name.
        tensors: those of the model that moves.
        batches: inputs of the shapes the module was traced with; activations are correlated across batches.
        seed: of the order in which factors take their turns.

    Raises:
        UserError: there are fewer than two batches, or one has other shapes than the module was traced with.
    """
    shapes = [group.program.values[value].shape for value in group.program.inputs]
    if len(batches) < 2 or any([tuple(x.shape) for x in batch] != shapes for batch in batches):
        raise UserError(f"activations need two or more batches of the traced shapes {shapes}; cut the inputs into such.")  # fmt: skip
    values = watched(group)
    plan, matching = ActivationPlan(group, values), Matching(group, reference, canonical_start=False)
    both = [activations(group, each, batches, values) for each in (matching.given.tensors, matching.settled(tensors).tensors)]  # fmt: skip
    descent = ActivationDescent(plan, *both)
    descent.run(SWEEPS, np.random.default_rng(seed))
    return matching.align(
        tensors, seed, starts=[("activations", GroupElement(group, tuple(descent.word)))], given_start=False,
        held=tuple(factor.name for factor in group.factors if isinstance(factor, PermutationFactor)),
    )  # fmt: skip


def cut(inputs: Sequence[Tensor], shapes: Sequence[Sequence[int]], most: int) -> Iterable[tuple[Tensor, ...]]:
    """Inputs with a leading sample axis, cut into batches of the traced shapes."""
    size = int(shapes[0][0])
    for start in range(0, min(len(inputs[0]) // size, most) * size, size):
        yield tuple(x[start : start + size] for x in inputs)


class ActivationMatchingOptions(PairOptions):
    """Two models by id, and how many batches of training inputs are looked at."""

    batches: int = Field(200, ge=2)


@analysis("activation_matching", of="population", options=ActivationMatchingOptions, tiny={"batches": 20})
def activation_matching(population: Population, options: ActivationMatchingOptions) -> Alignment:
    """Align one model with another by the correlation of their neurons' activations on the training inputs."""
    first, second = pair(population, options)
    group = symmetry(population.template(), population.example_inputs(), verify=False)
    return match_activations(group, state(population, first), state(population, second), batches_of(population, group, options.batches), options.seed)  # fmt: skip


def batches_of(population: Population, group: SymmetryGroup, most: int) -> list[tuple[Tensor, ...]]:
    """Training inputs of a population's task in batches of the traced shape."""
    if population.task.sampling == "full":
        raise UserError(f"task {population.task.name!r} has one input only, so activations do not correlate across inputs; use weight_matching.")  # fmt: skip
    shapes = [group.program.values[value].shape for value in group.program.inputs]
    return list(cut(population.task.data().train.inputs, shapes, most))
