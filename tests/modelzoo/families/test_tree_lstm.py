"""The tree LSTM against a recursive evaluation, and what it may and may not depend on."""

import torch
from torch import Tensor

from modelzoo.families.recursive.tree_lstm import TreeLSTM, TreeLSTMConfig

State = tuple[Tensor, Tensor]


def build(seed: int = 0) -> TreeLSTM:
    torch.manual_seed(seed)
    return TreeLSTM(TreeLSTMConfig(vocabulary=6, embedding=3, hidden=5, out_features=2)).double()


def one(*lists: list[int]) -> tuple[Tensor, ...]:
    return tuple(torch.tensor([values]) for values in lists)


# (0 + (1 * 2)) in two post-orders: nodes 0, 1, 2, *, + and nodes 1, 2, *, 0, +
FIRST = one([0, 1, 2, 5, 3], [-1, -1, -1, 1, 0], [-1, -1, -1, 2, 3])
SECOND = one([1, 2, 5, 0, 3], [-1, -1, 0, -1, 3], [-1, -1, 1, -1, 2])


def recursive(module: TreeLSTM, inputs: tuple[Tensor, ...], node: int) -> State:
    """Tai et al.'s equations for one node, called from the root downwards."""
    token, left, right = (int(x[0, node]) for x in inputs)
    zero = torch.zeros(5, dtype=torch.double)
    h_l, c_l = recursive(module, inputs, left) if left >= 0 else (zero, zero)
    h_r, c_r = recursive(module, inputs, right) if right >= 0 else (zero, zero)
    a = module.token(module.embedding.weight[token]).split(5)
    u = (module.left.weight @ h_l + module.right.weight @ h_r).split(5)
    i, o, content = torch.sigmoid(a[0] + u[0]), torch.sigmoid(a[1] + u[1]), torch.tanh(a[2] + u[2])
    c = i * content + torch.sigmoid(a[3] + u[3]) * c_l + torch.sigmoid(a[3] + u[4]) * c_r
    return o * torch.tanh(c), c


def test_equals_the_recursion() -> None:
    module = build()
    for inputs in (FIRST, SECOND):
        expected = module.head(recursive(module, inputs, 4)[0])
        torch.testing.assert_close(module(*inputs)[0], expected, rtol=1e-12, atol=1e-14)


def test_depends_on_the_tree_and_not_on_the_order_of_its_nodes() -> None:
    module = build()
    torch.testing.assert_close(module(*FIRST), module(*SECOND), rtol=1e-12, atol=1e-14)


def test_children_are_ordered() -> None:
    module = build()
    token, left, right = FIRST
    assert (module(token, left, right) - module(token, right, left)).abs().max() > 1e-3


def test_trees_of_a_batch_do_not_mix() -> None:
    module = build()
    together = module(*(torch.cat(pair) for pair in zip(FIRST, one([0] * 5, [-1] * 5, [-1] * 5), strict=True)))
    torch.testing.assert_close(together[:1], module(*FIRST), rtol=1e-12, atol=1e-14)
