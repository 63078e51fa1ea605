"""The static hypernetwork: the formula of its kernels, what is learned, and how well a residual network does with it."""

import pytest
import torch
from torch import Tensor

from metanets.hyper import Problem, Target, hypernetwork
from metanets.hyper.hypernetwork import descend
from metanets.hyper.static_hypernetwork import KernelGenerator, StaticHypernetwork, StaticHypernetworkConfig
from modelzoo.errors import UserError
from modelzoo.family import Recipe, family, parameter_count
from modelzoo.task import task


def problem(name: str, **fields: object) -> Problem:
    found, digits = family(name), task("digits")
    return Problem(found, found.configure(digits, fields), digits)


def build(target: Target, **fields: object) -> StaticHypernetwork:
    torch.manual_seed(0)
    return StaticHypernetwork(target, StaticHypernetworkConfig(**fields))


def test_a_kernel_follows_the_formula() -> None:
    config = StaticHypernetworkConfig(tile=5, inner=3, embedding=2)
    generator = KernelGenerator((2, 2), config)
    torch.nn.init.normal_(generator.bias)
    torch.nn.init.normal_(generator.out_bias)
    z = torch.randn(2)
    kernel = generator(z)
    assert kernel.shape == (5, 5, 2, 2)
    for i in range(5):
        inner = generator.weight[i] @ z + generator.bias[i]
        expected = torch.stack([inner @ generator.out_weight[:, o] + generator.out_bias[o] for o in range(5)])
        torch.testing.assert_close(kernel[:, i].flatten(1), expected)


def test_larger_kernels_are_put_together_from_tiles() -> None:
    model = build(problem("small_cnn", channels=(10, 13)).target(), tile=4, models=2)
    made = model(torch.arange(2))["features.2.weight"]
    assert made.shape == (2, 13, 10, 3, 3)
    z = model.embeddings["features/2/weight"]
    assert z.shape == (2, 4, 3, 8)
    tiles = model.generators["(3, 3)"](z)
    for out, into in ((0, 0), (2, 1), (3, 2)):
        rows, columns = slice(4 * out, min(4 * out + 4, 13)), slice(4 * into, min(4 * into + 4, 10))
        tile = tiles[:, out, into, : rows.stop - rows.start, : columns.stop - columns.start]
        assert torch.equal(made[:, rows, columns], tile)


def test_generated_kernels_are_no_parameters_and_begin_at_the_usual_scale() -> None:
    target = problem("resnet").target()
    model = build(target, models=3)
    made, usual = model(torch.arange(3)), target.initial()
    generated = [name for name in made if name.replace(".", "/") not in model.direct]
    assert generated
    held = {key.removeprefix("direct.").replace("/", ".") for key, _ in model.named_parameters()}
    for name in generated:
        assert name not in held
        assert not made[name].is_leaf
        assert float(made[name].detach().std() / usual[name].std()) == pytest.approx(1, abs=0.5)
    sum(value.square().sum() for value in made.values()).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.embeddings.values())


def test_too_narrow_a_target_is_refused() -> None:
    with pytest.raises(UserError, match="smaller tile"):
        build(problem("mlp", hidden=(8,)).target())


def scores(chosen: Problem, direct_steps: int, steps: int, rate: float) -> tuple[float, float, float]:
    """Test accuracy trained directly and through the hypernetwork, and the ratio of learned parameters."""
    module = chosen.family.build(chosen.config, 0).train()
    generator = torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        inputs, targets = chosen.batch(generator, 64)
        return chosen.task.loss(module(*inputs), targets)

    descend(module, loss, Recipe(steps=direct_steps, learning_rate=5e-3))
    test = chosen.task.data().test
    with torch.no_grad():
        direct = float(chosen.task.score(module.eval()(*test.inputs), test.targets))
    target, found = chosen.target(), hypernetwork("static_hypernetwork")
    model = found.build(target, StaticHypernetworkConfig(), 0)
    model.fit(chosen, Recipe(steps=steps, learning_rate=rate), 0)
    own = float(chosen.scores(target, model(torch.arange(1)))[0])
    return direct, own, parameter_count(model) / parameter_count(module)


def test_a_convolutional_network_learns_through_it() -> None:
    _, own, share = scores(problem("small_cnn", channels=(16, 16, 16, 16)), 1, 150, 1e-2)
    assert own >= 0.75
    assert share < 0.9


@pytest.mark.slow
def test_a_residual_network_from_a_fifth_of_the_parameters() -> None:
    direct, own, share = scores(problem("resnet"), 200, 800, 5e-3)
    print(f"direct {direct:.3f}, through the hypernetwork {own:.3f} with {share:.2f} of the parameters")
    assert share <= 0.4
    assert own >= direct - 0.03
