"""Which models are the same up to symmetry, which is trained on from which, and which have nothing to do with each other?

Pairs under random elements of the whole symmetry group, so that no weight need stay in its place. A metanet's embeddings learn
it by contrast (`metanets.embedding_contrast`): a model at its last but one checkpoint shall be nearest to itself and to what it
became, among the models of the batch.
"""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from metanets.alignment import aligned
from metanets.batching import Models
from metanets.embedding_contrast import info_nce, unit_embeddings
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

SCALE = 0.5  # of log-scales and of everything else in the group that is not compact
OTHERS = 5  # unrelated models a test model is paired with


def moved(block: PopulationBlock, values: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Edge values `[E, M]` under a random element of the group for every model; buffers are those of the rows."""
    tensors = {**{name: tensor[rows] for name, tensor in block.tensors.items()}, **block.structure.scatter(values.T)}
    found = block.group.sample(generator, SCALE, models=len(rows)).apply(tensors)
    return block.structure.values(found).T.to(values.dtype).contiguous()


def aucs(same: Tensor, child: Tensor, others: Tensor) -> Metrics:
    """Areas under the curve that tells pairs from unrelated ones by their scores."""
    found = {}
    for name, positive in (("same", same), ("child", child)):
        truth = np.r_[np.ones(len(positive)), np.zeros(len(others))]
        found[f"auc {name}"] = float(roc_auc_score(truth, torch.cat([positive, others]).numpy()))
    return found


def prepare(block: PopulationBlock, config: TrainingConfig) -> Experiment:
    """AUC on the test split: embeddings, distance of weights, and distance after weight matching."""
    if len(block.population.info.checkpoint_steps) < 3:
        raise UserError(f"population {block.population.name!r} keeps no checkpoint between first and last, so no model is trained on from another; populate with --checkpoint-every.")  # fmt: skip
    train, test = split_rows(block, "train"), split_rows(block, "test")
    parents, children = (checkpoint_values(block, k) for k in (-2, -1))
    network = build(config, Models(block.topology, children[:, train]))
    generator = torch.Generator().manual_seed(config.seed)
    own = parents[:, test]
    compared = [moved(block, values[:, test], test, generator) for values in (parents, children)]

    def embeddings(values: Tensor) -> Tensor:
        return unit_embeddings(network, Models(block.topology, values))

    def loss(rows: Tensor) -> Tensor:
        anchor = embeddings(parents[:, rows])
        kin = torch.rand(len(rows)) < 0.5
        positive = torch.where(kin, children[:, rows], parents[:, rows])
        chance = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        return info_nce(anchor, embeddings(moved(block, positive, rows, chance)))

    @torch.no_grad()
    def scored(similarity: Callable[[Tensor, Tensor], Tensor]) -> Metrics:
        shifts = range(1, 1 + min(OTHERS, len(test) - 1))  # cyclic: never the model itself
        others = torch.cat([similarity(own, compared[1].roll(shift, 1)) for shift in shifts])
        return aucs(similarity(own, compared[0]), similarity(own, compared[1]), others)

    def embedded(a: Tensor, b: Tensor) -> Tensor:
        return (embeddings(a) * embeddings(b)).sum(1)

    def near(a: Tensor, b: Tensor) -> Tensor:
        return -(a - b).norm(dim=0) / (a.norm(dim=0) * b.norm(dim=0)).sqrt()

    def baselines() -> dict[str, Metrics]:
        return {
            "distance of weights": scored(near),
            "distance after weight matching": scored(lambda a, b: near(a, aligned(block.topology, a, b))),
        }

    return Experiment(network, loss, items_of(block), lambda: scored(embedded), baselines)


TASK = register(
    WeightTask(
        name="lineage",
        prepare=prepare,
        summary="Tell the same model under a symmetry, and what it was trained into, from unrelated models.",
        metric="auc child",
        higher_is_better=True,
        paper=Paper("Representation Learning with Contrastive Predictive Coding", "van den Oord et al.", 2018),
        metanet="scalegmn",
    ),
    __name__,
)
