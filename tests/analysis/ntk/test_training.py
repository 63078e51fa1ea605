"""What tangent kernels say about training: spectral bias (S158), telescoping (S193), sign descent (S139), populations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from analysis.analysis import find
from analysis.ntk.kernel_evolution import kernel_history
from analysis.ntk.kernel_regression import regressions
from analysis.ntk.sign_kernel import gradients, projection_errors, sign_kernel_matrix
from analysis.ntk.spectral_bias import circle, frequencies, infinite_spectrum, spectral_bias
from analysis.ntk.telescoping import Optimizer, Telescope, telescope, toy_problem
from graphs import symmetry
from modelzoo.errors import UserError
from modelzoo.family import family
from modelzoo.store import Population, Zoo
from modelzoo.task import task


def test_products_learn_high_frequencies_sooner() -> None:
    found = spectral_bias(width=4096, most=12)
    assert (found.gains[2:13] > 1).all()
    assert found.halving[1] <= 0.7 * found.halving[0]
    np.testing.assert_allclose(found.perceptron[:6], found.limits[0, :6], rtol=0.1)
    np.testing.assert_allclose(found.product[:6], found.limits[1, :6], rtol=0.15)
    infinite = infinite_spectrum(2) / infinite_spectrum(2)[1], infinite_spectrum(1) / infinite_spectrum(1)[1]
    assert (infinite[0][2:13] > infinite[1][2:13]).all(), "and so do infinitely wide ones"


def test_frequencies_of_a_known_kernel() -> None:
    x = circle(16)
    angle = torch.atan2(x[:, 1], x[:, 0])
    kernel = 0.5 + 2 * torch.cos(3 * (angle[:, None] - angle))
    np.testing.assert_allclose(frequencies(kernel), [0.5, 0, 0, 1, 0, 0, 0, 0, 0], atol=1e-12)


def small_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)).double()


@pytest.mark.parametrize(
    "fields", [{"steps": 300, "width": 12, "samples": 30}, pytest.param({}, marks=pytest.mark.slow)]
)
def test_telescoping_describes_training_and_one_expansion_does_not(fields: dict[str, int]) -> None:
    found = find("telescoping").run(None, fields)
    assert isinstance(found, Telescope)
    last = found.rows.iloc[-1]
    assert last["telescoping error"] <= 0.01
    assert last["lazy error"] >= 20 * last["telescoping error"]
    assert last["test parameters"] > last["train parameters"]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_the_smoother_is_the_model(optimizer: Optimizer) -> None:
    """s_T y + c_T is the telescoping model up to second order in the step, and does not depend on y for fixed kernels."""
    train, y, test, truth = toy_problem(12, 0)
    errors = []
    for halves in (0, 1):  # the same training time in steps of half the length
        rate = (0.02 if optimizer == "sgd" else 2e-3) / 2**halves
        found = telescope(small_network(), train, y, test, truth, 60 * 2**halves, rate, optimizer, 0.1)
        rebuilt = found.smoother @ y + found.offset
        errors.append(float((rebuilt - found.predicted).norm() / found.predicted.norm()))
    assert errors[0] < 2e-3
    if optimizer == "sgd":
        assert errors[1] < 0.6 * errors[0]
    linear = nn.Linear(4, 1).double()  # a linear model is its own telescope
    found = telescope(linear, train, y, test, truth, 40, 0.05, optimizer, 0.1)
    torch.testing.assert_close(found.smoother @ y + found.offset, found.network, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.predicted, found.network, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found.smoother @ y.flip(0) + found.offset, found.network, atol=1e-3), "control: other targets"  # fmt: skip


def test_a_polynomial_is_generalised_after_it_is_memorised() -> None:
    """The catalogue has the ratio of effective parameters (test to training) rise with the test error; here it is opposed."""
    fields = {"problem": "polynomial", "optimizer": "sgd", "rate": 300, "steps": 150, "width": 30, "samples": 60, "features": 12}  # fmt: skip
    found = find("telescoping").run(None, fields)
    assert isinstance(found, Telescope)
    first, last = found.rows.iloc[0], found.rows.iloc[-1]
    assert last["train loss"] < 0.2 * last["test loss"], "memorised"
    assert last["test loss"] < 0.8 * first["test loss"], "and test error still falls"
    assert last["telescoping error"] < 0.05 < last["lazy error"]
    assert found.correlation < -0.6


def test_limits_of_gradient_and_sign_descent_differ() -> None:
    """First steps of wide networks in the tangent parametrization: seeds agree ever better, the two rules do not (S030)."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=draw)
    between, apart = [], []
    for width in (64, 1024):
        found = []
        for seed in range(2):
            torch.manual_seed(seed)
            first, last = nn.Linear(4, width), nn.Linear(width, 1)
            nn.init.normal_(first.weight)
            nn.init.normal_(last.weight)
            module = nn.Sequential(first, nn.Tanh(), last)
            rows = gradients(module, [x])
            kernels = [rows @ rows.T, sign_kernel_matrix(rows)]
            found.append([kernel / kernel.norm() for kernel in kernels])
        between.append(max(float((a - b).norm()) for a, b in zip(*found, strict=True)))
        apart.append(float((found[0][0] - found[0][1]).norm()))
    assert between[1] < 0.5 * between[0]
    assert apart[1] > 4 * between[1]


