"""What every parameter graph must fulfil, as functions that raise `AssertionError`; their controls are in test_checks."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from graphs import GraphStructure, GroupElement, SymmetryGroup, scatter_parameters
from graphs.factors import PermutationFactor

NODE_ATTRIBUTES = ("node_kind", "node_depth", "node_position")
EDGE_ATTRIBUTES = ("edge_value", "edge_kind", "edge_op", "edge_position", "edge_tensor")


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """All parameters, tied names included, and buffers."""
    named = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


def check_round_trip(structure: GraphStructure, state: Mapping[str, Tensor], names: set[str]) -> None:
    """graph → parameters is the bit-exact inverse of parameters → graph."""
    back = scatter_parameters(structure.data(state))
    assert set(back) == names
    for name, tensor in back.items():
        assert tensor.dtype == state[name].dtype, name
        assert tensor.shape == state[name].shape, name
        assert torch.equal(tensor, state[name]), name


def check_isomorphism(
    before: Data, after: Data, node_map: Tensor, edge_map: Tensor, attributes: tuple[str, ...] = EDGE_ATTRIBUTES
) -> None:
    """The maps are bijections that keep ends, values, kinds, positions, everything that a metanet sees."""
    assert torch.equal(node_map.sort().values, torch.arange(before.num_nodes)), "the node map is no bijection"
    assert torch.equal(edge_map.sort().values, torch.arange(before.num_edges)), "the edge map is no bijection"
    assert torch.equal(node_map[before.edge_index], after.edge_index[:, edge_map]), "edges do not keep their ends"
    for name in NODE_ATTRIBUTES:
        assert torch.equal(before[name], after[name][node_map]), f"nodes do not keep their {name}"
    for name in attributes:
        assert torch.equal(before[name], after[name][edge_map]), f"edges do not keep their {name}"


def check_element(structure: GraphStructure, element: GroupElement, state: Mapping[str, Tensor]) -> None:
    """Permuted parameters have an isomorphic graph, by the node map of the element."""
    before, after = structure.data(state), structure.data(element.apply(state))
    check_isomorphism(before, after, structure.node_map(element), structure.edge_map(element))


def permutation(group: SymmetryGroup, seed: int = 0) -> GroupElement:
    """A random element of the permutation factors."""
    generator = torch.Generator().manual_seed(seed)
    factors = [factor for factor in group.factors if isinstance(factor, PermutationFactor)]
    return group.element({factor.name: factor.sample(generator) for factor in factors})


def fingerprint(data: Data, rounds: int = 4) -> str:
    """An isomorphism invariant of a parameter graph with its values: graphs that differ in it are not isomorphic."""
    index = data.edge_index.tolist()
    labels = [repr(row) for row in zip(*(data[name].tolist() for name in NODE_ATTRIBUTES), strict=True)]
    visible = ("edge_value", "edge_kind", "edge_op", "edge_position")
    edges = [repr(row) for row in zip(*(data[name].tolist() for name in visible), strict=True)]
    for _ in range(rounds):
        met: list[list[str]] = [[] for _ in labels]
        for source, target, edge in zip(*index, edges, strict=True):
            met[source].append(f">{edge}{labels[target]}")
            met[target].append(f"<{edge}{labels[source]}")
        labels = [
            hashlib.sha256((own + "|".join(sorted(others))).encode()).hexdigest()
            for own, others in zip(labels, met, strict=True)
        ]
    return hashlib.sha256("|".join(sorted(labels)).encode()).hexdigest()
