"""The registry of metanets, and what is declared about each."""

import numpy as np
import pytest
import torch

import graphs
from graphs.symmetry import permutation_group
from metanets.batching import Models, Topology
from metanets.metanet import Metanet, MetanetConfig, metanet, metanets, register
from metanets.projection import project
from modelzoo.errors import UserError


def test_every_metanet_is_documented_and_its_tiny_config_is_valid() -> None:
    assert {"graph_metanet", "flat_mlp"} <= set(metanets())
    for name, each in metanets().items():
        assert each.name == name
        assert each.summary.endswith(".")
        assert "Shape:" in (each.module.__doc__ or "")
        assert each.paper
        assert each.configure(each.tiny) != each.configure({})


def test_unknown_names_keys_and_values_are_one_sentence_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="graph_metanet"):
        metanet("graph_metane")
    with pytest.raises(UserError, match="'width'"):
        metanet("graph_metanet").configure({"widht": 3})
    with pytest.raises(UserError, match=r"'width'.*-1"):
        metanet("graph_metanet").configure({"width": -1})


def test_names_are_unique_and_those_of_their_files() -> None:
    found = metanet("flat_mlp")
    with pytest.raises(ValueError, match="twice"):
        register(found)
    fields = {**vars(found), "name": "other", "config": MetanetConfig}
    with pytest.raises(ValueError, match="own name"):
        register(Metanet(**fields))
    assert "other" not in metanets()


def test_building_is_deterministic_and_leaves_torch_alone() -> None:
    found = metanet("flat_mlp")
    state = torch.get_rng_state()
    first, again, other = (found.build(found.configure({"entries": 5}), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [torch.cat([p.flatten() for p in net.parameters()]) for net in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_flat_baseline_is_not_invariant() -> None:
    """What it declares, and the control of the invariance tests: the same element moves its embedding."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double()
    group = permutation_group(graphs.trace(module, (torch.randn(1, 3, dtype=torch.float64),)))
    structure = graphs.graph_structure(group)
    stacked = {name: tensor.detach()[None] for name, tensor in module.named_parameters()}
    moved = group.sample(torch.Generator().manual_seed(1), models=1).apply_stacked(stacked)
    found = metanet("flat_mlp")
    net = found.build(found.configure({"entries": structure.num_edges, "width": 16}), 0).double().eval()
    graph = Topology.of(structure.data({name: tensor[0] for name, tensor in stacked.items()}))
    before, after = (net(Models(graph, structure.values(each).T)).embeddings.detach() for each in (stacked, moved))
    assert found.equivariance == "none"
    assert float((before - after).norm() / before.norm()) > 0.1


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_projections_keep_clusters_apart(method: str) -> None:
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(60, 8)) + 20 * (np.arange(60) % 2)[:, None]
    places = project(embeddings, method)
    assert places.shape == (60, 2)
    a, b = places[::2], places[1::2]
    assert np.linalg.norm(a.mean(0) - b.mean(0)) > 2 * max(a.std(), b.std())
    np.testing.assert_array_equal(project(embeddings, method), places)
