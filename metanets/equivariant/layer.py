"""A linear layer between tensors of a group, with one weight matrix for every diagram."""

from math import sqrt
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from metanets.equivariant.contraction import DiagramProduct, Term
from metanets.equivariant.functor import basis, spanning_set, true_dimension
from metanets.equivariant.groups import GraphAutomorphism, Group
from modelzoo.errors import UserError

# Below this size of the dense matrix, n^(k+l) C D a diagram, a training step with it was faster than one with the diagrams
# (one CPU core, batch 16, 4 and 16 channels, nine groups and orders): fewer, larger operations.
DENSE_ENTRIES_PER_TERM = 6_000
MOST_DENSE_ENTRIES = 4_000_000  # of all diagrams' matrices together: 32 MB


def dense_wins(entries: int, terms: int, channels: int) -> bool:
    """Whether the dense matrix is the faster way.

    Args:
        entries: n^(k+l).
        terms: number of diagrams.
        channels: C · D.
    """
    return entries * channels <= DENSE_ENTRIES_PER_TERM * terms and entries * terms <= MOST_DENSE_ENTRIES


class EquivariantLinear(nn.Module):
    """y = Σ_d Θ(d) x W_d + Σ_e Θ(e) b_e: every linear map equivariant under the group, and every invariant bias.

    "An Algorithm for Computing with Brauer's Group Equivariant Neural Network Layers" (Pearce-Crump, 2023). The diagrams
    are applied by permuting, contracting and copying axes; for small n^(k+l) by one dense matrix.

    Args:
        group: acting on every tensor axis.
        order_in: k, the number of axes of the input.
        order_out: l.
        channels_in: C.
        channels_out: D.
        bias: whether to add invariant tensors.
        terms: "basis", independent diagrams; or "spanning", all of them (more weights than dimensions for small n).
        dense: whether to multiply by the dense matrix; None: where it was measured to be faster (`dense_wins`).

    Shape:
        input `[B, n, …, n, C]` with k axes of length n, output `[B, n, …, n, D]` with l.

    Raises:
        UserError: no equivariant map but zero exists (and no bias either).

    Example:
        >>> from metanets.equivariant import EquivariantLinear, Symmetric
        >>> layer = EquivariantLinear(Symmetric(3), 2, 2, 4, 8)
        >>> layer.spanning_count, layer.true_dimension
        (15, 14)
        >>> layer(torch.zeros(1, 3, 3, 4)).shape
        torch.Size([1, 3, 3, 8])
    """

    def __init__(
        self,
        group: Group,
        order_in: int,
        order_out: int,
        channels_in: int,
        channels_out: int,
        *,
        bias: bool = True,
        terms: Literal["basis", "spanning"] = "basis",
        dense: bool | None = None,
    ) -> None:
        super().__init__()
        self.group, self.order_in, self.order_out = group, order_in, order_out
        choose = basis if terms == "basis" else spanning_set
        self.terms: list[Term] = choose(group, order_in, order_out)
        self.bias_terms: list[Term] = choose(group, 0, order_out) if bias else []
        if not self.terms and not self.bias_terms:
            raise UserError(
                f"{group} has no equivariant map from order {order_in} to order {order_out} but zero; choose other orders."
            )
        self.spanning_count = len(spanning_set(group, order_in, order_out))
        self.true_dimension = true_dimension(group, order_in, order_out)
        if dense is None:
            dense = dense_wins(group.n ** (order_in + order_out), len(self.terms), channels_in * channels_out)
        self.dense = dense
        adjacency = group.adjacency if isinstance(group, GraphAutomorphism) else None
        rows = (group.n,) * order_in, (group.n,) * order_out
        self.product = DiagramProduct(self.terms, *rows, group.form, adjacency)
        self.bias_product = DiagramProduct(self.bias_terms, (), rows[1], group.form, adjacency)
        self.weight = nn.Parameter(torch.empty(len(self.terms), channels_in, channels_out))
        self.bias = nn.Parameter(torch.zeros(len(self.bias_terms), 1, channels_out))
        self.register_buffer("matrices", self._matrices() if self.dense else None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights for which independent unit inputs give outputs of about unit variance; biases zero."""
        fan = len(self.terms) * self.weight.shape[1]
        for weight, term in zip(self.weight.detach(), self.terms, strict=True):
            contracted = sum(block[0] >= term.upper for block in term.blocks)
            nn.init.normal_(weight, std=1 / sqrt(fan * self.group.n**contracted))
        nn.init.zeros_(self.bias)

    def _matrices(self) -> Tensor:
        """`[terms, n^l, n^k]` the dense matrices of all diagrams."""
        shape = (len(self.terms), self.group.n**self.order_out, self.group.n**self.order_in)
        return torch.from_numpy(np.array([term.matrix(self.group) for term in self.terms]).reshape(shape))

    def reference(self, x: Tensor) -> Tensor:
        """The same output through the dense n^l × n^k matrix: the oracle of the fast product."""
        matrices = (self.matrices if self.matrices is not None else self._matrices()).to(x)
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        result = torch.einsum("oicd,bic->bod", torch.einsum("toi,tcd->oicd", matrices, self.weight), flat)
        return self._biased(result.view(x.shape[0], *(self.group.n,) * self.order_out, -1))

    def _biased(self, y: Tensor) -> Tensor:
        if not self.bias_terms:
            return y
        return y + self.bias_product(y.new_ones(1, 1), self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:-1] != (self.group.n,) * self.order_in:
            raise ValueError(f"expected [B, {'n, ' * self.order_in}C] with n = {self.group.n}, got {tuple(x.shape)}")
        return self.reference(x) if self.dense else self._biased(self.product(x, self.weight))

    def extra_repr(self) -> str:
        """What is printed of the layer."""
        return (
            f"{self.group}, {self.order_in} → {self.order_out}, channels {self.weight.shape[1]} → {self.weight.shape[2]}, "
            f"{self.spanning_count} diagrams, dimension {self.true_dimension}{', dense' if self.dense else ''}"
        )
