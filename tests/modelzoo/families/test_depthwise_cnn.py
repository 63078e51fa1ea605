"""Depthwise-separable convolutions: every channel on its own, then a mix at every pixel."""

import torch
from torch import nn

from modelzoo.families.convolutional.depthwise_cnn import DepthwiseCNN, DepthwiseCNNConfig


def test_depthwise_layers_keep_channels_apart_and_pointwise_layers_keep_pixels_apart() -> None:
    torch.manual_seed(0)
    model = DepthwiseCNN(DepthwiseCNNConfig(channels=(6, 10, 12))).eval()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [layer.groups for layer in convolutions] == [1, 6, 1, 10, 1]
    depthwise, pointwise = convolutions[1], convolutions[2]
    assert depthwise.weight.shape == (6, 1, 3, 3)
    x = torch.randn(1, 6, 8, 8)
    moved = x.clone()
    moved[:, 2, 4, 4] += 1
    changed = (depthwise(moved) - depthwise(x)).abs().amax((0, 2, 3)) > 0
    assert changed.nonzero().flatten().tolist() == [2]
    changed = (pointwise(moved) - pointwise(x)).abs().amax((0, 1)) > 0
    assert changed.nonzero().tolist() == [[4, 4]]


def test_it_has_far_fewer_weights_than_full_convolutions() -> None:
    config = DepthwiseCNNConfig()
    model = DepthwiseCNN(config)
    own = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Conv2d))
    full = 9 * sum(a * b for a, b in zip((1, *config.channels), config.channels, strict=False))
    assert own < full / 5
