"""Arithmetic expression trees: the value of a random expression over digits, modulo a small number."""

import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.metrics import accuracy, majority_accuracy
from modelzoo.task import Spec, Split, Task, TaskData, register

MODULUS = 3
LEAVES = 4
NODES = 2 * LEAVES - 1
OPERATORS = ("+", "-", "*")  # tokens MODULUS, MODULUS + 1, MODULUS + 2; smaller tokens are the numbers themselves


def expression(generator: torch.Generator) -> list[tuple[int, int, int]]:
    """One random expression as nodes (token, left, right) in post-order, children -1 at leaves; the root is last."""
    nodes: list[tuple[int, int, int]] = []

    def number(bound: int) -> int:
        return int(torch.randint(bound, (), generator=generator))

    def grow(leaves: int) -> int:
        if leaves == 1:
            nodes.append((number(MODULUS), -1, -1))
        else:
            share = 1 + number(leaves - 1)
            left, right = grow(share), grow(leaves - share)
            nodes.append((MODULUS + number(len(OPERATORS)), left, right))
        return len(nodes) - 1

    grow(LEAVES)
    return nodes


def evaluate(token: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """The value modulo `MODULUS` of every node, `[sample, nodes]` each."""
    values = torch.zeros_like(token)
    for node in range(token.shape[1]):
        a, b = (values.gather(1, child[:, node, None].clamp_min(0)).squeeze(1) for child in (left, right))
        own = token[:, node]
        results = torch.stack([own, a + b, a - b, a * b])
        chosen = (own - MODULUS + 1).clamp_min(0)
        values[:, node] = results.gather(0, chosen.unsqueeze(0)).squeeze(0) % MODULUS
    return values


def load() -> TaskData:
    """3,072 training and 512 test expressions, all different, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    distinct: dict[tuple[tuple[int, int, int], ...], None] = {}
    while len(distinct) < 3584:
        distinct[tuple(expression(generator))] = None
    token, left, right = torch.tensor(list(distinct)).unbind(-1)  # [sample, nodes] each
    value = evaluate(token, left, right)[:, -1]
    inputs = (token, left, right)
    return TaskData(
        Split(tuple(x[:3072] for x in inputs), value[:3072]), Split(tuple(x[3072:] for x in inputs), value[3072:])
    )


TASK = register(
    Task(
        name="arithmetic_trees",
        summary="What is the value, modulo 3, of an expression with four numbers and +, -, ×?",
        source="generated: random expression trees, 3,584 different ones",
        inputs=Spec("tree", (NODES,), MODULUS + len(OPERATORS)),
        targets=Spec("classes", (), MODULUS),
        loss=F.cross_entropy,
        metric="accuracy",
        score=accuracy,
        higher_is_better=True,
        baseline="always the most frequent value",
        load=load,
        baseline_score=majority_accuracy,
    )
)
