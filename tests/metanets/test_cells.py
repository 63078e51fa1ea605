"""Statistics by cell against numpy, and what they must not see."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphs
from graphs import EDGE_KINDS, EDGE_OPS
from metanets.batching import Models, Topology
from metanets.cells import QUANTILES, SIZES, CellStatistics, distribution, spectrum

MODULE = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)).double()
GROUP = graphs.infer(graphs.trace(MODULE, (torch.randn(2, 1, 4, 4, dtype=torch.float64),)))
STRUCTURE = graphs.graph_structure(GROUP)
TOPOLOGY = Topology.of(SimpleNamespace(**STRUCTURE.node, **STRUCTURE.edge))


def stacked(models: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(models, *tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in MODULE.named_parameters()
    }


def models(tensors: dict[str, Tensor]) -> Models:
    return Models(TOPOLOGY, STRUCTURE.values(tensors).T.contiguous())


def test_a_cell_is_a_tensor_here_and_its_statistics_are_those_of_numpy() -> None:
    tensors = stacked(6, 0)
    found = torch.cat([distribution(models(tensors)), spectrum(models(tensors))], -1)
    expected = []
    for tensor in tensors.values():
        rows = tensor.flatten(1).numpy()
        quantiles = np.quantile(rows, QUANTILES, axis=1)
        logarithms = np.zeros((6, 1))
        if tensor.ndim > 2:  # targets × (sources and taps)
            logarithms = np.log(np.linalg.svd(tensor.flatten(2).numpy(), compute_uv=False))
        singular = np.quantile(logarithms, QUANTILES, axis=1)
        expected.append(np.stack([rows.mean(1), np.log(rows.var(1) + 1e-12) / 2, *quantiles, *singular], 1))
    assert found.shape == (4, 6, 12)
    where = [int(np.abs(found.numpy() - one).max((1, 2)).argmin()) for one in expected]
    assert sorted(where) == [0, 1, 2, 3]
    for one, cell in zip(expected, where, strict=True):
        np.testing.assert_allclose(found[cell, :, :7], one[:, :7], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found[cell, :, 7:], one[:, 7:], atol=1e-3)  # squares are known to 1e-6 of their sum


def test_they_are_invariant_under_permutations_but_not_under_other_changes() -> None:
    tensors = stacked(6, 1)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(2))
    moved = {
        "0.weight": tensors["0.weight"][:, order],
        "0.bias": tensors["0.bias"][:, order],
        "3.bias": tensors["3.bias"],
    }
    moved["3.weight"] = tensors["3.weight"].view(6, 3, 5, 4)[:, :, order].flatten(2)
    for read in SIZES:
        torch.testing.assert_close(read(models(tensors)), read(models(moved)), rtol=1e-12, atol=1e-12)
    scaled = [models({**tensors, name: 2 * tensors[name]}) for name in ("0.bias", "0.weight")]
    changes = [
        [(read(models(tensors)) - read(each)).abs().amax((1, 2)).gt(0.1).sum() for each in scaled] for read in SIZES
    ]
    assert changes == [[1, 1], [0, 1]], "the bias is a cell of its own, without singular values"


@pytest.mark.parametrize("read", SIZES)
def test_standardised_over_training_and_zero_where_nothing_is_known(read: Callable[[Models], Tensor]) -> None:
    layer, training = CellStatistics(len(EDGE_KINDS), len(EDGE_OPS), read, SIZES[read]).double(), models(stacked(50, 3))
    assert layer(training).abs().max() == 0, "not fitted"
    layer.fit([training])
    found = layer(training)
    torch.testing.assert_close(found.mean(1), torch.zeros(4, layer.size, dtype=torch.float64), rtol=0, atol=1e-9)
    spread = torch.ones(4, layer.size, dtype=torch.float64)
    spread[found.eq(0).all((1, 2))] = 0
    torch.testing.assert_close(found.std(1, correction=0), spread, rtol=1e-6, atol=1e-9)
    assert spread.sum() == layer.size * (4 if read is distribution else 2), "two weights, two biases without a spectrum"
    constant = CellStatistics(len(EDGE_KINDS), len(EDGE_OPS), read, SIZES[read]).double()
    constant.fit([models({name: torch.ones_like(tensor) for name, tensor in stacked(5, 4).items()})])
    assert constant(training).abs().max() == 0, "what never varied tells nothing"


def test_pairs_are_mapped_as_their_edges_one_by_one() -> None:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(TOPOLOGY.edges, 3, 2, generator=generator, dtype=torch.float64)
    weights = torch.randn(len(TOPOLOGY.codes), 2, 4, generator=generator, dtype=torch.float64)
    expected = torch.zeros(len(TOPOLOGY.multiplicity), 3, 4, dtype=torch.float64)
    for edge in range(TOPOLOGY.edges):
        expected[TOPOLOGY.edge_pair[edge]] += features[edge] @ weights[TOPOLOGY.edge_code[edge]]
    assert len(TOPOLOGY.multiplicity) < TOPOLOGY.edges
    torch.testing.assert_close(TOPOLOGY.pair_map(features, weights), expected)
