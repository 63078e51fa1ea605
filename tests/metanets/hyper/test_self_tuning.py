"""Best responses against ridge regression's closed form, and thousands of hyper-parameters."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from metanets.hyper import Problem, Target
from metanets.hyper.self_tuning import SelfTuning, SelfTuningConfig
from modelzoo.family import Recipe, family
from modelzoo.task import task


class Ridge:
    """w*(λ) = (XᵀX/n + λ)⁻¹ Xᵀy/n, with noise enough that λ matters."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        true = torch.randn(10, generator=draw)
        self.target = Target(nn.Linear(10, 1, bias=False))
        self.train, self.valid = ((x := torch.randn(n, 10, generator=draw), x @ true + 2 * torch.randn(n, generator=draw)) for n in (20, 2000))  # fmt: skip

    def losses(self, data: tuple[Tensor, Tensor]) -> Callable[[dict[str, Tensor]], Tensor]:
        x, y = data
        return lambda parameters: (self.target.map(parameters, x)[..., 0] - y).square().mean(-1) / 2

    def exact(self, log_decay: Tensor) -> Tensor:
        x, y = self.train
        return torch.linalg.solve(x.T @ x / len(x) + log_decay.exp() * torch.eye(10), x.T @ y / len(x))

    def best(self) -> float:
        grid = torch.linspace(-4, 2, 400)
        losses = [self.losses(self.valid)({"weight": self.exact(log_decay)[None, None]}) for log_decay in grid]
        return float(grid[torch.cat(losses).argmin()])

    def tuned(self, steps: int, **fields: object) -> SelfTuning:
        torch.manual_seed(0)
        config = SelfTuningConfig(low=-4, high=2, activation="tanh", **fields)
        model = SelfTuning(self.target, config)
        recipe = Recipe(steps=steps, learning_rate=1e-2)
        generator = torch.Generator().manual_seed(0)
        model.tune(lambda: self.losses(self.train), self.losses(self.valid), recipe, generator)
        return model

    def error(self, model: SelfTuning, at: Tensor) -> float:
        """Largest |w_φ(λ) - w*(λ)| / |w*(λ)|."""
        found = model(at[:, None])["weight"].detach()[:, 0]
        exact = torch.stack([self.exact(log_decay) for log_decay in at])
        return float(((found - exact).norm(dim=-1) / exact.norm(dim=-1)).max())


def test_the_penalty_weighs_every_tensor_or_weight_by_its_own_decay() -> None:
    target = Target(nn.Linear(3, 2))
    parameters = {name: value[None] for name, value in target.initial().items()}
    weight, bias = (value.square().flatten() for value in parameters.values())
    for decays, log_decay, expected in (
        ("one", torch.tensor([[0.5]]).log(), 0.25 * (weight.sum() + bias.sum())),
        ("tensors", torch.tensor([[0.5, 2.0]]).log(), 0.25 * weight.sum() + bias.sum()),
        ("weights", torch.arange(1.0, 9.0).log()[None], (torch.arange(1.0, 9.0) * torch.cat([weight, bias])).sum() / 2),
    ):
        model = SelfTuning(target, SelfTuningConfig(decays=decays))
        torch.testing.assert_close(model.penalty(parameters, log_decay)[0], expected)


def test_the_local_algorithm_finds_the_best_decay() -> None:
    ridge = Ridge()
    model = ridge.tuned(1000, algorithm="local", hidden=(16,))
    found = model.log_decay.item()
    assert found == pytest.approx(ridge.best(), abs=0.3)
    assert ridge.error(model, found + torch.tensor([-0.3, 0.0, 0.3])) <= 0.05


def test_an_untrained_response_is_wrong() -> None:
    ridge = Ridge()
    assert ridge.error(ridge.tuned(1), torch.tensor([-1.0])) > 0.2


@pytest.mark.slow
def test_the_global_algorithm_knows_the_best_response_everywhere() -> None:
    ridge = Ridge()
    model = ridge.tuned(1500, algorithm="global", hidden=(32, 32))
    error = ridge.error(model, torch.linspace(-4, 2, 25))
    print(f"largest relative error of the response {error:.3f}; log λ {float(model.log_decay):.3f}, exact {ridge.best():.3f}")  # fmt: skip
    assert error <= 0.05
    assert float(model.log_decay) == pytest.approx(ridge.best(), abs=0.3)


@pytest.mark.slow
def test_a_thousand_hyperparameters_against_random_search() -> None:
    """One decay for each of 1,060 weights; random search trains 100 networks, each its own decays, in lock-step."""
    mlp, digits = family("mlp"), task("digits")
    chosen = Problem(mlp, mlp.configure(digits, {"hidden": (14,)}), digits)
    target = chosen.target()
    train = digits.data().train
    few = torch.arange(100)  # a small training set: without decay it is overfitted
    seen = (tuple(x[few] for x in train.inputs), train.targets[few])
    held = (tuple(x[100:600] for x in train.inputs), train.targets[100:600])
    steps, trials = 1000, 100
    torch.manual_seed(0)
    config = SelfTuningConfig(
        decays="weights", hidden=(), low=-10, high=0, models=4, spread=0.3, rate=0.01, output_scale=0.01
    )
    model = SelfTuning(target, config)
    with torch.no_grad():
        for head, value in zip(model.response.heads, target.initial().values(), strict=True):
            head.bias.copy_(value.flatten())
    recipe = Recipe(steps=steps, learning_rate=5e-3)
    model.tune(
        lambda: lambda parameters: chosen.losses(target, parameters, *seen),
        lambda parameters: chosen.losses(target, parameters, *held),
        recipe, torch.Generator().manual_seed(0),
    )  # fmt: skip
    own = float(chosen.losses(target, model(model.log_decay.detach()[None]), *held))

    generator = torch.Generator().manual_seed(1)
    log_decay = -10 + 10 * torch.rand(trials, target.size, generator=generator)
    parameters = target.split(target.join(target.initial()).repeat(trials, 1))
    for value in parameters.values():
        value.requires_grad_()
    optimizer = torch.optim.Adam(list(parameters.values()), 1e-2)
    for _ in range(steps * 4 // trials * 5):  # five times the model evaluations of the hypernetwork
        loss = (chosen.losses(target, parameters, *seen) + model.penalty(parameters, log_decay)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    best = float(chosen.losses(target, parameters, *held).min())
    print(f"validation loss with {target.size} decays: hypernetwork {own:.3f}, best of {trials} random {best:.3f}")
    assert own <= 0.9 * best
