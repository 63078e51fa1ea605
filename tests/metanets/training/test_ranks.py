"""Ranks of targets against counting, and back."""

import numpy as np
import pytest
import torch

from metanets.training.module import KNOTS, Ranks


def fitted(targets: torch.Tensor) -> Ranks:
    ranks = Ranks()
    ranks.fit(targets)
    return ranks


def test_a_rank_is_the_share_of_smaller_targets() -> None:
    targets = torch.from_numpy(np.random.default_rng(0).beta(5, 1, 400).astype(np.float32))
    found = fitted(targets)(targets)
    counted = (targets[:, None] > targets).float().mean(1)
    torch.testing.assert_close(found, counted, rtol=0, atol=1 / KNOTS)
    assert (counted - targets).abs().max() > 0.2, "they are not the targets themselves"


def test_there_and_back() -> None:
    targets = torch.linspace(-3, 7, 200) ** 3
    ranks = fitted(targets)
    torch.testing.assert_close(ranks.invert(ranks(targets)), targets, rtol=1e-4, atol=1e-3)
    beyond = torch.tensor([-1e6, 1e6])
    assert ranks.invert(ranks(beyond)).tolist() == pytest.approx([-27, 343])


def test_equal_targets_share_the_middle_of_their_ranks() -> None:
    ranks = fitted(torch.tensor([0.0] * 50 + [1.0] * 50))
    assert ranks(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.25, 0.75], abs=1 / KNOTS)


def test_gradients_reach_ranks_and_what_is_not_finite_stays_so() -> None:
    ranks = fitted(torch.linspace(0, 2, 100))
    at = torch.tensor([0.3], requires_grad=True)
    ranks.invert(at).backward()
    assert at.grad is not None
    assert at.grad.item() == pytest.approx(2, rel=1e-3)
    assert ranks.invert(torch.tensor([float("nan")])).isnan().all()
