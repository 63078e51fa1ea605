"""Trajectories of training on principal axes."""

import numpy as np
import pytest

from analysis.curvature.pca_trajectories import project, trajectories
from modelzoo.store import Population, Zoo


@pytest.fixture(scope="module")
def population(small_zoo: Zoo) -> Population:
    return small_zoo["small-cnn-digits"]


def test_a_plane_is_found() -> None:
    generator = np.random.default_rng(0)
    plane, place = np.linalg.qr(generator.normal(size=(40, 2)))[0], generator.normal(size=(3, 5, 2))
    points, shares = project(place @ plane.T + generator.normal(size=40))
    assert shares.sum() == pytest.approx(1)
    flat, truth = points.reshape(-1, 2), place.reshape(-1, 2)
    gaps = np.linalg.norm(flat[:, None] - flat, axis=-1)
    np.testing.assert_allclose(gaps, np.linalg.norm(truth[:, None] - truth, axis=-1), atol=1e-12)
    assert project(generator.normal(size=(3, 5, 40)))[1].sum() < 0.7, "control: no plane"


def test_alignment_brings_ends_together(population: Population) -> None:
    found = {aligned: trajectories(population, [0, 1], ["0", "1"], aligned) for aligned in (False, True)}
    steps = population.info.checkpoint_steps
    for one in found.values():
        assert one.points.shape == (2, len(steps), 2)
        assert len(one.to_frame()) == 2 * len(steps)
        assert one.plot().data
    first = {aligned: one.points[0] for aligned, one in found.items()}
    lengths = {aligned: np.linalg.norm(np.diff(path, axis=0)) for aligned, path in first.items()}
    assert all(length > 0 for length in lengths.values())
    ends = {aligned: np.linalg.norm(one.points[0, -1] - one.points[1, -1]) for aligned, one in found.items()}
    assert ends[True] < ends[False]
