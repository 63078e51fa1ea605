"""One fused optimizer step of a whole population against torch's fused Adam, a model at a time.

python benchmarks/population_adam.py [--json] [--small]
"""

import sys

import torch
from harness import Case, close, random, run, small
from torch import Tensor

from modelzoo.kernels.population_adam import population_adam


def adam(models: int) -> Case:
    """One step of SIRENs 2-32-32-1; every side starts anew."""
    shapes = ((32, 2), (32,), (32, 32), (32,), (1, 32), (1,))
    start, gradients = ([random(models, *shape, seed=seed) for shape in shapes] for seed in (0, 1))
    rates, alive = torch.full((models,), 1e-3), torch.ones(models, dtype=torch.bool)

    def ours() -> list[Tensor]:
        own = [tensor.clone() for tensor in start]
        moments = [[torch.zeros_like(tensor) for tensor in start] for _ in range(2)]
        for step in range(1, 6):
            population_adam(own, gradients, *moments, alive, rates, torch.zeros(models), step)
        return own

    def theirs() -> list[Tensor]:
        own = [[tensor[model].clone().requires_grad_() for tensor in start] for model in range(models)]
        for model, parameters in enumerate(own):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient[model]
            optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
            for _ in range(5):
                optimizer.step()
        return [torch.stack([parameters[i].detach() for parameters in own]) for i in range(len(shapes))]

    return Case(f"population_adam, five steps of {models} SIRENs", ours, theirs, close(1e-5, 1e-6), baseline_name="fused Adam a model")  # fmt: skip


if __name__ == "__main__":
    sys.exit(run("population_adam", [adam(3 if small() else 64)]))
