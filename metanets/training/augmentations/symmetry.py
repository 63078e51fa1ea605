"""Augmentations that leave every function as it is: random elements of the inferred symmetry group, or of parts of it.

Permutations teach a network without symmetry what an equivariant one knows; so do scales (ReLU), signs (tanh, sine) and
phases (sine) for networks that know permutations alone.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch

from graphs.factors import AxisMap, Factor
from graphs.interpreter import interpret
from graphs.scalings.diagonal import DiagonalFactor
from graphs.scalings.periods import PeriodFactor
from graphs.symmetry import permutation_factors
from metanets.batching import Topology
from metanets.training.augmentation import PAPER, Augmentation, Sample, register


@cache
def permutations(topology: Topology) -> tuple[Factor, ...]:
    """All permutations, also those that a linear factor of the group contains."""
    group = topology.symmetry[0]
    return permutation_factors(group.structure, AxisMap(group.labelling))


def diagonal(question: str, topology: Topology) -> tuple[Factor, ...]:
    """The factors of positive scales, or of signs."""
    factors = topology.symmetry[0].factors
    return tuple(f for f in factors if isinstance(f, DiagonalFactor) and f.question == question)


def every(topology: Topology) -> tuple[Factor, ...]:
    """The whole group."""
    return topology.symmetry[0].factors


def move(sample: Sample, factors: Sequence[Factor], strength: float, generator: torch.Generator) -> Sample:
    """Another random element of some factors for every model."""
    tensors = dict(sample.tensors)
    for factor in factors:
        tensors.update(factor.apply(factor.sample(generator, strength, len(sample)), tensors))
    return sample.with_tensors(tensors)


# --- phases of sines ----------------------------------------------------------------------------------------------------


@cache
def half_periods(topology: Topology) -> tuple[tuple[PeriodFactor, torch.Tensor, torch.Tensor], ...]:
    """Biases of sines with their edges `[k]`, and whether an edge leaves their neurons `[k, E]`.

    sin(x + π) = −sin x: half a period goes with the signs of what leaves the neuron. Only those for which that holds, which
    is checked on random weights, are here.
    """
    group, structure = topology.symmetry
    starts, start = {}, 0
    for record in structure.records:
        starts.update(dict.fromkeys(record.names, start))
        start += record.edges
    source, target = topology.edge_index
    found = []
    for factor in group.factors:
        if isinstance(factor, PeriodFactor):
            edges = starts[factor.leaf.tensor] + torch.as_tensor(factor.leaf.positions).flatten()
            leaving = source[None] == target[edges][:, None]
            if _keeps_function(topology, factor, edges, leaving):
                found.append((factor, edges, leaving))
    return tuple(found)


def _shifted(values: torch.Tensor, halves: torch.Tensor, factor: PeriodFactor, edges: torch.Tensor, leaving: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """Values `[M, E]` with biases moved by whole numbers `[M, k]` of half periods."""
    odd = (halves.remainder(2) @ leaving.to(halves.dtype)).remainder(2)
    moved = values * (1 - 2 * odd).to(values.dtype)
    return moved.index_add(1, edges, (halves * (factor.step / 2)).to(values.dtype))


def _keeps_function(topology: Topology, factor: PeriodFactor, edges: torch.Tensor, leaving: torch.Tensor) -> bool:
    group, structure = topology.symmetry
    generator, program = torch.Generator().manual_seed(0), group.program
    values = torch.randn(1, structure.num_edges, generator=generator, dtype=torch.float64)
    inputs = [torch.randn(program.values[v].shape, generator=generator, dtype=torch.float64) for v in program.inputs]
    outputs = []
    for halves in (torch.zeros(1, len(edges)), torch.ones(1, len(edges))):
        tensors = structure.scatter(_shifted(values, halves.double(), factor, edges, leaving)[0])
        run = interpret(program, tensors, inputs)
        outputs.append(torch.cat([run[value].flatten() for value in program.outputs]))
    return bool((outputs[0] - outputs[1]).abs().max() <= 1e-9 * outputs[0].abs().max())


def phase(sample: Sample, strength: float, generator: torch.Generator) -> Sample:
    """Biases of sines by random numbers of half periods, with the signs that belong to them."""
    values = sample.values
    for factor, edges, leaving in half_periods(sample.topology):
        halves = torch.randn(len(sample), len(edges), generator=generator, dtype=torch.float64) * strength
        values = _shifted(values, halves.round(), factor, edges, leaving)
    return sample.with_values(values)


def _register(
    name: str, factors: Callable[[Topology], tuple[Factor, ...]], summary: str, strength: float = 1.0,
    meaning: str = "of no consequence, they are uniform",
) -> None:  # fmt: skip
    register(
        Augmentation(
            name=name,
            apply=lambda sample, spread, generator: move(sample, factors(sample.topology), spread, generator),
            strength=strength,
            meaning=meaning,
            keeps="function",
            paper=PAPER,
            summary=summary,
            applies=lambda topology: bool(factors(topology)),
        )
    )


SPREAD = "standard deviation of log-scales and of everything else that is not compact"
_register("orbit", every, "A random element of the whole symmetry group.", 0.5, SPREAD)
_register("permutation", permutations, "Random orders of interchangeable neurons, heads and channels.")
_register("scale", partial(diagonal, "positive"), "Log-normal scales of neurons, undone after them.", 0.5, SPREAD)
_register("sign", partial(diagonal, "sign"), "Random signs of neurons with odd activations.")
register(
    Augmentation(
        name="phase",
        apply=phase,
        strength=1.0,
        meaning="standard deviation in half periods",
        keeps="function",
        paper=PAPER,
        summary="Biases of sines by half periods, with signs: sin(x + π) = −sin x.",
        applies=lambda topology: bool(half_periods(topology)),
    )
)
