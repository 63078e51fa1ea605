"""What the Model page draws, each against the plain computation, and every figure with one trace a thing it shows."""

import numpy as np
import pytest
import torch
from torch import nn

from analysis.architecture import architecture
from analysis.curves import training_curves
from analysis.maps import as_matrix, maps_of, weight_maps
from analysis.rendering import grid_axes, reconstruct
from analysis.spectra import singular_spectra, singular_values, stable_rank
from analysis.weights import densities, tensor_statistics, weight_histograms, weight_statistics
from modelzoo.errors import UserError
from modelzoo.family import parameter_count
from modelzoo.store import Zoo

SIREN, CNN = "siren-digits-inr", "small-cnn-digits"


def test_architecture_counts_every_parameter_once() -> None:
    tied = nn.Linear(4, 4)
    module = nn.Sequential(nn.Linear(3, 4), nn.Sequential(tied, nn.BatchNorm1d(4)), tied)
    found = architecture(module)
    assert found.parameters == parameter_count(module)
    assert sum(part.own for part in found.parts) == found.parameters
    frame = found.to_frame().set_index("module")
    assert frame.loc["1", "parameters"] == parameter_count(module[1])
    assert "running_mean 4" in frame.loc["1.1", "tensors"]
    assert len(found.plot().data[0].ids) == len(found.parts)


def test_histograms_are_densities_and_the_band_is_ordered(small_zoo: Zoo) -> None:
    found = weight_histograms(small_zoo[SIREN], 3)
    assert [entry.tensor for entry in found.histograms] == [info.name for info in small_zoo[SIREN].info.parameters]
    for entry in found.histograms:
        assert (entry.model * np.diff(entry.edges)).sum() == pytest.approx(1)
        assert (entry.band[0] <= entry.band[1]).all()
        assert (entry.band[1] <= entry.band[2]).all()
    assert len(found.plot().data) == 4 * len(found.histograms)


def test_densities_equal_numpy() -> None:
    values = np.random.default_rng(0).normal(size=(5, 100))
    edges = np.linspace(-5, 5, 21)
    expected = [np.histogram(row, edges, density=True)[0] for row in values]
    np.testing.assert_allclose(densities(values, edges), expected)


def test_statistics_equal_the_plain_ones_and_know_their_place(small_zoo: Zoo) -> None:
    values = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = tensor_statistics(values)
    flat = values[1].double().flatten()
    kurtosis = ((flat - flat.mean()) ** 4).mean() / flat.var(correction=0) ** 2
    expected = torch.stack([flat.mean(), flat.std(correction=0), flat.abs().max(), flat.norm(), kurtosis])
    torch.testing.assert_close(found[1], expected)
    shares = weight_statistics(small_zoo[CNN], 0).shares
    assert ((shares >= 0) & (shares <= 1)).all()


def test_spectra_equal_numpy_and_a_missing_matrix_is_named(small_zoo: Zoo) -> None:
    population = small_zoo[CNN]
    found = singular_spectra(population, 2)
    for entry in found.spectra:
        matrix = population.module(2).get_parameter(entry.tensor).detach().double().flatten(1).numpy()
        np.testing.assert_allclose(entry.model, np.linalg.svd(matrix, compute_uv=False), rtol=1e-6, atol=1e-9)
        assert entry.stable_rank == pytest.approx(np.linalg.norm(matrix) ** 2 / np.linalg.norm(matrix, 2) ** 2)
    with pytest.raises(UserError, match="no spectrum"):
        singular_spectra(population, 2, tensors=["head.bias"])
    assert stable_rank(singular_values(torch.zeros(1, 2, 2)))[0] == 0


def test_maps_show_the_weights_of_the_checkpoint(small_zoo: Zoo) -> None:
    population = small_zoo[SIREN]
    found = weight_maps(population, 1, checkpoint=0)
    np.testing.assert_array_equal(found.matrices["layers.0.weight"], population.module(1, 0).layers[0].weight.detach())
    assert len(found.plot().data) == len(found.matrices)
    with pytest.raises(UserError, match=r"did you mean 'layers\.0\.weight'"):
        weight_maps(population, 1, tensors=["layer.0.weight"])


def test_kernels_become_tiles() -> None:
    kernel = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    matrix = as_matrix(kernel)
    assert matrix.shape == (4, 6)
    np.testing.assert_array_equal(matrix[2:4, 2:4], kernel[1, 1])
    assert maps_of({"w": torch.zeros(2, 2)}, "zero").limit == 1.0


def test_curves_cover_every_metric(small_zoo: Zoo) -> None:
    found = training_curves(small_zoo[SIREN], 4, checkpoint=1)
    assert {entry.metric for entry in found.curves} == set(small_zoo[SIREN].metric_names())
    assert found.marked == 30
    assert found.curves[0].band.shape == (3, len(found.curves[0].steps))


def test_reconstruction_is_the_model_on_the_pixels(small_zoo: Zoo) -> None:
    population = small_zoo[SIREN]
    found = reconstruct(population, 5)
    table = population.table
    assert found.label == str(table["label"].iloc[5])
    assert found.score == pytest.approx(table["test_psnr"].iloc[5], abs=1e-3)
    assert found.image.shape == found.target.shape == (8, 8, 1)
    assert found.fine.shape == (64, 64, 1)
    with pytest.raises(UserError, match="do not draw images"):
        reconstruct(small_zoo[CNN], 0)


def test_scattered_points_are_no_image() -> None:
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(2.0))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    rows, columns, back = grid_axes(grid[order])
    assert torch.equal(grid[order][back], grid)
    assert (len(rows), len(columns)) == (3, 2)
    with pytest.raises(UserError, match="no full grid"):
        grid_axes(grid[:5])
