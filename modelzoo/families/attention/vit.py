"""The vision transformer: an image as a sequence of patches."""

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from modelzoo.blocks.attention import EncoderBlock
from modelzoo.blocks.patches import PatchConfig, patch_fields, patches
from modelzoo.family import Family, Paper, Recipe, register
from modelzoo.task import Task


class ViTConfig(PatchConfig):
    """Sizes of a `ViT`."""

    width: int = Field(16, gt=0)
    heads: int = Field(4, gt=0)
    hidden: int = Field(32, gt=0)
    layers: int = Field(2, gt=0)
    classes: int = Field(10, gt=1)

    @model_validator(mode="after")
    def _divides(self) -> "ViTConfig":
        if self.width % self.heads:
            raise ValueError("heads must divide width")
        return self


class ViT(nn.Module):
    """Pre-norm transformer encoder over the patches of an image, with learned positions and mean pooling.

    h = E patches(x) + p, then per layer h ← h + attention(LN(h)), h ← h + W_2 gelu(W_1 LN(h)); y = W LN(h) averaged
    over patches.

    Shape:
        inputs `[B, in_channels, H, W]`; outputs `[B, classes]`.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.embed = nn.Linear(config.patch_features, config.width)
        self.positions = nn.Parameter(0.1 * torch.randn(config.tokens, config.width))
        self.layers = nn.Sequential(
            *(EncoderBlock(config.width, config.heads, config.hidden) for _ in range(config.layers))
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(patches(x, self.patch)) + self.positions
        return self.head(self.norm(self.layers(h)).mean(1))


def adapt(task: Task) -> dict[str, Any]:
    """Patches and classes from the task's shapes."""
    return {**patch_fields(task), "classes": task.targets.classes}


FAMILY = register(
    Family(
        name="vit",
        module=ViT,
        config=ViTConfig,
        task="digits",
        accepts=frozenset({"image"}),
        predicts=frozenset({"classes"}),
        adapt=adapt,
        paper=Paper(
            "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", "Dosovitskiy et al.", 2021
        ),
        equation="h = E patches(x) + p, h ← h + attention(LN(h)), h ← h + W_2 gelu(W_1 LN(h)), y = W mean(LN(h))",
        symmetry=(
            "S_width of the residual stream, where each norm's gain leaves one scale and sign per channel; S_hidden in "
            "every feed-forward layer, without scales; S_heads, and in every head GL(d) between queries and keys and "
            "GL(d) between values and outputs; biases before a norm or after another bias shift. Turns of the stream "
            "that keep its mean, undone behind the gains, are a symmetry besides, which no factor here describes"
        ),
        recipe=Recipe(steps=500, learning_rate=3e-3),
        tiny={"patch": 4, "width": 8, "heads": 2, "hidden": 12, "layers": 1},
        tiny_recipe=Recipe(steps=150, learning_rate=2e-2, batch_size=48),
        margin=0.4,
        variants={"deep": {"layers": 4}},
    )
)
