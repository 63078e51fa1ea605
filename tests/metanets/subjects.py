"""Models of every family in double precision, as metanets get them, and random elements of the group they declare."""

from functools import cache

import torch
from torch import Tensor, nn

import graphs
from graphs import GraphStructure, SymmetryGroup
from graphs.factors import AxisMap, Factor
from graphs.scalings.diagonal import DiagonalFactor
from graphs.scalings.linear import LinearFactor
from graphs.symmetry import permutation_factors
from metanets.batching import ModelFunction, Models, Topology
from metanets.metanet import MetanetModule, metanet
from modelzoo.family import family
from modelzoo.task import task

MODELS = 4


def built(name: str, seed: int) -> nn.Module:
    """A random member of a family; zero biases and equal gains would hide what is mixed up."""
    found = family(name)
    module = found.build(found.configure(task(found.task), found.tiny), seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_complex():
                parameter.data = parameter.data.to(torch.complex128)
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.05 * noise.to(parameter.dtype))
    return module


def example(name: str) -> tuple[Tensor, ...]:
    """Example inputs of a family in double precision."""
    inputs = task(family(name).task).example_inputs()
    return tuple(x.double() if x.is_floating_point() else x for x in inputs)


@cache
def architecture(name: str) -> tuple[SymmetryGroup, GraphStructure, Topology]:
    """Group, graph and topology of a family's tiny member."""
    group = graphs.infer(graphs.trace(built(name, 0), example(name)))
    structure = graphs.graph_structure(group)
    return group, structure, Topology.of_group(group, structure)


@cache
def stack(name: str) -> dict[str, Tensor]:
    """Tensors of a few random members, `{name: [M, *shape]}`."""
    structure = architecture(name)[1]
    states = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (built(name, s) for s in range(MODELS))]  # fmt: skip
    names = [key for record in structure.records for key in record.names if key in states[0]]
    return {key: torch.stack([state[key].detach() for state in states]) for key in names}


def models(name: str, stacked: dict[str, Tensor] | None = None) -> Models:
    """The members of a family, or others of the same architecture."""
    _, structure, topology = architecture(name)
    tensors = stack(name) if stacked is None else stacked
    inputs = example(name)
    single = len(inputs) == 1 and inputs[0].is_floating_point()
    classes = task(family(name).task).targets.kind == "classes"
    function = ModelFunction(built(name, 0), tensors, tuple(inputs[0].shape[1:]), classes=classes) if single else None
    return Models(topology, structure.values(tensors).T.contiguous(), function)


def network(name: str, of: Models, seed: int = 0, **fields: object) -> MetanetModule:
    """A tiny metanet in double precision, fitted to an architecture."""
    found = metanet(name)
    given = {**found.tiny, **fields}
    net = found.build(found.configure({**given, "outputs": 3, **found.adapt([of], given)}), seed).double().eval()
    net.prepare([of])
    return net


def declared(factor: Factor, equivariance: str) -> bool:
    """Whether a metanet that declares this is invariant under that factor, which is no permutation."""
    if isinstance(factor, DiagonalFactor):
        signs, scales = ("permutation+sign", "monomial"), ("permutation+scale", "monomial")
        return equivariance in {"sign": signs, "positive": scales, "phase": ()}[factor.question]
    return isinstance(factor, LinearFactor) and not factor.orthogonal and equivariance == "GL"


def moved(name: str, equivariance: str, seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """The members under random elements of the part of the group that is declared, another one for every model.

    All permutations are among them, also those that a linear factor of the group contains.
    """
    group, generator = architecture(name)[0], torch.Generator().manual_seed(seed)
    permutations = permutation_factors(group.structure, AxisMap(group.labelling))
    chosen = [*permutations, *(f for f in group.factors if declared(f, equivariance))]
    tensors = dict(stack(name))
    for factor in chosen:
        tensors.update(factor.apply(factor.sample(generator, scale, MODELS), tensors))
    return tensors


@torch.no_grad()
def embeddings(net: MetanetModule, of: Models) -> Tensor:
    """`[M, width]`."""
    return net(of).embeddings


def spread(found: Tensor) -> float:
    """Root mean square distance of models from their mean."""
    return float((found - found.mean(0)).square().sum(1).mean().sqrt())


def error(a: Tensor, b: Tensor) -> float:
    """The largest distance between two embeddings of a model, relative to the spread between models."""
    return float((a - b).norm(dim=1).max()) / spread(a)
