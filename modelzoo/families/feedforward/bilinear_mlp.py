"""The bilinear MLP: products of two linear maps in place of an activation function."""

from math import prod
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class BilinearMLPConfig(FamilyConfig):
    """Sizes of a `BilinearMLP`; `residual` adds every layer's input to its output."""

    in_features: int = Field(64, gt=0)
    width: int = Field(32, gt=0)
    layers: int = Field(1, gt=0)
    out_features: int = Field(10, gt=0)
    residual: bool = False


class Bilinear(nn.Module):
    """One bilinear layer, (W x) ⊙ (V x).

    Shape:
        inputs `[B, width]`; outputs `[B, width]`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left = nn.Linear(width, width, bias=False)
        self.right = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) * self.right(x)


class BilinearMLP(nn.Module):
    """Multilayer perceptron whose only nonlinearity is the elementwise product of two linear maps.

    h_0 = E x, h_l = (W_l h_{l-1}) ⊙ (V_l h_{l-1}) [+ h_{l-1}], y = U h_L. Without biases a one-layer network is a
    quadratic form: y_k = xᵀ B_k x with B_k = Σ_i U_ki (W E)_iᵀ (V E)_i.

    Shape:
        inputs `[B, *shape]` with `prod(shape) == in_features`; outputs `[B, out_features]`.
    """

    def __init__(self, config: BilinearMLPConfig) -> None:
        super().__init__()
        self.residual = config.residual
        self.embed = nn.Linear(config.in_features, config.width, bias=False)
        self.layers = nn.ModuleList(Bilinear(config.width) for _ in range(config.layers))
        self.head = nn.Linear(config.width, config.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.flatten(1))
        for layer in self.layers:
            h = layer(h) + h if self.residual else layer(h)
        return self.head(h)


def adapt(task: Task) -> dict[str, Any]:
    """In and out sizes from the task's shapes."""
    return {"in_features": prod(task.inputs.shape), "out_features": task.targets.classes or prod(task.targets.shape)}


FAMILY = register(
    Family(
        name="bilinear_mlp",
        module=BilinearMLP,
        config=BilinearMLPConfig,
        task="digits",
        accepts=frozenset({"vector", "image", "coordinates"}),
        predicts=frozenset({"classes", "vector"}),
        adapt=adapt,
        paper=Paper("Bilinear MLPs enable weight-based mechanistic interpretability", "Pearce et al.", 2024, "S049"),
        equation="h_l = (W_l h_{l-1}) ⊙ (V_l h_{l-1})",
        symmetry=(
            "S_h in every layer, two scales per hidden unit (W_i against V_i against the next layer) and the swap of W_i "
            "with V_i; without residuals GL(h) on the embedding"
        ),
        recipe=Recipe(steps=600),
        tiny={"width": 16},
        tiny_recipe=Recipe(steps=150, learning_rate=1e-2),
        margin=0.5,
        variants={"deep": {"layers": 3, "residual": True}},
    )
)
