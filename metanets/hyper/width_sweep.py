"""Accuracy against width: networks sampled from a weight manifold, trained alone, and cut out of the full network."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from metanets.hyper.hypernetwork import descend
from metanets.hyper.neumeta import NeuMeta, NeuMetaConfig, Widths, reordered, resized
from metanets.hyper.target import Problem
from modelzoo.family import Recipe

DIRECT = Recipe(steps=300, batch_size=64, learning_rate=5e-3)


def trained(problem: Problem, recipe: Recipe = DIRECT, seed: int = 0) -> nn.Module:
    """A member of the problem's family, trained by itself."""
    module, generator = problem.family.build(problem.config, seed), torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        inputs, targets = problem.batch(generator, recipe.batch_size)
        return problem.task.loss(module(*inputs), targets)

    descend(module, loss, recipe)
    return module


def at_width(problem: Problem, widths: Widths) -> Problem:
    """The same problem for another architecture."""
    return Problem(problem.family, resized(problem.config, widths), problem.task)


def score(problem: Problem, parameters: Mapping[str, Tensor]) -> float:
    """Test score of the first units of one network `{name: [*shape]}` that is at least as wide as the problem's."""
    narrow = problem.target()
    cut = {name: parameters[name].detach()[tuple(map(slice, shape))][None] for name, shape in narrow.shapes.items()}
    return float(problem.scores(narrow, cut)[0])


def by_magnitude(module: nn.Module, problem: Problem) -> dict[str, Tensor]:
    """A network with its largest units first: structured magnitude pruning keeps the first ones."""
    return reordered(module, problem, lambda units: units.norm(dim=1).argsort(descending=True).numpy())


def generated(
    problem: Problem, widths: Sequence[Widths], config: NeuMetaConfig, recipe: Recipe, seed: int = 0
) -> list[float]:
    """Test score at every width of networks from one manifold, which never saw those widths but the full one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NeuMeta(problem.target(), config.model_copy(update={"held_out": tuple(w[0] for w in widths[:-1])}))
    model.fit(problem, recipe, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made = [(model.of_widths(each), model.averaged(model.of_widths(each), generator)) for each in widths]
        return [float(problem.scores(target, parameters)[0]) for target, parameters in made]


def width_sweep(
    problem: Problem, widths: Sequence[Widths], config: NeuMetaConfig, recipe: Recipe, seed: int = 0
) -> dict[str, list[float]]:
    """Test score against width, the full width last.

    Args:
        problem: at its full width.
        widths: of the architectures.
        config: of the manifold.
        recipe: of the manifold's training.
        seed: of everything.

    Returns:
        `generated` from one manifold; `trained` each alone; `sliced`, the first units of the trained full network;
        `pruned`, its units of largest norm.
    """
    full = trained(problem, seed=seed)
    own, largest = dict(full.named_parameters()), by_magnitude(full, problem)
    narrow = [at_width(problem, each) for each in widths]
    return {
        "generated": generated(problem, widths, config, recipe, seed),
        "trained": [score(each, dict(trained(each, seed=seed).named_parameters())) for each in narrow],
        "sliced": [score(each, own) for each in narrow],
        "pruned": [score(each, largest) for each in narrow],
    }
