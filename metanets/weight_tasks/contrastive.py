"""Two views of a model shall have near embeddings, those of different models far ones.

A view is the model with noise on its weights and some of them left out, under a random element of its whole symmetry group:
what is learned besides invariance is to tell what matters of a model from what does not. A Simple Framework for Contrastive
Learning of Visual Representations (Chen et al., 2020), with the orbit in place of crops; a pretraining, which
`metazoo train --start-from` takes over.
"""

import torch
from torch import Tensor

from metanets.batching import Models
from metanets.embedding_contrast import info_nce, unit_embeddings
from metanets.statistics import weight_statistics
from metanets.training.config import TrainingConfig
from metanets.training.data import PopulationBlock
from metanets.weight_task import Experiment, Metrics, WeightTask, build, items_of, register, split_rows
from modelzoo.family import Paper

VIEW = {"noise": 0.2, "dropout": 0.2, "orbit": 0.5}  # augmentations with their strengths, see `metazoo augmentations`


def view(block: PopulationBlock, rows: Tensor, generator: torch.Generator) -> Models:
    """Models changed at random, each in its own way."""
    return block.augmented(rows, torch.zeros(len(rows)), 0, VIEW, generator)[0]


def retrieval(a: Tensor, b: Tensor) -> Metrics:
    """How often the nearest of the second views is that of the same model, and the mean of 1 / its rank.

    Args:
        a, b: `[M, width]`, where near is meant by distance.
    """
    distance = torch.cdist(a, b)
    rank = (distance < distance.diagonal()[:, None]).sum(1) + 1
    ties = (distance == distance.diagonal()[:, None]).sum(1)  # features that are all equal find nothing
    return {"retrieval": float(((rank == 1) & (ties == 1)).double().mean()), "reciprocal rank": float((1 / (rank + (ties - 1) / 2)).mean())}  # fmt: skip


def prepare(block: PopulationBlock, config: TrainingConfig) -> Experiment:
    """Retrieval among the models of the test split: by embeddings, by weights, and by statistics of every tensor."""
    train, test = split_rows(block, "train"), split_rows(block, "test")
    network = build(config, block.models(train))
    chance = torch.Generator().manual_seed(config.seed)
    views = [view(block, test, chance) for _ in range(2)]

    def loss(rows: Tensor) -> Tensor:
        drawn = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        a, b = (unit_embeddings(network, view(block, rows, drawn)) for _ in range(2))
        return (info_nce(a, b) + info_nce(b, a)) / 2

    def statistics(models: Models) -> Tensor:
        return torch.tensor(weight_statistics(block.structure.scatter(models.values.T)).to_numpy())

    @torch.no_grad()
    def measure() -> Metrics:
        return retrieval(*(unit_embeddings(network, models) for models in views))

    def baselines() -> dict[str, Metrics]:
        known = statistics(block.models(train))
        mean, spread = known.mean(0), known.std(0).clamp_min(1e-12)
        return {
            "distance of weights": retrieval(*(models.values.T for models in views)),
            "distance of statistics": retrieval(*((statistics(models) - mean) / spread for models in views)),
        }

    return Experiment(network, loss, items_of(block), measure, baselines)


TASK = register(
    WeightTask(
        name="contrastive",
        prepare=prepare,
        summary="Find a model again after noise, lost weights and a random element of its symmetry group.",
        metric="retrieval",
        higher_is_better=True,
        paper=Paper("A Simple Framework for Contrastive Learning of Visual Representations", "Chen et al.", 2020),
        recipe={"learning_rate": 2e-3},
    ),
    __name__,
)
