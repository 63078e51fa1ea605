"""Zachary's karate club: which side did each member take, told from the two leaders alone."""

import networkx
import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.metrics import accuracy, majority_accuracy
from modelzoo.task import Spec, Split, Task, TaskData, register

MEMBERS = 34
LEADERS = (0, 33)  # the instructor and the club's president


def both_directions(pairs: list[tuple[int, int]]) -> Tensor:
    """Edges `[2, 2 · pairs]`, each pair in both directions."""
    edges = torch.tensor(pairs).T
    return torch.cat([edges, edges.flip(0)], 1)


def load() -> TaskData:
    """The graph with one indicator feature a member; the leaders are known, the other 32 members are tested."""
    graph = networkx.karate_club_graph()
    inputs = (torch.eye(MEMBERS), both_directions(list(graph.edges)))
    targets = torch.tensor([int(graph.nodes[member]["club"] == "Officer") for member in graph])
    known = torch.zeros(MEMBERS, dtype=torch.bool)
    known[list(LEADERS)] = True
    return TaskData(Split(inputs, targets, known), Split(inputs, targets, ~known))


TASK = register(
    Task(
        name="karate",
        summary="On which side is each member of a karate club that split, given its two leaders?",
        source="networkx karate_club_graph (Zachary, An information flow model for conflict and fission in small groups, 1977)",
        inputs=Spec("graph", (MEMBERS, MEMBERS)),
        targets=Spec("classes", (), 2),
        loss=F.cross_entropy,
        metric="accuracy",
        score=accuracy,
        higher_is_better=True,
        baseline="always the first leader's side",
        load=load,
        baseline_score=majority_accuracy,
        sampling="full",
    )
)
