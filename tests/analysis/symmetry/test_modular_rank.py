"""Certified functional dimensions: against exact fractions, dense Jacobians and known symmetries."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

from analysis.symmetry.modular_rank import (
    PRIME,
    ModularRankOptions,
    certify,
    modular_rank,
    rank_modulo,
    relu_layers,
    rounded,
    whole_jacobian,
)  # fmt: skip
from graphs.completeness import functional_dimension
from graphs.subjects import Subject
from modelzoo.errors import UserError

Layers = tuple[list[np.ndarray], list[np.ndarray]]


def network(widths: tuple[int, ...], seed: int = 0) -> Layers:
    generator = np.random.default_rng(seed)
    weights = [generator.integers(-9, 10, (after, before)) for before, after in itertools.pairwise(widths)]
    return weights, [generator.integers(-9, 10, after) for after in widths[1:]]


def exact_rank(matrix: np.ndarray) -> int:
    rows = [[Fraction(int(x)) for x in row] for row in matrix]
    rank = 0
    for column in range(matrix.shape[1]):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for r in range(rank + 1, len(rows)):
            factor = rows[r][column] / rows[rank][column]
            rows[r] = [a - factor * b for a, b in zip(rows[r], rows[rank], strict=True)]
        rank += 1
    return rank


def test_ranks_equal_those_of_fractions() -> None:
    generator = np.random.default_rng(0)
    for rank in (1, 4, 6):
        matrix = generator.integers(-5, 6, (9, rank)) @ generator.integers(-5, 6, (rank, 7))
        assert rank_modulo(matrix) == exact_rank(matrix)
    assert rank_modulo(np.array([[7, 0], [0, 1]]), prime=7) == 1, "it can only be too small"


def test_the_jacobian_is_that_of_automatic_differentiation() -> None:
    weights, biases = network((3, 4, 4, 2))
    x = np.random.default_rng(1).integers(-20, 21, (6, 3)) * 2 + 1

    def function(flat: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        h, place = sample, 0
        for number, w in enumerate(weights):
            rows, columns = w.shape
            matrix = flat[place : place + w.size].view(rows, columns)
            h = matrix @ h + flat[place + w.size : place + w.size + rows]
            place += w.size + rows
            h = h.relu() if number < len(weights) - 1 else h
        return h

    flat = torch.tensor(np.concatenate([np.concatenate([w.ravel(), b]) for w, b in zip(weights, biases, strict=True)]), dtype=torch.float64)  # fmt: skip
    dense = vmap(jacrev(function), (None, 0))(flat, torch.tensor(x, dtype=torch.float64)).flatten(0, 1).numpy()
    assert np.array_equal(whole_jacobian(weights, biases, x), dense.astype(np.int64) % PRIME)


@pytest.mark.parametrize(("widths", "units"), [((2, 4, 1), 4), ((3, 4, 4, 2), 8)])
def test_only_scales_are_missing(widths: tuple[int, ...], units: int) -> None:
    """Some whole weights reach parameters − hidden units, which no ReLU network exceeds."""
    ranks = [certify(*network(widths, seed), points=300) for seed in range(6)]
    assert max(found.rank for found in ranks) == ranks[0].parameters - units


def test_a_dead_unit_is_missing_too() -> None:
    weights, biases = network((2, 4, 1), 0)
    full = max((certify(*network((2, 4, 1), seed)).rank, seed) for seed in range(6))
    weights, biases = network((2, 4, 1), full[1])
    biases[0][1], weights[0][1] = -(10**6), 1  # never active at inputs of a thousand
    assert certify(weights, biases).rank == full[0] - 3, (
        "its two weights, its bias and its outgoing weight, but no scale"
    )
    assert "at least" in certify(weights, biases).sentence


def test_refusals() -> None:
    weights, biases = network((2, 4, 1))
    with pytest.raises(UserError, match="more than 64 bits"):
        whole_jacobian([w * 10**10 for w in weights], biases, np.full((1, 2), 10**3))
    with pytest.raises(UserError, match="exactly 0"):
        whole_jacobian([w * 0 for w in weights], [b * 0 for b in biases], np.ones((1, 2), dtype=np.int64))


def relu(*widths: int) -> Subject:
    torch.manual_seed(0)
    layers = [part for pair in itertools.pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
    return Subject("mine", nn.Sequential(nn.Flatten(), *layers[:-1]), (torch.randn(3, widths[0], 1),))


def test_a_module_is_read_and_rounded() -> None:
    found = relu(2, 4, 3, 1)
    weights, biases = rounded(*relu_layers(found), scale=1000)
    x = np.array([[700, -300], [-1500, 20]])
    h = x
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        h = np.maximum(h @ weight.T + bias, 0)
    ours = (h @ weights[-1].T + biases[-1]) / 1000.0**4
    theirs = found.module(torch.tensor(x / 1000, dtype=torch.float32)[..., None]).detach().numpy()
    assert np.abs(ours - theirs).max() < 0.005


def test_the_certificate_equals_the_numerical_rank() -> None:
    for dead in (False, True):
        found = relu(2, 4, 1)
        if dead:
            found.module[1].bias.data[2] = -100.0  # type: ignore[index]
        numerical = functional_dimension(found.module, found.inputs)
        certified = modular_rank(found, ModularRankOptions())
        assert certified.rank == numerical.rank == (13 - 3 * dead)
        assert list(certified.to_frame()["rank"]) == sorted(certified.ranks)
        assert ("which no ReLU network exceeds" in certified.sentence) is not dead


def test_other_modules_are_refused() -> None:
    inputs = (torch.randn(3, 2),)
    for module, what in (
        (nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)), "has aten.tanh in 1"),
        (nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 1)), "has aten.mm in 0"),
        (nn.Sequential(nn.Linear(2, 4), nn.ReLU()), "has another form"),
    ):
        with pytest.raises(UserError, match=what):
            modular_rank(Subject("mine", module, inputs), ModularRankOptions())
    with pytest.raises(UserError, match="17 parameters; elimination costs their cube"):
        modular_rank(relu(2, 4, 1), ModularRankOptions(max_parameters=10))
    with pytest.raises(UserError, match="take a smaller scale"):
        modular_rank(relu(2, 4, 1), ModularRankOptions(scale=10**9))
