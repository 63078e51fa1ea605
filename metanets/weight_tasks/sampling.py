"""New models: random weights, made into working models by a network that has learned to restore corrupted ones.

Models are brought into one order by weight matching; μ and s are mean and spread of every weight over the training models. A
model x is corrupted to x̃ = μ + (1 − σ)(x − μ) + σ s ε with σ uniform in (0, 1), and restored to x̂ = x̃ + Δ(x̃) by a metanet with
outputs of edges, or to x̂ = decode(encode(x̃)) by an autoencoder of weights. The loss is that of x̂ on the models' task, and
(1 − σ)² times the mean of ((x̂ − x) / s)²: what was hardly corrupted has to come back. A new model is x̂ for σ = 1, where
nothing is left of any model. Hyper-Representations as Generative Models (Schürholt et al., 2022) samples from an autoencoder of
weights, and compares with distributions of single weights.
"""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity
from torch import Tensor
from torch.func import functional_call, vmap

from metanets.alignment import aligned
from metanets.batching import Models
from metanets.networks.sane import SANE
from metanets.training.config import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import Experiment, Metrics, WeightTask, build, items_of, register, split_rows
from metanets.weight_update import WeightUpdate
from modelzoo.errors import UserError
from modelzoo.family import Paper
from modelzoo.task import Split

SAMPLES = 128  # of the task a step
NEW = 100  # models that are measured
COMPONENTS = 32
FACTOR = 0.1  # of an untrained update, relative to the weights


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
    network = built if isinstance(built, SANE) else WeightUpdate(built, [training], FACTOR)

    def restored(corrupted: Tensor) -> Tensor:
        models = Models(block.topology, corrupted)
        if isinstance(network, SANE):
            return network.reconstruct(models).values
        return corrupted + network(models) * varies[:, None]

    def parameters(found: Tensor) -> dict[str, Tensor]:
        return {name: tensor.contiguous() for name, tensor in block.structure.scatter(found.T).items()}

    def outputs(found: Tensor, split: Split) -> Tensor:
        """`[M, S, classes]`."""
        return vmap(lambda own: functional_call(function.template, own, split.inputs))(parameters(found))

    def loss(rows: Tensor) -> Tensor:
        own, sigma = values[:, rows], torch.rand(len(rows))
        found = restored(mean + (1 - sigma) * (own - mean) + sigma * spread * torch.randn(own.shape))
        data = task.data().train
        chosen = torch.randint(len(data.targets), (SAMPLES,))
        sample = Split(tuple(x[chosen] for x in data.inputs), data.targets[chosen])
        off = (((found - own) / spread.clamp_min(1e-12))[varies].square().mean(0) * (1 - sigma).square()).mean()
        return off + vmap(task.loss, in_dims=(0, None))(outputs(found, sample), sample.targets).mean()

    def nearest(found: Tensor, others: Tensor) -> Tensor:
        """Distance to the nearest other model in units of s, `[M]`."""
        a, b = (((x - mean) / spread.clamp_min(1e-12))[varies].T for x in (found, others))
        return torch.cdist(a, b).min(1).values

    between = float(nearest(values[:, test], values[:, train]).mean())

    @torch.no_grad()
    def scored(found: Tensor) -> Metrics:
        data = task.data().test
        given = outputs(found, data)
        scores = vmap(task.score, in_dims=(0, None))(given, data.targets)
        novelty = nearest(aligned(block.topology, reference[:, :1].expand_as(found), found), values[:, train])
        metrics = {f"{task.metric}": float(scores.mean()), "worst": float(scores.min() if task.higher_is_better else scores.max())}  # fmt: skip
        if task.targets.kind == "classes":
            answers = given.argmax(-1)
            metrics["disagreement"] = float((answers != answers.roll(1, 0)).float().mean())
        return {**metrics, "distance": float(novelty.mean()) / between}

    def drawn(count: int) -> Tensor:
        return mean + spread * torch.randn(len(values), count)

    @torch.no_grad()
    def made(count: int) -> Tensor:
        return restored(drawn(count))

    def baselines() -> dict[str, Metrics]:
        stored = block.values[:, train]
        flat = values[:, train].T.double().numpy()
        principal = PCA(min(COMPONENTS, len(flat) - 1)).fit(flat)
        kernels = KernelDensity(bandwidth="scott").fit(principal.transform(flat))
        estimated = principal.inverse_transform(kernels.sample(NEW, random_state=np.random.RandomState(config.seed)))
        return {
            "trained models of the test split": scored(values[:, test]),
            "mean of the training models": scored(mean),
            "a normal law for every weight": scored(drawn(NEW)),
            "the same without weight matching": scored(stored.mean(1, keepdim=True) + stored.std(1, keepdim=True) * torch.randn(len(stored), NEW)),
            f"kernel density of {principal.n_components_} principal components": scored(torch.from_numpy(estimated.T).to(values)),
        }  # fmt: skip

    return Experiment(network, loss, items_of(block), lambda: scored(made(NEW)), baselines, lambda n: parameters(made(n)))  # fmt: skip


TASK = register(
    WeightTask(
        name="sampling",
        prepare=prepare,
        summary="Make new models out of random weights by a network that restores corrupted ones.",
        metric="accuracy",
        higher_is_better=True,
        paper=Paper("Hyper-Representations as Generative Models: Sampling Unseen Neural Network Weights", "Schürholt et al.", 2022),
        metanet="unf",
        recipe={"epochs": 30, "batch_size": 32, "weight_decay": 0.0},
    ),
    __name__,
)  # fmt: skip
