"""On an orbit the function stays and the weights move; beside it the function changes. Also: subgroups are subgroups."""

import numpy as np
import pytest
import torch
from torch import nn

import graphs
from analysis.symmetry.orbit import Walker, subgroup
from analysis.symmetry.table import group_table
from graphs.factors import Factor, PermutationFactor
from modelzoo.errors import UserError
from modelzoo.family import family
from modelzoo.task import task

ROUNDING = 1e-12


def relu() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(4, 3)


def linear() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)), torch.randn(4, 3)


def walker(made: tuple[nn.Module, torch.Tensor]) -> Walker:
    module, x = made
    return Walker(graphs.symmetry(module, (x,), verify=False), module, (x,))


def continuous(chosen: Walker) -> list[Factor]:
    return [factor for factor in chosen.group.factors if factor.dimension > 0]


@pytest.mark.parametrize("make", [relu, linear])
def test_function_stays_on_the_orbit_and_changes_beside_it(make: object) -> None:
    chosen = walker(make())  # type: ignore[operator]
    factors = continuous(chosen)
    assert factors
    for factor in factors:
        path = chosen.path(factor.name, (-1.0, 0.0, 1.0))
        assert (path.errors < ROUNDING).all()
        assert (path.lengths[[0, 2]] > 0.1).all()
        assert (path.control_errors[[0, 2]] > 1e-3).all()
        assert path.lengths[1] < ROUNDING
        assert len(path.to_frame()) == 3
        assert path.plot().data


@pytest.mark.parametrize("make", [relu, linear])
def test_times_add_up(make: object) -> None:
    chosen = walker(make())  # type: ignore[operator]
    for factor in continuous(chosen):
        both = factor.compose(subgroup(factor, 0.3), subgroup(factor, 0.5))
        torch.testing.assert_close(both, subgroup(factor, 0.8), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(factor.inverse(subgroup(factor, 0.7)), subgroup(factor, -0.7), rtol=1e-6, atol=1e-6)


def test_control_is_as_long_as_the_move_in_every_tensor() -> None:
    chosen = walker(relu())
    found = chosen.along(continuous(chosen)[0].name, 0.8)
    for name, before in found.before.items():
        assert float((found.control[name] - before).norm()) == pytest.approx(float((found.after[name] - before).norm()))
    assert set(found.to_frame()["tensor"]) == set(found.before)
    assert len(found.plot().data) == 3 * len(found.before)


@pytest.mark.parametrize("name", ["lru", "causal_lm"])
def test_complex_and_attention_weights_move_too(name: str) -> None:
    found = family(name)
    chosen = task(found.task)
    module = found.build(found.configure(chosen, found.tiny), seed=0)
    moving = Walker(graphs.symmetry(module, chosen.example_inputs(), verify=False), module, chosen.example_inputs())
    for factor in continuous(moving):
        move = moving.along(factor.name, 0.5)
        assert move.error < ROUNDING
        assert move.control_error > 1e-4
        assert move.plot().data


def test_a_broken_move_shows_in_the_error() -> None:
    chosen = walker(relu())
    found = chosen.along(continuous(chosen)[0].name, 0.8)
    half = {"0.weight": found.after["0.weight"]}  # only one side of the symmetry
    assert chosen.error(found.after) < ROUNDING
    assert chosen.error(half) > 1e-3


def test_transposition_swaps_two_neurons_and_nothing_else() -> None:
    chosen = walker(relu())
    factor = next(f for f in chosen.group.factors if isinstance(f, PermutationFactor))
    found = chosen.transposition(factor.name, 1, 3)
    order = [0, 3, 2, 1, 4]
    torch.testing.assert_close(found.after["0.weight"], found.before["0.weight"][order])
    torch.testing.assert_close(found.after["2.weight"], found.before["2.weight"][:, order])
    assert found.error < ROUNDING
    assert found.control_error > 1e-3
    assert "1 ↔ 3 in S_5" in found.sentence
    assert found.plot_errors().data


def test_what_cannot_move_is_said_in_one_sentence() -> None:
    chosen = walker(relu())
    swap = next(f.name for f in chosen.group.factors if isinstance(f, PermutationFactor))
    scale = continuous(chosen)[0].name
    with pytest.raises(UserError, match="which is discrete"):
        chosen.along(swap, 1.0)
    with pytest.raises(UserError, match="has no transpositions"):
        chosen.transposition(scale, 0, 1)
    with pytest.raises(UserError, match="two different numbers from 0 to 4"):
        chosen.transposition(swap, 2, 2)


def test_table_says_what_the_group_says() -> None:
    module, x = relu()
    group = graphs.symmetry(module, (x,))
    found = group_table(group)
    assert (found.dimension, found.order) == (5, "120")
    assert list(found.to_frame()["factor"]) == [factor.name for factor in group.factors]
    assert found.verdict is not None
    assert found.verdict.passed
    marks = np.asarray(found.plot().data[0].text)
    assert marks.shape == (len(group.factors), 4)
    assert (marks[:, found.tensors.index("2.bias")] == "").all()  # nothing moves the output's bias
    assert (marks[:, found.tensors.index("2.weight")] == "1").all()
