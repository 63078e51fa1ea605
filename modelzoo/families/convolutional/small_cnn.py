"""The network of the Small CNN Zoo: three convolutions, global pooling, one linear layer."""

import itertools
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from modelzoo.errors import UserError
from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class SmallCNNConfig(FamilyConfig):
    """Sizes of a `SmallCNN`; `stride` is that of the first two convolutions."""

    in_channels: int = Field(1, gt=0)
    channels: tuple[int, ...] = Field((16, 16, 16), min_length=1)
    classes: int = Field(10, gt=1)
    stride: int = Field(2, gt=0)
    activation: Literal["relu", "tanh", "gelu"] = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)


class SmallCNN(nn.Module):
    """Three 3×3 convolutions of 16 channels, global average pooling and a linear layer.

    h_l = act(K_l * h_{l-1} + b_l), y = W mean_{x,y} h_L + b.

    Shape:
        inputs `[B, in_channels, H, W]`; outputs `[B, classes]`.
    """

    def __init__(self, config: SmallCNNConfig) -> None:
        super().__init__()
        sizes = (config.in_channels, *config.channels)
        blocks: list[nn.Module] = []
        for depth, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            stride = config.stride if depth < 2 else 1
            blocks += [nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1), ACTIVATIONS[config.activation]()]
            blocks += [nn.Dropout(config.dropout)] if config.dropout else []
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(sizes[-1], config.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((-2, -1)))


def adapt(task: Task) -> dict[str, Any]:
    """Channels and classes from the task's shapes."""
    channels, height, width = task.inputs.shape
    if min(height, width) < 3:
        raise UserError(
            f"family 'small_cnn' needs images of at least 3 × 3 pixels, task {task.name!r} gives {task.inputs}.", 2
        )
    return {"in_channels": channels, "classes": task.targets.classes}


FAMILY = register(
    Family(
        name="small_cnn",
        module=SmallCNN,
        config=SmallCNNConfig,
        task="digits",
        accepts=frozenset({"image"}),
        predicts=frozenset({"classes"}),
        adapt=adapt,
        paper=Paper("Predicting Neural Network Accuracy from Weights", "Unterthiner et al.", 2020),
        equation="h_l = act(K_l * h_{l-1} + b_l), y = W mean(h_L) + b",
        symmetry="S_16 in every convolution; with ReLU one positive scale per channel, with tanh one sign",
        recipe=Recipe(steps=400, learning_rate=5e-3),
        tiny={"channels": (8, 8)},
        tiny_recipe=Recipe(steps=150, learning_rate=2e-2),
        margin=0.4,
        variants={"dense": {"stride": 1}, "tanh": {"activation": "tanh"}},
    )
)
