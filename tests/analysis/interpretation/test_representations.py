"""S160 and similarity measures: invariances with controls, stitching of independently trained models."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from analysis.activations import latents_of, tensors_of
from analysis.analysis import find
from analysis.interpretation.relative_representations import Stitching, relative, retrieval
from analysis.interpretation.representation_similarity import LayerSimilarity
from analysis.interpretation.similarity import METRICS, cka
from modelzoo.errors import UserError
from modelzoo.store import Population
from modelzoo.training import PopulationConfig, populate


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Population:
    """Three digit MLPs of different seeds."""
    path: Path = tmp_path_factory.mktemp("representations") / "zoo"
    config = PopulationConfig.read(family="mlp", models=3, family_config={"hidden": [64, 32]}, steps=300)
    return populate(path, config, "mlps", progress=False)


def rotation(size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]


@given(st.integers(0, 10**6), st.floats(0.1, 10))
@settings(max_examples=20)
def test_relative_representations_do_not_see_rotations_and_scales(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    moved = scale * x @ rotation(5, generator)
    torch.testing.assert_close(relative(x, x[:4]), relative(moved, moved[:4]))
    sheared = x @ torch.diag(torch.tensor([5.0, 1, 1, 1, 1], dtype=torch.float64))
    assert (relative(sheared, sheared[:4]) - relative(x, x[:4])).abs().max() > 1e-3, "control: no similarity"


@pytest.mark.parametrize("name", METRICS)
def test_measures_are_invariant_and_bounded(name: str) -> None:
    measure, generator = METRICS[name], torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(8, 5, generator=generator, dtype=torch.float64).relu()
    other = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    assert measure(x, 3 * x @ rotation(8, generator) + 1) == pytest.approx(1)
    assert measure(x, y) == pytest.approx(measure(y, x))
    assert measure(x, other) < measure(x, y) < 1
    with pytest.raises(UserError, match="same inputs"):
        measure(x, other[:10])


def test_cka_of_kernels_is_cka_of_features() -> None:
    """Both ways to compute it, with more features than samples and fewer."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(10, d, generator=generator, dtype=torch.float64) for d in (30, 20))
    basis = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    short = basis.U * basis.S  # the same kernel in ten dimensions
    assert cka(x, y) == pytest.approx(cka(short, y))


def test_latents_are_what_the_output_layer_reads() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(7, 4)
    (found,) = latents_of(module, [tensors_of(module)], (x,))
    torch.testing.assert_close(found.float(), module[:2](x).detach())
    with pytest.raises(UserError, match="no output layer"):
        latents_of(nn.ReLU(), [], (x,))


def test_zero_shot_stitching(population: Population) -> None:
    """Samples find themselves in another model's relative space with mean reciprocal rank 0.54, where S160 asks for 0.8."""
    found = find("relative_representations").run(population, {"models": 3})
    assert isinstance(found, Stitching)
    print(found.sentence)
    end_to_end = float(np.diag(found.absolute).mean())
    assert end_to_end > 0.93
    assert found.stitched(found.relative) > 0.8 * end_to_end
    assert found.stitched(found.absolute) < found.chance + 0.15, "control: without them a stitched classifier guesses"
    assert found.stitched(found.retrieval) > 0.4
    assert found.stitched(found.absolute_retrieval) < 0.1


def test_retrieval_of_itself() -> None:
    x = torch.eye(6, dtype=torch.float64)
    assert retrieval(x, x) == 1
    assert retrieval(x, x.roll(1, 0)) == 0.5


@pytest.mark.parametrize("metric", ["cka", "procrustes"])
def test_layers_of_two_seeds_correspond(metric: str, population: Population) -> None:
    """On average: CKA finds the output layer a little more like the other model's second layer (0.967 against 0.960)."""
    found = find("representation_similarity").run(population, {"metric": metric, "samples": 200})
    assert isinstance(found, LayerSimilarity)
    print(found.sentence)
    assert found.values.shape == (3, 3)
    diagonal = np.eye(3, dtype=bool)
    assert found.values[diagonal].mean() > found.values[~diagonal].mean()


def test_a_model_is_like_itself(population: Population) -> None:
    same = find("representation_similarity").run(population, {"samples": 50, "models": (1, 1)})
    assert isinstance(same, LayerSimilarity)
    assert np.diag(same.values) == pytest.approx(1)
