"""Self-tuning: hyper-parameters descend on the validation loss through a hypernetwork that knows the best response."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from metanets.hyper.heads import Heads, HeadsConfig
from metanets.hyper.hypernetwork import Generated, Hypernetwork, HypernetworkModule, Report, register
from metanets.hyper.target import Parameters, Problem, Target
from modelzoo.family import Paper, Recipe

Losses = Callable[[Parameters], Tensor]  # [M] losses of M models


class SelfTuningConfig(HeadsConfig):
    """Sizes of a `SelfTuning`.

    Args:
        decays: one weight decay for all parameters, one per tensor, or one per weight.
        low, high: log λ of the range: the prior of the global algorithm and the limits of λ.
        algorithm: `global` learns the best response on the whole range first and then moves λ; `local` learns it around
            the present λ and moves λ at the same time.
        spread: standard deviation of log λ around the present one in the local algorithm.
        models: λ that are drawn in one step.
        rate: step size of log λ.
    """

    decays: Literal["one", "tensors", "weights"] = "one"
    low: float = -12.0
    high: float = 0.0
    algorithm: Literal["global", "local"] = "local"
    spread: float = Field(default=0.5, gt=0)
    models: int = Field(default=8, gt=0)
    rate: float = Field(default=0.03, gt=0)


class SelfTuning(HypernetworkModule):
    """w_φ(λ) ≈ argmin_w L_train(w) + ½ Σ_i λ_i w_i², and λ ← λ - β ∇_λ L_valid(w_φ(λ)).

    Hyper-parameters are handled as log λ; the hypernetwork reads them scaled to [-1, 1]. The gradient in λ is that
    through w_φ alone: the validation loss has no penalty.

    Shape:
        conditioning log λ `[M, H]`, H = 1, number of tensors or number of weights; outputs `{name: [M, *shape]}`.
    """

    sizes: Tensor

    def __init__(self, target: Target, config: SelfTuningConfig) -> None:
        super().__init__()
        self.target, self.config = target, config
        sizes = [value.numel() for value in target.initial().values()]
        self.count = {"one": 1, "tensors": len(sizes), "weights": target.size}[config.decays]
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.log_decay = nn.Parameter(torch.full((self.count,), (config.low + config.high) / 2))
        self.response = Heads(self.count, target, config)

    def forward(self, conditioning: Tensor) -> Parameters:
        middle, half = (self.config.low + self.config.high) / 2, (self.config.high - self.config.low) / 2
        return self.response((conditioning - middle) / half)

    def penalty(self, parameters: Parameters, log_decay: Tensor) -> Tensor:
        """½ Σ_i λ_i w_i² of every model, `[M]`."""
        decay = log_decay.exp()
        if self.config.decays == "tensors":
            decay = decay.repeat_interleave(self.sizes, -1)
        return (decay * self.target.join(parameters).square()).sum(-1) / 2

    def tune(
        self, training: Callable[[], Losses], validation: Losses, recipe: Recipe, generator: torch.Generator, report: Report | None = None
    ) -> None:  # fmt: skip
        """Learn the best response and move λ to the least validation loss.

        Args:
            training: `() -> losses` of a batch of training data, without penalty.
            validation: losses of the validation data.
            recipe: of the hypernetwork's steps; λ takes as many.
            generator: of the hyper-parameters.
            report: called with step and loss.
        """
        config = self.config
        weights = torch.optim.Adam(self.response.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(weights, recipe.steps)
        decays = torch.optim.Adam([self.log_decay], config.rate)
        for step in range(recipe.steps):
            draw = (config.models, self.count)
            if config.algorithm == "global":
                near = config.low + (config.high - config.low) * torch.rand(draw, generator=generator)
            else:
                near = self.log_decay.detach() + config.spread * torch.randn(draw, generator=generator)
            parameters = self(near)
            loss = (training()(parameters) + self.penalty(parameters, near)).mean()
            weights.zero_grad()
            loss.backward()
            weights.step()
            schedule.step()
            if config.algorithm == "local":
                self._move(validation, decays)
            if report:
                report(step + 1, float(loss.detach()))
        if config.algorithm == "global":
            for _ in range(recipe.steps):
                self._move(validation, decays)

    def _move(self, validation: Losses, decays: torch.optim.Optimizer) -> None:
        """One step of λ; the hypernetwork stays."""
        gradient = torch.autograd.grad(validation(self(self.log_decay[None])).sum(), self.log_decay)[0]
        self.log_decay.grad = gradient
        decays.step()
        with torch.no_grad():
            self.log_decay.clamp_(self.config.low, self.config.high)

    def fit(self, problem: Problem, recipe: Recipe, seed: int, report: Report | None = None) -> None:
        """Every fifth training sample is kept for validation."""
        generator = torch.Generator().manual_seed(seed)
        train = problem.task.data().train
        held = torch.arange(len(train.targets)) % 5 == 0
        seen, kept = torch.where(~held)[0], torch.where(held)[0]

        def losses(rows: Tensor) -> Losses:
            inputs, targets = tuple(x[rows] for x in train.inputs), train.targets[rows]
            return lambda parameters: problem.losses(self.target, parameters, inputs, targets)

        def training() -> Losses:
            return losses(seen[torch.randint(len(seen), (recipe.batch_size,), generator=generator)])

        self.tune(training, losses(kept), recipe, generator, report)

    @torch.no_grad()
    def samples(self, problem: Problem, count: int, generator: torch.Generator) -> Iterator[Generated]:
        """The best response at the λ that was found, then at others around it."""
        shifts = self.config.spread * torch.randn(count, self.count, generator=generator)
        shifts[0] = 0
        chosen = (self.log_decay + shifts).clamp(self.config.low, self.config.high)
        columns: dict[str, Any] = {"log_decay": chosen.mean(-1).numpy()}
        yield Generated(problem.config, self(chosen), columns)


HYPERNETWORK = register(
    Hypernetwork(
        name="self_tuning",
        module=SelfTuning,
        config=SelfTuningConfig,
        paper=Paper("Stochastic Hyperparameter Optimization through Hypernetworks", "Lorraine and Duvenaud", 2018, "S194"),
        conditioning="the logarithms of weight decays",
        summary="w_φ(λ) learns the best response to hyper-parameters, which descend through it.",
        recipe=Recipe(steps=800, batch_size=256, learning_rate=3e-3),
        tiny={"hidden": (16,)},
    )
)  # fmt: skip
