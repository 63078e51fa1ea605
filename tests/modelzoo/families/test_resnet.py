"""The residual network: skips, and batch-norm statistics that lock-step training keeps apart."""

import pytest
import torch

from modelzoo.families.convolutional.resnet import ResidualBlock
from modelzoo.training import Plan, PopulationConfig, train_population


@pytest.mark.parametrize(("sizes", "stride"), [((4, 4), 1), ((4, 6), 1), ((4, 6), 2)])
def test_a_block_whose_last_gain_is_zero_is_its_skip(sizes: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(*sizes, stride).eval()
    torch.nn.init.zeros_(block.residual[4].weight)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(block(x), block.skip(x).relu())
    assert isinstance(block.skip, torch.nn.Identity) == (sizes == (4, 4) and stride == 1)


@pytest.mark.parametrize("name", ["resnet", "depthwise_cnn"])
def test_running_statistics_in_lock_step_are_those_of_each_model_alone(name: str) -> None:
    plan = Plan.of(PopulationConfig.read(family=name, models=3, tiny=True, steps=3))
    together = train_population(plan.family, plan.config, plan.task, plan.hyperparameters(range(3)), plan.recipe)
    means = [key for key in together.buffers if key.endswith("running_mean")]
    assert len(means) >= 5
    for model in range(3):
        alone = train_population(plan.family, plan.config, plan.task, plan.hyperparameters([model]), plan.recipe)
        for key, value in together.buffers.items():
            ours, theirs = torch.as_tensor(value)[model], torch.as_tensor(alone.buffers[key])[0]
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=key)
    first, second = (torch.as_tensor(together.buffers[means[0]])[model, -1] for model in (0, 1))
    assert (first - second).abs().max() > 1e-3, "two models have statistics of their own"
    counts = next(value for key, value in together.buffers.items() if key.endswith("num_batches_tracked"))
    assert torch.as_tensor(counts)[:, -1].tolist() == [3, 3, 3]
