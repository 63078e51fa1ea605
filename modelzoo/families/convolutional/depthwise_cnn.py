"""Depthwise-separable convolutions, the network of MobileNet at a small size."""

import itertools
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class DepthwiseCNNConfig(FamilyConfig):
    """Sizes of a `DepthwiseCNN`; the stem has the first entry of `channels`, every other block halves the image."""

    in_channels: int = Field(1, gt=0)
    channels: tuple[int, ...] = Field((16, 32, 32, 64), min_length=2)
    classes: int = Field(10, gt=1)


def normalized(convolution: nn.Conv2d) -> nn.Sequential:
    """A convolution with batch normalization and ReLU."""
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


class DepthwiseCNN(nn.Module):
    """A 3×3 convolution, depthwise-separable blocks, global average pooling and a linear layer.

    u_c = relu(BN(k_c * h_c)) for every channel c on its own, h' = relu(BN(P u)) at every pixel, y = W mean_{x,y} h + b.

    Shape:
        inputs `[B, in_channels, H, W]`; outputs `[B, classes]`.
    """

    def __init__(self, config: DepthwiseCNNConfig) -> None:
        super().__init__()
        first = config.channels[0]
        layers = [normalized(nn.Conv2d(config.in_channels, first, 3, padding=1, bias=False))]
        for depth, (fan_in, fan_out) in enumerate(itertools.pairwise(config.channels)):
            stride = 2 if depth % 2 == 0 else 1
            layers += [
                normalized(nn.Conv2d(fan_in, fan_in, 3, stride=stride, padding=1, groups=fan_in, bias=False)),
                normalized(nn.Conv2d(fan_in, fan_out, 1, bias=False)),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(config.channels[-1], config.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((-2, -1)))


def adapt(task: Task) -> dict[str, Any]:
    """Channels and classes from the task's shapes."""
    return {"in_channels": task.inputs.shape[0], "classes": task.targets.classes}


FAMILY = register(
    Family(
        name="depthwise_cnn",
        module=DepthwiseCNN,
        config=DepthwiseCNNConfig,
        task="digits",
        accepts=frozenset({"image"}),
        predicts=frozenset({"classes"}),
        adapt=adapt,
        paper=Paper(
            "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", "Howard et al.", 2017
        ),
        equation="u_c = relu(BN(k_c * h_c)), h' = relu(BN(P u))",
        symmetry="S_c for the channels of every block, which carry their depthwise kernels along; scales before each ReLU",
        recipe=Recipe(steps=400, learning_rate=5e-3),
        tiny={"channels": (8, 12, 16)},
        tiny_recipe=Recipe(steps=120, learning_rate=1e-2),
        margin=0.5,
        variants={"thin": {"channels": (8, 16, 16, 32)}},
    )
)
