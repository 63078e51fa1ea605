"""The dense Hebbian network: an associative memory with interactions between many neurons at once."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task, TaskData


class DenseHebbianConfig(FamilyConfig):
    """Sizes of a `DenseHebbian`.

    `interaction` is the number P of neurons that interact at once (2 is the Hopfield network), `temperature` the noise
    of the dynamics, `sweeps` the number of synchronous updates, `examples` how many corrupted examples of each pattern
    the fit sees.
    """

    units: int = Field(64, gt=0)
    patterns: int = Field(32, gt=0)
    interaction: int = Field(8, ge=2)
    temperature: float = Field(0.005, gt=0)
    sweeps: int = Field(5, gt=0)
    examples: int = Field(16, gt=0)


class DenseHebbian(nn.Module):
    """Dense associative memory with the energy of P-neuron interactions, relaxed by mean-field dynamics.

    E(s) = -(N/P) Σ_μ m_μ^P with the overlaps m = ξ s / N, and one update is s_i ← tanh(h_i / T) with the field
    h_i = -∂E/∂s_i + s_i ∂²E/∂s_i² = Σ_μ ξ_μi m_μ^(P-1) - (s_i (P-1)/N) Σ_μ ξ_μi² m_μ^(P-2): to first order the slope at
    s_i = 0, so no neuron drives itself. The rows of ξ are averages of corrupted examples of one pattern each (supervised
    Hebb), scaled to unit root mean square; the number of patterns that can be recalled grows like N^(P-1).

    Shape:
        inputs `[B, units]` of ±1; outputs `[B, units]` in [-1, 1]; ξ `[patterns, units]`.
    """

    def __init__(self, config: DenseHebbianConfig) -> None:
        super().__init__()
        self.config = config
        self.patterns = nn.Parameter(torch.randn(config.patterns, config.units))

    def forward(self, state: Tensor) -> Tensor:
        power = self.config.interaction - 1
        for _ in range(self.config.sweeps):
            overlaps = state @ self.patterns.T / self.config.units  # [B, patterns]
            own = overlaps ** (power - 1) @ self.patterns.square() * (power / self.config.units)
            state = ((overlaps**power @ self.patterns - own * state) / self.config.temperature).tanh()
        return state

    def energy(self, state: Tensor) -> Tensor:
        """E(s) = -(N/P) Σ_μ (ξ_μ · s / N)^P of states `[B, units]`, `[B]`."""
        overlaps = state @ self.patterns.T / self.config.units
        return -(overlaps**self.config.interaction).sum(-1) * self.config.units / self.config.interaction


@torch.no_grad()
def fit(module: nn.Module, data: TaskData, seed: int) -> None:
    """Set every row of ξ, in one shot, to the average of `examples` corrupted copies of one pattern, drawn by `seed`."""
    assert isinstance(module, DenseHebbian)
    copies = data.train.inputs[0]
    names, owner = data.train.targets.unique(dim=0, return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    for number in torch.arange(len(names)):
        own = copies[owner == number]
        chosen = torch.randperm(len(own), generator=generator)[: module.config.examples]
        average = own[chosen].mean(0)
        module.patterns[number] = average / average.square().mean().sqrt()


def adapt(task: Task) -> dict[str, Any]:
    """Units and number of patterns from the task's shapes."""
    return {"units": task.inputs.shape[0], "patterns": task.inputs.classes}


FAMILY = register(
    Family(
        name="dense_hebbian",
        module=DenseHebbian,
        config=DenseHebbianConfig,
        task="patterns",
        accepts=frozenset({"pattern"}),
        predicts=frozenset({"pattern"}),
        adapt=adapt,
        paper=Paper(
            "Dense Hebbian neural networks: a replica symmetric picture of supervised learning",
            "Agliari et al.", 2023, "S121",
        ),
        equation="E = -(N/P) Σ_μ (ξ_μ · s / N)^P, s_i ← tanh((-∂E/∂s_i + s_i ∂²E/∂s_i²) / T)",
        symmetry="S_K on the stored patterns, and for even P one sign per pattern",
        recipe=Recipe(steps=1),
        tiny={},
        tiny_recipe=Recipe(steps=1),
        margin=0.15,
        variants={"hopfield": {"interaction": 2}, "quartic": {"interaction": 4}},
        fit=fit,
        limits={"gradient": "from random weights the state decays to zero, and with it the gradient; one Hebbian pass fits"},
    )
)  # fmt: skip
