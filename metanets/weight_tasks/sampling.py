"""New models: draws from a density of weights, made into working models by a network.

Models are brought into one order by weight matching. A law p is fitted to the training models: a kernel density of their principal
components. A model x is corrupted to x̃ = (1 − σ) x + σ z with z from p and σ uniform in (0, 1), and restored to x̂ = x̃ + Δ(x̃) by a
metanet with outputs of edges, or to x̂ = decode(encode(x̃)) by an autoencoder of weights. The loss is that of x̂ on the models'
task, and a share of (1 − σ)² times the mean of ((x̂ − x) / s)², s the spread of a weight: what was hardly corrupted has to come back.
A new model is x̂ for σ = 1. Hyper-Representations as Generative Models (Schürholt et al., 2022) draws from kernel densities of the
codes of an autoencoder of weights.
"""

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from metanets.alignment import aligned
from metanets.batching import Models
from metanets.networks.sane import SANE
from metanets.task_models import TaskModels, sampled
from metanets.training.config import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import Experiment, Metrics, WeightTask, build, items_of, register, split_rows
from metanets.weight_update import WeightUpdate
from modelzoo.errors import UserError
from modelzoo.family import Paper

NEW = 100  # models that are measured
COMPONENTS = 32
SHARE = 0.1  # of the squared error of weights in the loss
FACTOR = 0.1  # of an untrained update, relative to the weights


class KernelWeights:
    """A kernel density of the principal components of models, with Scott's bandwidth.

    Args:
        values: `[E, M]` in one order of neurons.
    """

    def __init__(self, values: Tensor) -> None:
        flat = values.T.double().numpy()
        principal = PCA(min(COMPONENTS, len(flat) - 1)).fit(flat)
        self.coordinates = torch.from_numpy(principal.transform(flat))
        self.basis = torch.from_numpy(principal.components_)
        self.bandwidth = len(flat) ** (-1 / (self.coordinates.shape[1] + 4)) * self.coordinates.std(0)
        self.mean, self.dtype = torch.from_numpy(principal.mean_), values.dtype

    def draw(self, count: int) -> Tensor:
        """`[E, count]`."""
        around = self.coordinates[torch.randint(len(self.coordinates), (count,))]
        found = (around + self.bandwidth * torch.randn_like(around)) @ self.basis + self.mean
        return found.T.to(self.dtype)


def prepare(block: PopulationBlock, config: TrainingConfig) -> Experiment:
    """Test metric of new models; how far they are from training models, and how often two of them disagree."""
    function, task = block.function, block.population.task
    if function is None or task.sampling != "minibatch":
        raise UserError(f"population {block.population.name!r} is not trained on samples of one real tensor, so new models cannot be tested.")  # fmt: skip
    if any(True for _ in function.template.buffers()):
        raise UserError(f"population {block.population.name!r} has buffers, which are not sampled; choose one without.")
    train, test = split_rows(block, "train"), split_rows(block, "test")
    reference = block.values[:, train[:1]].expand_as(block.values)
    values = aligned(block.topology, reference, block.values)
    mean, spread = values[:, train].mean(1, keepdim=True), values[:, train].std(1, keepdim=True)
    varies = spread[:, 0] > 1e-6 * mean.abs().max()
    training = Models(block.topology, values[:, train])
    built = build(config, training)
    density = KernelWeights(values[:, train])
    network = built if isinstance(built, SANE) else WeightUpdate(built, [training], FACTOR)

    def restored(corrupted: Tensor) -> Tensor:
        models = Models(block.topology, corrupted)
        if isinstance(network, SANE):
            return network.reconstruct(models).values
        return corrupted + network(models) * varies[:, None]

    def parameters(found: Tensor) -> dict[str, Tensor]:
        return {name: tensor.contiguous() for name, tensor in block.structure.scatter(found.T).items()}

    on_task = TaskModels(task, function.template)

    def loss(rows: Tensor) -> Tensor:
        own, sigma = values[:, rows], torch.rand(len(rows))
        found = restored((1 - sigma) * own + sigma * density.draw(len(rows)))
        sample = sampled(task.data().train)
        off = (((found - own) / spread.clamp_min(1e-12))[varies].square().mean(0) * (1 - sigma).square()).mean()
        return SHARE * off + on_task.losses(parameters(found), sample).mean()

    def nearest(found: Tensor, others: Tensor) -> Tensor:
        """Distance to the nearest other model in units of s, `[M]`."""
        a, b = (((x - mean) / spread.clamp_min(1e-12))[varies].T for x in (found, others))
        return torch.cdist(a, b).min(1).values

    between = float(nearest(values[:, test], values[:, train]).mean())

    @torch.no_grad()
    def scored(found: Tensor) -> Metrics:
        data = task.data().test
        given = on_task.outputs(parameters(found), data.inputs)
        scores = on_task.scores(given, data.targets)
        novelty = nearest(aligned(block.topology, reference[:, :1].expand_as(found), found), values[:, train])
        metrics = {f"{task.metric}": float(scores.mean()), "worst": float(scores.min() if task.higher_is_better else scores.max())}  # fmt: skip
        if task.targets.kind == "classes":
            answers = given.argmax(-1)
            metrics["disagreement"] = float((answers != answers.roll(1, 0)).float().mean())
        return {**metrics, "distance": float(novelty.mean()) / between}

    def normal(law: Tensor, count: int) -> Tensor:
        return law.mean(1, keepdim=True) + law.std(1, keepdim=True) * torch.randn(len(law), count)

    @torch.no_grad()
    def made(count: int) -> Tensor:
        return restored(density.draw(count))

    def baselines() -> dict[str, Metrics]:
        return {
            "trained models of the test split": scored(values[:, test]),
            "mean of the training models": scored(mean),
            "a normal law for every weight": scored(normal(values[:, train], NEW)),
            "the same without weight matching": scored(normal(block.values[:, train], NEW)),
            "kernel density of principal components": scored(density.draw(NEW)),
        }

    return Experiment(network, loss, items_of(block), lambda: scored(made(NEW)), baselines, lambda n: parameters(made(n)))  # fmt: skip


TASK = register(
    WeightTask(
        name="sampling",
        prepare=prepare,
        summary="Make new models out of draws from a density of weights by a network that restores corrupted ones.",
        metric="accuracy",
        higher_is_better=True,
        paper=Paper("Hyper-Representations as Generative Models: Sampling Unseen Neural Network Weights", "Schürholt et al.", 2022),
        metanet="unf",
        recipe={"epochs": 30, "batch_size": 32, "weight_decay": 0.0},
    ),
    __name__,
)  # fmt: skip
