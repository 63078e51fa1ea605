"""Which neuron of one model is which of another: an order of the second model's neurons, predicted by a network.

Equivariant Deep Weight Space Alignment (Navon et al., 2024). A metanet gives every neuron of every permutation factor of the
inferred group a vector, z_1 and z_2 for the two models; S = z_1 z_2ᵀ / √d is their similarity, Sinkhorn's iterations make it a soft
order P, and in the end the best order is a linear assignment. Training knows no order of trained models: it plants orders in
noisy copies, −Σ log P[i, π(i)], and lets the model half-way to the softly ordered other one lose little on its task.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanets.alignment import aligned, assigned, places, reordered
from metanets.batching import Models
from metanets.functional import WeightFunctional
from metanets.task_models import TaskModels, sampled
from metanets.training.config import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import Experiment, Metrics, WeightTask, build, items_of, register, split_rows
from modelzoo.errors import UserError
from modelzoo.family import Paper
from modelzoo.task import Split

WIDTH = 32  # of neurons' vectors
SINKHORN = 12
NOISE = 0.5  # of planted copies, relative to the spread of a tensor's weights
PAIRS = 4  # partners of every test model
Orders = dict[str, Tensor]  # by axis


def sinkhorn(scores: Tensor) -> Tensor:
    """The logarithm of a doubly stochastic matrix: rows and columns of exp(scores) are normalised in turn, `[M, n, n]`."""
    for _ in range(SINKHORN):
        scores = scores.log_softmax(1).log_softmax(2)
    return scores


class Matcher(nn.Module):
    """Similarities of the neurons of two models, by axis."""

    def __init__(self, metanet: WeightFunctional) -> None:
        super().__init__()
        self.metanet, self.head = metanet, metanet.neuron_head(WIDTH)

    def neurons(self, models: Models) -> Orders:
        """Vectors of neurons `{axis: [M, size, WIDTH]}`."""
        found = self.head(self.metanet.states(self.metanet.inputs(models)))
        return {axis: F.layer_norm(vectors, (WIDTH,)) for axis, vectors in found.items()}

    def forward(self, first: Models, second: Models) -> Orders:
        """S, `{axis: [M, size, size]}`."""
        left, right = self.neurons(first), self.neurons(second)
        return {axis: left[axis] @ right[axis].mT / WIDTH**0.5 for axis in left}


def prepare(block: PopulationBlock, config: TrainingConfig) -> Experiment:
    """Barriers between test models, and planted orders found again: as they are, weight matching, and a network."""
    topology, function, task = block.topology, block.function, block.population.task
    layout = places(topology).layout
    if layout.nested:
        raise UserError(f"population {block.population.name!r} has neurons inside blocks (heads), whose order a network cannot predict yet; use weight matching.")  # fmt: skip
    if function is None or task.sampling != "minibatch":
        raise UserError(f"population {block.population.name!r} is not trained on samples of one real tensor, so there is no barrier to measure.")  # fmt: skip
    train, test = split_rows(block, "train"), split_rows(block, "test")
    network = build(config, block.models(train))
    if not isinstance(network, WeightFunctional):
        raise UserError(f"metanet {config.metanet!r} keeps no states of neurons by factor; take unf, nfn or dwsnet.", 2)
    matcher = Matcher(network)
    spread = block.values[:, train].std(1, keepdim=True)

    def models(values: Tensor) -> Models:
        return Models(topology, values)

    moved_by_some = torch.cat(
        [i.flatten() for p, i in zip(layout.pieces, places(topology).index, strict=True) if p.axes]
    )

    def planted(rows: Tensor) -> tuple[Tensor, Tensor, Orders]:
        """Noisy copies of models; the same in random orders; and which place of them every neuron went to, `{axis: [M, size]}`."""
        own = block.values[:, rows]
        copies = own + NOISE * spread * torch.randn(own.shape)
        orders = {axis: torch.rand(len(rows), size).argsort(1) for axis, size in layout.sizes.items()}
        matrices = {axis: F.one_hot(order, order.shape[1]).to(own.dtype) for axis, order in orders.items()}
        return copies, reordered(topology, matrices, copies), {axis: order.argsort(1) for axis, order in orders.items()}

    on_task = TaskModels(task, function.template)

    def losses(values: Tensor, rows: Tensor, split: Split) -> Tensor:
        """The task's, `[M]`; buffers are those of the rows."""
        own = {name: tensor[rows] for name, tensor in block.tensors.items()}
        return on_task.losses({**own, **block.structure.scatter(values.T)}, split)

    def loss(rows: Tensor) -> Tensor:
        own, (_, copies, orders) = block.values[:, rows], planted(rows)
        found = matcher(models(own), models(copies))
        size = sum(layout.sizes.values())
        wrong = sum(F.nll_loss(sinkhorn(found[axis]).flatten(0, 1), order.flatten(), reduction="sum") for axis, order in orders.items())  # fmt: skip
        other = block.values[:, rows.roll(1)]
        soft = {axis: sinkhorn(scores).exp() for axis, scores in matcher(models(own), models(other)).items()}
        share = torch.rand(len(rows))
        between = share * own + (1 - share) * reordered(topology, soft, other)
        return wrong / (size * len(rows)) + losses(between, rows, sampled(task.data().train)).mean()

    def matched(first: Tensor, second: Tensor) -> Tensor:
        """The second models in the predicted orders."""
        orders = {axis: assigned(scores) for axis, scores in matcher(models(first), models(second)).items()}
        return reordered(topology, orders, second)

    @torch.no_grad()
    def scored(match: Callable[[Tensor, Tensor], Tensor]) -> Metrics:
        torch.manual_seed(config.seed)  # the same copies for everybody
        own, (copies, mixed, _) = block.values[:, test], planted(test)
        back = (match(own, mixed) == copies)[moved_by_some].float().mean()
        data = task.data().test
        first, second = own.repeat(1, PAIRS), torch.cat([own.roll(k, 1) for k in range(1, PAIRS + 1)], 1)
        rows, others = test.repeat(PAIRS), torch.cat([test.roll(k) for k in range(1, PAIRS + 1)])
        started = time.process_time()
        ordered = match(first, second)
        milliseconds = 1e3 * (time.process_time() - started) / first.shape[1]
        ends = [losses(values, own_rows, data) for values, own_rows in ((first, rows), (second, others))]  # fmt: skip

        def barrier(end: Tensor) -> float:
            return float((losses((first + end) / 2, rows, data) - (ends[0] + ends[1]) / 2).mean())

        further = barrier(aligned(topology, first, ordered))
        return {"barrier": barrier(ordered), "then weight matching": further, "planted weights back": float(back), "CPU ms a pair": milliseconds}  # fmt: skip

    def baselines() -> dict[str, Metrics]:
        return {"as they are": scored(lambda a, b: b), "weight matching": scored(lambda a, b: aligned(topology, a, b))}

    return Experiment(matcher, loss, items_of(block), lambda: scored(matched), baselines)


TASK = register(
    WeightTask(
        name="alignment",
        prepare=prepare,
        summary="Predict which neuron of one model is which of another, so that the model between them loses little.",
        metric="barrier",
        higher_is_better=False,
        paper=Paper("Equivariant Deep Weight Space Alignment", "Navon et al.", 2024),
        metanet="unf",
        recipe={"epochs": 30, "batch_size": 32, "weight_decay": 0.0},
    ),
    __name__,
)
