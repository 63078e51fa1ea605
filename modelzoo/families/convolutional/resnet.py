"""The residual network: convolutions with skip connections and batch normalization."""

import itertools
from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class ResNetConfig(FamilyConfig):
    """Sizes of a `ResNet`: one stage of `blocks` residual blocks for each entry of `channels`."""

    in_channels: int = Field(1, gt=0)
    channels: tuple[int, ...] = Field((16, 32), min_length=1)
    blocks: int = Field(2, gt=0)
    classes: int = Field(10, gt=1)


class ResidualBlock(nn.Module):
    """The basic block, relu(BN(K_2 * relu(BN(K_1 * x))) + S x); S is the identity, or a 1×1 convolution with BN.

    Shape:
        inputs `[B, fan_in, H, W]`; outputs `[B, fan_out, ⌈H/stride⌉, ⌈W/stride⌉]`.
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(),
            nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            self.skip = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False), nn.BatchNorm2d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.skip(x))


class ResNet(nn.Module):
    """A 3×3 convolution, stages of residual blocks that halve the image, global average pooling and a linear layer.

    h_{l+1} = relu(h_l + BN(K_2 * relu(BN(K_1 * h_l)))), y = W mean_{x,y} h_L + b.

    Shape:
        inputs `[B, in_channels, H, W]`; outputs `[B, classes]`.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        first = config.channels[0]
        self.stem = nn.Sequential(
            nn.Conv2d(config.in_channels, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        blocks = []
        for stage, (fan_in, fan_out) in enumerate(itertools.pairwise((first, *config.channels))):
            for depth in range(config.blocks):
                stride = 2 if stage > 0 and depth == 0 else 1
                blocks.append(ResidualBlock(fan_out if depth else fan_in, fan_out, stride))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(config.channels[-1], config.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((-2, -1)))


def adapt(task: Task) -> dict[str, Any]:
    """Channels and classes from the task's shapes."""
    return {"in_channels": task.inputs.shape[0], "classes": task.targets.classes}


FAMILY = register(
    Family(
        name="resnet",
        module=ResNet,
        config=ResNetConfig,
        task="digits",
        accepts=frozenset({"image"}),
        predicts=frozenset({"classes"}),
        adapt=adapt,
        paper=Paper("Deep Residual Learning for Image Recognition", "He, Zhang, Ren and Sun", 2015),
        equation="h_{l+1} = relu(h_l + BN(K_2 * relu(BN(K_1 * h_l))))",
        symmetry=(
            "S_c in every block's inner channels, one S_c for all the channels that a stage's skips share, and one "
            "positive scale per channel before each ReLU"
        ),
        recipe=Recipe(steps=400, learning_rate=5e-3),
        tiny={"channels": (6, 8), "blocks": 1},
        tiny_recipe=Recipe(steps=100, learning_rate=1e-2),
        margin=0.5,
        variants={"three_stages": {"channels": (16, 32, 64), "blocks": 1}},
    )
)
