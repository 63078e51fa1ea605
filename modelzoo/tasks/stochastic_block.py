"""Graphs of a contextual stochastic block model: communities seen through noisy features and random edges."""

import torch
from torch.nn import functional as F

from modelzoo.metrics import accuracy, majority_accuracy
from modelzoo.task import Spec, Split, Task, TaskData, register

COMMUNITIES, GRAPHS, NODES = 3, 4, 60
INSIDE, BETWEEN = 0.2, 0.02  # probability of an edge within and between communities
SIGNAL = 1.0  # distance of a community's mean feature from zero, in standard deviations of the noise


def graphs(seed: int) -> Split:
    """Four graphs of 60 nodes as one graph without edges between them; every node belongs to one of three communities."""
    generator = torch.Generator().manual_seed(seed)
    nodes = torch.arange(GRAPHS * NODES)
    community = torch.randint(COMMUNITIES, nodes.shape, generator=generator)
    noise = torch.randn(len(nodes), COMMUNITIES, generator=generator)
    features = SIGNAL * F.one_hot(community, COMMUNITIES) + noise
    first, second = torch.triu_indices(len(nodes), len(nodes), 1)
    chance = torch.where(community[first] == community[second], INSIDE, BETWEEN)
    chance = torch.where(first // NODES == second // NODES, chance, 0.0)
    edges = torch.stack([first, second])[:, torch.rand(chance.shape, generator=generator) < chance]
    return Split((features, torch.cat([edges, edges.flip(0)], 1)), community)


TASK = register(
    Task(
        name="stochastic_block",
        summary="To which of three communities does each node of a random graph belong?",
        source="generated: contextual stochastic block model (Deshpande et al., Contextual Stochastic Block Models, 2018)",
        inputs=Spec("graph", (GRAPHS * NODES, COMMUNITIES)),
        targets=Spec("classes", (), COMMUNITIES),
        loss=F.cross_entropy,
        metric="accuracy",
        score=accuracy,
        higher_is_better=True,
        baseline="always the largest community of the training graphs",
        load=lambda: TaskData(graphs(seed=0), graphs(seed=1)),
        baseline_score=majority_accuracy,
        sampling="full",
        notes={"without edges": "a perceptron on the features alone reaches 0.57 to 0.61"},
    )
)
