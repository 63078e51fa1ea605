"""The MLP-Mixer: perceptrons across patches and across channels in turn."""

from typing import Any

from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from modelzoo.blocks.patches import PatchConfig, patch_fields, patches
from modelzoo.family import Family, Paper, Recipe, register
from modelzoo.task import Task


class MLPMixerConfig(PatchConfig):
    """Sizes of an `MLPMixer`."""

    width: int = Field(16, gt=0)
    token_hidden: int = Field(32, gt=0)
    hidden: int = Field(32, gt=0)
    layers: int = Field(2, gt=0)
    classes: int = Field(10, gt=1)


class MixerBlock(nn.Module):
    """One pre-norm layer: x ← x + (V_2 gelu(V_1 LN(x)ᵀ))ᵀ across tokens, x ← x + W_2 gelu(W_1 LN(x)) across channels.

    V_2 has no bias: it would add the same to all channels of a token, which every norm takes out again.

    Shape:
        inputs `[B, tokens, width]`; outputs `[B, tokens, width]`.
    """

    def __init__(self, tokens: int, width: int, token_hidden: int, hidden: int) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(width)
        self.token_mixing = nn.Sequential(
            nn.Linear(tokens, token_hidden), nn.GELU(), nn.Linear(token_hidden, tokens, bias=False)
        )
        self.channel_norm = nn.LayerNorm(width)
        self.channel_mixing = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.token_mixing(rearrange(self.token_norm(x), "b t c -> b c t"))
        x = x + rearrange(mixed, "b c t -> b t c")
        return x + self.channel_mixing(self.channel_norm(x))


class MLPMixer(nn.Module):
    """Patches, layers that mix tokens and then channels, mean pooling over tokens and a linear layer.

    h = E patches(x), then per layer h ← h + (V_2 gelu(V_1 LN(h)ᵀ))ᵀ, h ← h + W_2 gelu(W_1 LN(h)); y = W LN(h) averaged
    over patches.

    Shape:
        inputs `[B, in_channels, H, W]`; outputs `[B, classes]`.
    """

    def __init__(self, config: MLPMixerConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.embed = nn.Linear(config.patch_features, config.width)
        self.layers = nn.Sequential(
            *(MixerBlock(config.tokens, config.width, config.token_hidden, config.hidden) for _ in range(config.layers))
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(self.embed(patches(x, self.patch)))
        return self.head(self.norm(h).mean(1))


def adapt(task: Task) -> dict[str, Any]:
    """Patches and classes from the task's shapes."""
    return {**patch_fields(task), "classes": task.targets.classes}


FAMILY = register(
    Family(
        name="mlp_mixer",
        module=MLPMixer,
        config=MLPMixerConfig,
        task="digits",
        accepts=frozenset({"image"}),
        predicts=frozenset({"classes"}),
        adapt=adapt,
        paper=Paper("MLP-Mixer: An all-MLP Architecture for Vision", "Tolstikhin et al.", 2021),
        equation="h = E patches(x), h ← h + (V_2 gelu(V_1 LN(h)ᵀ))ᵀ, h ← h + W_2 gelu(W_1 LN(h)), y = W mean(LN(h))",
        symmetry=(
            "S_width of the residual stream, S_token_hidden and S_hidden in every layer, without scales; the gain of a "
            "norm before a linear layer across channels leaves one scale and sign per channel, that of a norm before "
            "token mixing one of each in all, since all channels share V_1; one sign of the whole stream; biases before "
            "a norm or after another bias shift"
        ),
        recipe=Recipe(steps=500, learning_rate=3e-3),
        tiny={"patch": 4, "width": 8, "token_hidden": 6, "hidden": 12, "layers": 1},
        tiny_recipe=Recipe(steps=150, learning_rate=2e-2, batch_size=48),
        margin=0.4,
        variants={"deep": {"layers": 4}},
    )
)
