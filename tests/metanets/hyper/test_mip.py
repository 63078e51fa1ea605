"""Magnitude invariant parametrisation: what changes at initialisation, and the speed of learning."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metanets.hyper import Problem, Target
from metanets.hyper.hypernetwork import descend
from metanets.hyper.mip import MIP, MIPConfig, encoding
from modelzoo.family import Recipe, family
from modelzoo.task import task


def problem() -> Problem:
    mlp, digits = family("mlp"), task("digits")
    return Problem(mlp, mlp.configure(digits, {"hidden": (32,)}), digits)


def build(target: Target, seed: int, invariant: bool, **fields: object) -> MIP:
    torch.manual_seed(seed)
    scale = 0.1 if invariant else 1.0
    return MIP(target, MIPConfig(encode=invariant, residual=invariant, output_scale=scale, **fields))


def test_the_encoding_has_constant_norm() -> None:
    gamma = torch.rand(100, 5)
    torch.testing.assert_close(encoding(gamma).norm(dim=-1), torch.full((100,), 5**0.5))


def test_default_outputs_grow_with_the_input_and_invariant_ones_do_not() -> None:
    target = problem().target()
    gamma = torch.linspace(0.01, 1, 50)[:, None]

    def norms(invariant: bool, seed: int) -> Tensor:
        return target.join(build(target, seed, invariant)(gamma)).norm(dim=-1).detach()

    for seed in range(5):
        plain, own = norms(False, seed), norms(True, seed)
        assert torch.corrcoef(torch.stack([gamma[:, 0], plain]))[0, 1] > 0.99
        assert own.std() / own.mean() < 0.01 * plain.std() / plain.mean()


def test_the_gradient_has_the_same_size_for_every_input() -> None:
    chosen = problem()
    batch = chosen.batch(torch.Generator().manual_seed(0), 128)

    def spread(invariant: bool) -> float:
        target = chosen.target()
        model = build(target, 0, invariant)
        sizes = []
        for gamma in torch.linspace(0.05, 1, 12):
            loss = chosen.losses(target, model(gamma.view(1, 1)), *batch).sum()
            gradient = torch.autograd.grad(loss, list(model.model.inner.parameters()))
            sizes.append(torch.cat([g.flatten() for g in gradient]).norm())
        found = torch.stack(sizes)
        return float(found.std() / found.mean())

    assert spread(True) < spread(False) / 5


def test_zero_outputs_leave_the_usual_initialisation() -> None:
    target = problem().target(4)
    model = build(target, 0, True)
    with torch.no_grad():
        for head in model.model.inner.heads:
            head.weight.zero_()
    for name, value in model(torch.rand(3, 1)).items():
        assert torch.equal(value, target.initial()[name].expand_as(value))


def rotated(images: Tensor, angle: Tensor) -> Tensor:
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], -2)
    matrix = F.pad(turn, (0, 1)).expand(len(images), 2, 3)
    return F.grid_sample(images, F.affine_grid(matrix, list(images.shape), align_corners=False), align_corners=False)


def steps_to_target(invariant: bool, optimizer: str, rate: float, seed: int, steps: int, goal: float) -> int:
    """Steps until the mean loss of 20 steps is below the goal, on digits rotated by γ half turns."""
    chosen = problem()
    target = chosen.target(seed)
    model = build(target, seed, invariant, hidden=(32, 64))
    generator = torch.Generator().manual_seed(seed)
    train = chosen.task.data().train

    def loss() -> Tensor:
        gamma = torch.rand(8, 1, generator=generator)
        rows = torch.randint(len(train.targets), (8, 32), generator=generator)
        x = torch.stack([rotated(train.inputs[0][own], torch.pi * g[0]) for own, g in zip(rows, gamma, strict=True)])
        outputs = target.map(model(gamma), x, own=True)
        return F.cross_entropy(outputs.flatten(0, 1), train.targets[rows].flatten())

    curve = descend(model, loss, Recipe(steps=steps, optimizer=optimizer, learning_rate=rate))
    reached = (torch.tensor(curve).unfold(0, 20, 1).mean(-1) < goal).nonzero()
    return int(reached[0]) if len(reached) else steps


def test_learns_in_half_the_steps() -> None:
    plain, invariant = (steps_to_target(own, "adam", 1e-3, 0, 150, 0.8) for own in (False, True))
    assert invariant <= plain / 2


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.03), ("adam", 1e-3)])
def test_learns_in_half_the_steps_with_both_optimizers(optimizer: str, rate: float) -> None:
    found = {
        own: sorted(steps_to_target(own, optimizer, rate, seed, 400, 0.6) for seed in range(3))[1]
        for own in (False, True)
    }
    print(f"steps to a loss of 0.6, median of 3 seeds, {optimizer}: default {found[False]}, invariant {found[True]}")
    assert found[True] <= found[False] / 2
