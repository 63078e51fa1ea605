"""Learned canonicalization: any network becomes equivariant by turning its input into a standard pose.

"Equivariance with Learned Canonicalization Functions" (Kaba, Mondal, Zhang, Bengio, Ravanbakhsh, 2023):
φ(x) = ρ_out(c(x)) p(ρ_in(c(x))⁻¹ x) with c(g x) = g c(x). The backbone p is arbitrary; c, a *frame*, is learned with it.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from metanets.equivariant.weight_space import TensorSpace, WeightSpaceLinear

Action = Callable[[Tensor, Tensor], Tensor]


def act_on_vectors(g: Tensor, x: Tensor) -> Tensor:
    """Matrices `[B, n, n]` on points `[B, N, n]`: every vector is multiplied."""
    return torch.einsum("bij,bpj->bpi", g, x)


def act_on_points(g: Tensor, x: Tensor) -> Tensor:
    """Permutation matrices `[B, N, N]` on points `[B, N, C]`: the points are reordered."""
    return g @ x


class Frame(nn.Module):
    """A network c with c(g x) = g c(x), whose values are orthogonal matrices (so permutations too)."""


class GramSchmidtFrame(Frame):
    """O(n) or SO(n) on points: Gram-Schmidt on n learned vectors z_j = Σ_i a_ij x_i with invariant a = MLP(x xᵀ).

    Args:
        points: N.
        n: dimension of a point.
        hidden: width of the MLP.
        special: whether frames have determinant 1: equivariant under rotations, seeing reflections.

    Shape:
        input `[B, N, n]`, output `[B, n, n]`.
    """

    def __init__(self, points: int, n: int, hidden: int = 32, special: bool = False) -> None:
        super().__init__()
        self.n, self.special = n, special
        self.coefficients = nn.Sequential(
            nn.Linear(points * points, hidden), nn.Tanh(), nn.Linear(hidden, points * n), nn.Unflatten(1, (points, n))
        )

    def forward(self, x: Tensor) -> Tensor:
        z = torch.einsum("bpi,bpj->bij", x, self.coefficients((x @ x.mT).flatten(1)))
        q, r = torch.linalg.qr(z)
        q = q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
        if not self.special:
            return q
        return torch.cat([q[..., :-1], q[..., -1:] * torch.linalg.det(q)[:, None, None]], -1)


def sorting(scores: Tensor, temperature: float) -> Tensor:
    """The permutation matrices that sort scores `[B, N]`, exact, with the gradient of a soft sort, `[B, N, N]`.

    The soft sort is the row-wise softmax of -|s_sorted - s| / temperature (Prillo and Eisenschlos, 2020).
    """
    ordered, order = scores.sort(1)
    soft = torch.softmax(-(ordered[:, :, None] - scores[:, None, :]).abs() / temperature, -1)
    hard = nn.functional.one_hot(order, scores.shape[1]).to(scores.dtype)
    return hard + (soft - soft.detach())


class SortFrame(Frame):
    """S_N on points: the permutation that sorts learned scores s_i = MLP(x_i, mean_j x_j), see `sorting`.

    Args:
        channels: of a point.
        hidden: width of the MLP.
        temperature: of the soft sort.

    Shape:
        input `[B, N, C]`, output `[B, N, N]`.
    """

    def __init__(self, channels: int, hidden: int = 32, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature
        self.score = nn.Sequential(nn.Linear(2 * channels, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(torch.cat([x, x.mean(1, keepdim=True).expand_as(x)], -1))[..., 0]
        return sorting(score, self.temperature).mT  # sorted = cᵀ x


class Canonicalized(nn.Module):
    """φ(x) = ρ_out(c(x)) p(ρ_in(c(x))⁻¹ x).

    Args:
        backbone: p, any module.
        frame: c.
        act: ρ_in.
        act_out: ρ_out; None for an invariant output.
    """

    def __init__(self, backbone: nn.Module, frame: Frame, act: Action, act_out: Action | None = None) -> None:
        super().__init__()
        self.backbone, self.frame, self.act, self.act_out = backbone, frame, act, act_out

    def forward(self, x: Tensor) -> Tensor:
        g = self.frame(x)
        y: Tensor = self.backbone(self.act(g.mT, x))
        return y if self.act_out is None else self.act_out(g, y)


class FiniteCanonicalized(nn.Module):
    """Canonicalization by a cyclic group: the pose with the largest learned energy, with a straight-through gradient.

    Args:
        backbone: p, any module; its output is invariant.
        energy: module from inputs `[B, …]` to `[B, 1]`.
        rotate: `(input, k) -> input`, the k-th power of the generator.
        order: of the group.
    """

    def __init__(
        self, backbone: nn.Module, energy: nn.Module, rotate: Callable[[Tensor, int], Tensor], order: int
    ) -> None:
        super().__init__()
        self.backbone, self.energy, self.rotate, self.order = backbone, energy, rotate, order

    def forward(self, x: Tensor) -> Tensor:
        poses = [self.rotate(x, k) for k in range(self.order)]
        energies = torch.cat([self.energy(pose) for pose in poses], 1)  # one call a pose: equal poses, equal bits
        soft = energies.softmax(1)
        hard = nn.functional.one_hot(energies.argmax(1), self.order).to(x.dtype)
        choice = hard + (soft - soft.detach())  # exactly `hard`, with the gradient of `soft`
        shape = (-1, *(1,) * (x.ndim - 1))
        standard = sum(choice[:, k].view(shape) * pose for k, pose in enumerate(poses))
        y: Tensor = self.backbone(standard)
        return y


class NeuronSort(nn.Module):
    """Canonical order of neurons: every symmetric factor of a tensor space is sorted by learned equivariant scores.

    After it any network on flattened weights is invariant. Scores come from two equivariant layers with tanh between, and
    are learned through the gradient of a soft sort, see `sorting`.

    Args:
        space: of the weights, see `mlp_space`.
        channels: of the scores' hidden layer.
        temperature: of the soft sort.

    Shape:
        input and output `{name: [B, *shape, C]}` with C = 1.
    """

    def __init__(self, space: TensorSpace, channels: int = 8, temperature: float = 0.1) -> None:
        super().__init__()
        self.space, self.temperature = space, temperature
        self.first = WeightSpaceLinear(space, space, 1, channels)
        self.second = WeightSpaceLinear(
            space, space.with_tensors({name: (name,) for name in space.factors}), channels, 1
        )

    def forward(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scores = self.second({name: value.tanh() for name, value in self.first(values).items()})
        ordered = dict(values)
        for factor, score in scores.items():
            matrix = sorting(score[..., 0], self.temperature)
            for name, axes in self.space.tensors.items():
                for position, axis in enumerate(axes):
                    if axis == factor:
                        moved = ordered[name].movedim(1 + position, -1)
                        ordered[name] = torch.einsum("b...n,bmn->b...m", moved, matrix).movedim(-1, 1 + position)
        return ordered


def balance_relu(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The point on the orbit of positive scales of a ReLU MLP where every hidden neuron has incoming norm 1.

    Scaling a neuron's incoming weights and bias by s > 0 and its outgoing weights by 1/s leaves the function as it is.

    Args:
        values: `{i.weight: [B, out, in, 1], i.bias: [B, out, 1]}` as in `mlp_space`.
    """
    balanced = dict(values)
    layers = sorted({int(name.split(".")[0]) for name in values})
    for layer, following in pairwise(layers):
        weight, bias = balanced[f"{layer}.weight"], balanced.get(f"{layer}.bias")
        square = weight.square().sum((2, 3)) + (0 if bias is None else bias.square().sum(2))
        norm = square.sqrt()
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))  # a dead neuron stays
        balanced[f"{layer}.weight"] = weight / norm[:, :, None, None]
        if bias is not None:
            balanced[f"{layer}.bias"] = bias / norm[:, :, None]
        balanced[f"{following}.weight"] = balanced[f"{following}.weight"] * norm[:, None, :, None]
    return balanced
