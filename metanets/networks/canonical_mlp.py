"""The baseline that gets its symmetry from its data: a multi-layer perceptron on weights in a canonical form.

Equivariance via canonicalization: h(x) = f(c(x)), where c takes every point of an orbit to the same point, needs no
equivariant layer, but c is discontinuous wherever two neurons change places. Positive scales are taken out in closed form
(`metanets.charges`); then neurons are sorted by keys that do not depend on their order (`graphs.neuron_keys`, as
`graphs.canonicalize` does for one model), for all models at once.
"""

from functools import cache

import torch
from torch import nn

from graphs.factors import AxisMap, PermutationFactor
from graphs.neuron_keys import NeuronKeys
from graphs.symmetry import permutation_factors
from metanets.batching import Models, Topology
from metanets.charges import charges
from metanets.metanet import Metanet, MetanetModule, Prediction, register
from metanets.networks.flat_mlp import FlatMLP, FlatMLPConfig, adapt
from modelzoo.family import Paper


class CanonicalMLPConfig(FlatMLPConfig):
    """Sizes of a `CanonicalMLP`."""


@cache
def sorters(topology: Topology) -> tuple[NeuronKeys, tuple[PermutationFactor, ...]]:
    """Keys of neurons, and the factors that order them."""
    group = topology.symmetry[0]
    return NeuronKeys(group), permutation_factors(group.structure, AxisMap(group.labelling))


def canonical(models: Models) -> Models:
    """The same functions with balanced weights and sorted neurons."""
    topology = models.topology
    structure = topology.symmetry[1]
    keys_of, factors = sorters(topology)
    tensors = structure.scatter(charges(topology).balance(models.values).T.double())
    keys = keys_of(tensors)
    for factor in factors:
        nodes = torch.from_numpy(factor.structure.levels[factor.level].nodes)  # [copies, m, size]
        order = keys[:, nodes.reshape(-1)].unflatten(-1, nodes.shape).sum(-1).argsort(dim=-1, stable=True).argsort(-1)
        tensors.update(factor.apply(order, tensors))
        keys = torch.empty_like(keys).scatter(-1, torch.from_numpy(factor.label_map(order)), keys)
    return Models(topology, structure.values(tensors).T.to(models.values.dtype))


class CanonicalMLP(FlatMLP):
    """A perceptron on standardised, flattened canonical weights.

    Shape:
        a batch of models of one architecture; outputs `[model, outputs]`, embeddings `[model, width]`.
    """

    def calibrate(self, training: list[Models]) -> None:  # type: ignore[override]
        super().calibrate([canonical(models) for models in training])

    def embed(self, models: Models) -> Prediction:
        return super().embed(canonical(models))

    def edge_head(self) -> nn.Module:
        return MetanetModule.edge_head(self)  # refused: what it sees are not the weights of the model itself


METANET = register(
    Metanet(
        name="canonical_mlp",
        module=CanonicalMLP,
        config=CanonicalMLPConfig,
        paper=(Paper("Equivariance with Learned Canonicalization Functions", "Kaba et al.", 2023),),
        equivariance="permutation+scale",
        summary="The baseline that canonicalizes: a perceptron on balanced weights with sorted neurons.",
        tiny={"width": 16},
        one_architecture=True,
        adapt=adapt,
        recipe={"learning_rate": 2e-3, "weight_decay": 0.05},
    )
)