def test_sign_kernels() -> None:
    chosen = task(family("mlp").task)
    config = family("mlp").configure(chosen, {"hidden": (12,)})
    module = family("mlp").build(config, seed=0).double()
    x = chosen.example_inputs(10)[0].double()
    rows = gradients(module, [x])
    sign = sign_kernel_matrix(rows)
    assert (sign - sign.T).norm() / sign.norm() > 0.05
    module.zero_grad()
    module(x[3:4])[0, 0].backward()
    own = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    torch.testing.assert_close(sign[:, 3], rows @ own.sign())
    # descent along the sign of the gradient of sample 3 moves the outputs by it, to first order
    before, step = module(x)[:, 0], 1e-8
    with torch.no_grad():
        for p in module.parameters():
            assert p.grad is not None
            p += step * p.grad.sign()
    torch.testing.assert_close((module(x)[:, 0] - before) / step, sign[:, 3], rtol=1e-4, atol=1e-4)


def test_what_leaves_the_kernels_alone() -> None:
    """Hidden permutations leave both; a scaling of ReLU units changes both; a rotation of gradients only the sign kernel."""
    chosen = task(family("mlp").task)
    module = family("mlp").build(family("mlp").configure(chosen, {"hidden": (12,)}), seed=0).double()
    x = chosen.example_inputs(6)[0].double()
    rows = gradients(module, [x])
    group = symmetry(module, (x.float(),)) if next(module.parameters()).dtype == torch.float32 else symmetry(module.float(), (x.float(),))  # fmt: skip
    module.double()
    tensors = {name: p.detach() for name, p in module.named_parameters()}
    permutations = replace(group, factors=tuple(f for f in group.factors if "Permutation" in type(f).__name__))
    moved = permutations.sample(torch.Generator().manual_seed(0)).apply(tensors)
    assert any(not torch.equal(moved[name], tensors[name]) for name in tensors)
    for name, p in module.named_parameters():
        p.data = moved[name].double()
    after = gradients(module, [x])
    torch.testing.assert_close(after @ after.T, rows @ rows.T)
    torch.testing.assert_close(sign_kernel_matrix(after), sign_kernel_matrix(rows))
    with torch.no_grad():  # first layer times 3, second by 3
        module.get_parameter("layers.0.weight").mul_(3)
        module.get_parameter("layers.0.bias").mul_(3)
        module.get_parameter("layers.2.weight").div_(3)
    scaled = gradients(module, [x])
    assert (scaled @ scaled.T - rows @ rows.T).norm() > 0.1 * (rows @ rows.T).norm()
    rotation = torch.linalg.qr(torch.randn(rows.shape[1], rows.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]  # fmt: skip
    turned = rows @ rotation
    torch.testing.assert_close(turned @ turned.T, rows @ rows.T)
    assert (sign_kernel_matrix(turned) - sign_kernel_matrix(rows)).norm() > 0.1 * sign_kernel_matrix(rows).norm()


def test_random_directions_keep_the_kernel_up_to_one_over_root_rank() -> None:
    rows = torch.randn(8, 3000, generator=torch.Generator().manual_seed(0))
    ranks = [8, 32, 128, 512]
    errors = projection_errors(rows, ranks)
    assert np.polyfit(np.log(ranks), np.log(errors.numpy()), 1)[0] == pytest.approx(-0.5, abs=0.06)


@pytest.fixture(scope="module")
def population(small_zoo: Zoo) -> Population:
    return small_zoo["small-cnn-digits"]


def test_kernels_turn_towards_the_targets(population: Population, small_zoo: Zoo) -> None:
    found = kernel_history(population, models=4, samples=40)
    assert len(found.rows) == 4 * len(found.steps)
    first, last = (found.rows[found.rows["step"] == step] for step in (found.steps[0], found.steps[-1]))
    assert (first["distance"] < 1e-12).all()
    assert (last["distance"] > 1e-3).all()
    assert last["alignment"].mean() > first["alignment"].mean()
    np.testing.assert_allclose(found.spectra.sum(1), 1)
    with pytest.raises(UserError, match="no separate samples with common targets"):
        kernel_history(small_zoo["siren-digits-inr"], 1, 8)


def test_kernel_regression_beats_chance(population: Population) -> None:
    found = regressions(population, models=2, train=150, test=150)
    scores = found.rows.groupby("predictor")["score"].mean()
    assert len(scores) == 3
    assert scores.filter(like="kernel").min() > 0.5, "ten classes"
    assert found.metric == "accuracy"
