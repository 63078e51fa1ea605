"""An optimizer that is learned: its update is an equivariant network of weights, gradients and momenta.

Universal Neural Functionals (Zhou, Finn and Harrison, 2024). At step t every weight has the channels θ, g/√v, m_β/√v for three β
and t/T (v as in Adam); layers that commute with the inferred group make two numbers y of every weight from all of them, and

    θ ← θ − α (exp(2 tanh(c y_1)) ⊙ m_.9/√v + 2 tanh(c y_2)),

so that an untrained network is nearly Adam, and no step is unbounded. It is trained on the mean of log L_t over whole trainings from the initial weights of the
population's training models, with gradients through a few steps at a time and not through the slopes (first order).
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from metanets.batching import Models
from metanets.functional import EdgeHead, WeightFunctional
from metanets.layout import rows_of
from metanets.metanet import metanet
from metanets.task_models import TaskModels, sampled
from metanets.training.config import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import (
    Experiment,
    Metrics,
    WeightTask,
    build,
    checkpoint_values,
    items_of,
    register,
    split_rows,
)
from modelzoo.errors import UserError
from modelzoo.family import Paper
from modelzoo.task import Split

STEPS = 40  # of a training
TRUNCATION = 10  # steps that a gradient goes back
SAMPLES = 64  # a step
MOMENTA = (0.5, 0.9, 0.99)
CHANNELS = 3 + len(MOMENTA)
SQUARES = 0.99  # decay of v; shorter than Adam's default, for trainings are short
SMALL = 0.1  # c
LEAST = 1e-3  # loss that counts
SHOWN = 360  # training samples on which losses are compared
RATES = (0.003, 0.01, 0.03, 0.1)  # of Adam, the best one on the validation split counts
FIRST_RATE = 0.01  # α before training


class LearnedOptimizer(nn.Module):
    """The update of all weights of models of one architecture.

    Args:
        functional: equivariant layers of CHANNELS numbers a weight.
    """

    def __init__(self, functional: WeightFunctional) -> None:
        super().__init__()
        layout = functional.config.layout
        self.functional = functional
        self.head = EdgeHead(layout, functional.features * CHANNELS, functional.config.width, 2)
        self.log_rate = nn.Parameter(torch.tensor(FIRST_RATE).log())

    def forward(self, channels: Tensor) -> Tensor:
        """Channels `[E, M, CHANNELS]`, the third last of them m_.9/√v, to what is taken off the weights `[E, M]`."""
        indices = [getattr(self.functional, f"index_{k}") for k in range(len(self.functional.config.layout.pieces))]
        flat = channels.flatten(1)
        x = {}
        for k, index in enumerate(indices):
            rows = rows_of(flat, index)  # [M · CHANNELS, *shape, rows]
            lifted = self.functional.lift(rows.unflatten(0, (-1, CHANNELS)).movedim(1, -1))
            x[str(k)] = lifted.flatten(rows.ndim) if lifted.ndim > rows.ndim + 1 else lifted
        found = self.head(x, self.functional.states(x))
        y = channels.new_zeros(*channels.shape[:2], 2)
        for k, index in enumerate(indices):
            y = y.index_copy(0, index.flatten(), found[str(k)].movedim((0, -2), (-2, 0)).flatten(0, -3))
        gain, shift = (2 * (SMALL * y).tanh()).unbind(-1)
        return self.log_rate.exp() * (gain.exp() * channels[..., 3] + shift)


def other_task(split: Split) -> Split:
    """The same images as another task of the same shape: negatives, pixels in another order, classes renamed."""
    chance = torch.Generator().manual_seed(0)
    x, y = split.inputs[0], split.targets
    pixels = torch.randperm(x[0].numel(), generator=chance)
    names = torch.randperm(int(y.max()) + 1, generator=chance)
    return Split(((1 - x).flatten(1)[:, pixels].view(x.shape),), names[y])


def prepare(block: PopulationBlock, config: TrainingConfig) -> Experiment:
    """Steps that trainings from unseen initial weights need to reach the last loss of Adam with a tuned step size."""
    function, task = block.function, block.population.task
    if block.population.info.checkpoint_steps[0] != 0 or function is None or task.targets.kind != "classes":
        raise UserError(f"population {block.population.name!r} keeps no initial weights of classifiers of real tensors, so nothing can be trained again.")  # fmt: skip
    if not (isinstance(found := metanet(config.metanet).module, type) and issubclass(found, WeightFunctional)):
        raise UserError(f"metanet {config.metanet!r} does not read several numbers a weight; take unf, nfn or dwsnet.", 2)  # fmt: skip
    initial = checkpoint_values(block, 0)
    train, validation, test = (split_rows(block, split) for split in ("train", "validation", "test"))
    fields = {**config.fields, "channels": CHANNELS}
    functional = build(config.model_copy(update={"fields": fields}), Models(block.topology, initial[:, train]))
    assert isinstance(functional, WeightFunctional)
    optimizer = LearnedOptimizer(functional)
    size = initial[:, train].square().mean(1, keepdim=True).sqrt().clamp_min(1e-3)
    own_task = task.data().train
    worlds = {"": own_task, ", other task": other_task(own_task)}
    shown = {name: Split((w.inputs[0][:SHOWN],), w.targets[:SHOWN]) for name, w in worlds.items()}
    on_task = TaskModels(task, function.template)
    held = {name: tensor[:1] for name, tensor in block.tensors.items()}  # buffers, the same for all at first

    def losses(values: Tensor, split: Split) -> Tensor:
        """`[M]`."""
        models = values.shape[1]
        tensors = {name: tensor.expand(models, *tensor.shape[1:]) for name, tensor in held.items()}
        tensors.update(block.structure.scatter(values.T))
        return on_task.losses(tensors, split)

    def unrolled(values: Tensor, world: Split, generator: torch.Generator, seen: Callable[[Tensor], None]) -> Tensor:
        """Mean of log L_t over a training with the learned optimizer; what is seen after every step is detached."""
        momenta, square, total = [torch.zeros_like(values) for _ in MOMENTA], torch.zeros_like(values), []
        for t in range(STEPS):
            if t % TRUNCATION == 0:
                values = values.detach()
            with torch.enable_grad():
                point = values if values.requires_grad else values.detach().requires_grad_()
                found = losses(point, sampled(world, SAMPLES, generator))
                slope = torch.autograd.grad(found.sum(), point, retain_graph=True)[0].detach()
            momenta = [beta * m + (1 - beta) * slope for beta, m in zip(MOMENTA, momenta, strict=True)]
            square = SQUARES * square + (1 - SQUARES) * slope.square()
            root = (square / (1 - SQUARES ** (t + 1))).sqrt() + 1e-8
            means = [m / (1 - beta ** (t + 1)) / root for beta, m in zip(MOMENTA, momenta, strict=True)]
            time = torch.full_like(slope, t / STEPS)
            values = point - optimizer(torch.stack([point / size, slope / root, *means, time], -1))
            if t:
                total.append(found.clamp_min(LEAST).log().mean())
            seen(values.detach())
        return torch.stack(total).mean()

    def loss(rows: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        return unrolled(initial[:, rows], own_task, generator, lambda values: None)

    def descended(rows: Tensor, name: str, rate: float, decay: bool) -> Tensor:
        """The loss on some training samples after every step of Adam, mean over models, `[STEPS]`."""
        generator, curve = torch.Generator().manual_seed(config.seed), []
        values = initial[:, rows].clone().requires_grad_()
        adam = torch.optim.Adam([values], rate, betas=(0.9, SQUARES))  # element by element: every model by itself
        for t in range(STEPS):
            adam.param_groups[0]["lr"] = rate * (1 - t / STEPS if decay else 1)
            adam.zero_grad()
            losses(values, sampled(worlds[name], SAMPLES, generator)).sum().backward()
            adam.step()
            with torch.no_grad():
                curve.append(losses(values, shown[name]).mean())
        return torch.stack(curve)

    @cache
    def tuned(name: str, decay: bool) -> Tensor:
        """Adam's curve on the test split, at the rate with the least last loss on the validation split."""
        rate = min(RATES, key=lambda r: float(descended(validation, name, r, decay)[-1].nan_to_num(torch.inf)))
        return descended(test, name, rate, decay)

    def scored(curves: dict[str, Tensor]) -> Metrics:
        found = {}
        for name, curve in curves.items():
            there = (curve <= tuned(name, False)[-1]).nonzero()
            found[f"steps{name}"] = float(there[0, 0]) + 1 if len(there) else torch.nan
            found[f"last loss{name}"] = float(curve[-1])
        return found

    @torch.no_grad()
    def learned(name: str) -> Tensor:
        """The learned optimizer's curve on the test split."""
        curve: list[Tensor] = []
        generator = torch.Generator().manual_seed(config.seed)  # the samples that Adam sees
        unrolled(initial[:, test], worlds[name], generator, lambda v: curve.append(losses(v, shown[name]).mean()))
        return torch.stack(curve)

    def measure() -> Metrics:
        return scored({name: learned(name) for name in worlds})

    def baselines() -> dict[str, Metrics]:
        return {
            f"Adam, {kind}": scored({name: tuned(name, decay) for name in worlds})
            for kind, decay in (("tuned rate", False), ("tuned rate, linear decay", True))
        }

    return Experiment(optimizer, loss, items_of(block), measure, baselines)


TASK = register(
    WeightTask(
        name="learned_optimizer",
        prepare=prepare,
        summary="Train models of an architecture from unseen initial weights with a learned update, in fewer steps than Adam.",
        metric="steps",
        higher_is_better=False,
        paper=Paper("Universal Neural Functionals", "Zhou et al.", 2024, "S032"),
        metanet="unf",
        recipe={"epochs": 6, "batch_size": 16, "learning_rate": 3e-3, "weight_decay": 0.0},
    ),
    __name__,
)
