"""The statistics baseline: what it computes, and that it cannot see the order of neurons."""

import numpy as np
import torch

from metanets.statistics import NAMES, fit_trees, weight_statistics


def stacked(models: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(models, 4, 3, generator=generator),
        "gain": torch.randn(models, 1, generator=generator),
        "spectrum": torch.randn(models, 3, dtype=torch.complex64, generator=generator),
        "steps": torch.ones(models, dtype=torch.int64),
    }


def test_columns_are_the_statistics_of_every_tensor() -> None:
    tensors = stacked()
    table = weight_statistics(tensors)
    rows = tensors["weight"].flatten(1).double().numpy()
    expected = [rows.mean(1), rows.var(1), *np.quantile(rows, [0, 0.25, 0.5, 0.75, 1], axis=1)]
    for name, column in zip(NAMES, expected, strict=True):
        np.testing.assert_allclose(table[f"weight/{name}"], column, rtol=1e-12, atol=1e-15)
    assert [name for name in map(str, table) if name.startswith("gain")] == ["gain/mean"]
    assert not [name for name in map(str, table) if name.startswith("steps")]
    parts = torch.view_as_real(tensors["spectrum"]).flatten(1).double()
    np.testing.assert_allclose(table["spectrum/q100"], parts.amax(1))


def test_statistics_are_invariant_to_the_order_of_entries_but_see_their_size() -> None:
    tensors = stacked()
    before = weight_statistics(tensors)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    moved = {**tensors, "weight": tensors["weight"].flatten(1)[:, order].view(-1, 4, 3)}
    np.testing.assert_allclose(weight_statistics(moved), before, rtol=1e-12)
    assert not np.allclose(weight_statistics({**tensors, "weight": 2 * tensors["weight"]}), before)


def test_trees_predict_unseen_rows_and_never_look_at_their_targets() -> None:
    generator = torch.Generator().manual_seed(2)
    scale = torch.rand(200, generator=generator)
    features = weight_statistics({"weight": scale[:, None, None] * torch.randn(200, 6, 6, generator=generator)})
    training = np.arange(200) < 150
    targets = scale.numpy().astype(float)
    predicted = fit_trees(features, targets, training, "regression", seed=0)
    residual = np.square(predicted - targets)[~training].mean() / targets[~training].var()
    assert residual < 0.3
    hidden = np.where(training, targets, -1e6)
    np.testing.assert_array_equal(fit_trees(features, hidden, training, "regression", seed=0), predicted)
    classes = np.where(scale > 0.5, "large", "small")
    assert (fit_trees(features, classes, training, "classification", seed=0) == classes)[~training].mean() > 0.8
