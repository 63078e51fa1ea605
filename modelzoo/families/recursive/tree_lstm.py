"""The binary tree LSTM."""

from math import prod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from modelzoo.family import Family, FamilyConfig, Paper, Recipe, register
from modelzoo.task import Task


class TreeLSTMConfig(FamilyConfig):
    """Sizes of a `TreeLSTM`."""

    vocabulary: int = Field(6, gt=0)
    embedding: int = Field(16, gt=0)
    hidden: int = Field(32, gt=0)
    out_features: int = Field(3, gt=0)


class TreeLSTM(nn.Module):
    """Binary tree LSTM: an LSTM cell with one forget gate per child, applied from the leaves to the root.

    With x the node's embedded token, l and r its children (zero states where there is none) and
    (a_i, a_o, a_u, a_f) = W x + b, (u_i, u_o, u_u, u_l, u_r) = U_l h_l + U_r h_r:
    c = σ(a_i + u_i) tanh(a_u + u_u) + σ(a_f + u_l) c_l + σ(a_f + u_r) c_r, h = σ(a_o + u_o) tanh(c); y = V h_root + d.

    Shape:
        inputs token, left, right `[B, nodes]` in post-order (children before parents, -1 for no child, the root last);
        outputs `[B, out_features]`.
    """

    def __init__(self, config: TreeLSTMConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.embedding)
        self.token = nn.Linear(config.embedding, 4 * config.hidden)
        self.left = nn.Linear(config.hidden, 5 * config.hidden, bias=False)
        self.right = nn.Linear(config.hidden, 5 * config.hidden, bias=False)
        self.head = nn.Linear(config.hidden, config.out_features)

    def forward(self, token: Tensor, left: Tensor, right: Tensor) -> Tensor:
        drives = self.token(self.embedding(token))  # [B, nodes, 4h]
        nothing = torch.zeros_like(drives[:, 0, : self.head.in_features])
        states, cells = [nothing], [nothing]  # place 0 is the missing child
        for node, drive in enumerate(drives.unbind(1)):
            children = (left[:, node], right[:, node])
            (h_left, c_left), (h_right, c_right) = ((pick(states, c), pick(cells, c)) for c in children)
            d_write, d_read, d_content, d_keep = drive.chunk(4, -1)
            write, read, content, keep_left, keep_right = (self.left(h_left) + self.right(h_right)).chunk(5, -1)
            cell = (d_write + write).sigmoid() * (d_content + content).tanh()
            cell = cell + (d_keep + keep_left).sigmoid() * c_left + (d_keep + keep_right).sigmoid() * c_right
            states.append((d_read + read).sigmoid() * cell.tanh())
            cells.append(cell)
        return self.head(states[-1])


def pick(values: list[Tensor], child: Tensor) -> Tensor:
    """For every sample the value at its own child: values of nodes -1, 0, 1, … `[B, h]`, child `[B]`, to `[B, h]`.

    A child that does not come before its parent counts as missing, so no input can read past the end.
    """
    stacked = torch.stack(values, 1)
    place = torch.where(child + 1 < len(values), child + 1, 0)
    index = place[:, None, None].expand(-1, 1, stacked.shape[-1])
    return stacked.gather(1, index).squeeze(1)


def adapt(task: Task) -> dict[str, Any]:
    """Vocabulary and classes or width of the output from the task's shapes."""
    return {"vocabulary": task.inputs.classes, "out_features": task.targets.classes or prod(task.targets.shape)}


FAMILY = register(
    Family(
        name="tree_lstm",
        module=TreeLSTM,
        config=TreeLSTMConfig,
        task="arithmetic_trees",
        accepts=frozenset({"tree"}),
        predicts=frozenset({"classes", "vector"}),
        adapt=adapt,
        paper=Paper(
            "Improved Semantic Representations From Tree-Structured Long Short-Term Memory Networks", "Tai et al.", 2015
        ),
        equation="c = σ(i) tanh(u) + σ(f_l) c_l + σ(f_r) c_r, h = σ(o) tanh(c), gates affine in (x, h_l, h_r)",
        symmetry="signed permutations of the hidden units (all gates move together); affine maps between the embedding "
        "and the token weights",
        recipe=Recipe(steps=800, learning_rate=1e-2, gradient_clip=1.0),
        tiny={"embedding": 6, "hidden": 16},
        tiny_recipe=Recipe(steps=200, learning_rate=2e-2, gradient_clip=1.0),
        margin=0.3,
        variants={"wide": {"hidden": 64}},
    )
)
