"""Symmetrization by orbit distance: any network becomes equivariant under any matrix group given by generators.

"Learning Symmetrization for Equivariance with Orbit Distance Minimization" (Nguyen, Kim, Yang, Hong, 2023):
φ(x) = E_ε[ρ_out(g) p(ρ_in(g)⁻¹ x)], where g ∈ G is the group element nearest to an equivariant matrix feature z(x, ε):
g = argmin_{g ∈ G} ‖g⁻¹ z - 1‖². Gram-Schmidt does that for rotations only; the minimum works for Lorentz transformations too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metanets.equivariant.canonicalization import Action

NEWTON_STEPS = 60
# Starts this far along the two softest directions: of 1000 random features of the whole Lorentz group, moved by random
# elements, 1 led to another minimum than before; with one direction 7, with ten random starts for
# each component instead 10.
SOFT_STEP = 3.0


@dataclass(frozen=True, eq=False)
class MatrixGroup:
    """A matrix Lie group: exponentials of an algebra times finitely many components.

    Args:
        algebra: `[dimension, n, n]` a basis.
        components: `[components, n, n]` one element of each component, the identity among them.
        form: `[n, n]` a bilinear form that all elements keep (gᵀ form g = form), for invariant features.
    """

    algebra: Tensor
    components: Tensor
    form: Tensor

    @property
    def n(self) -> int:
        """Size of the matrices."""
        return self.form.shape[0]

    def element(self, generator: torch.Generator, size: float = 1.0) -> Tensor:
        """A random element: a random component times exp of a Gaussian combination of the algebra."""
        weights = size * torch.randn(len(self.algebra), generator=generator, dtype=self.algebra.dtype)
        component = self.components[int(torch.randint(len(self.components), (1,), generator=generator))]
        return torch.linalg.matrix_exp(torch.einsum("a,aij->ij", weights, self.algebra)) @ component


def pseudo_orthogonal(positive: int, negative: int = 0, special: bool = False) -> MatrixGroup:
    """O(p, q), the matrices with gᵀηg = η for η = diag(1 … 1, -1 … -1); `pseudo_orthogonal(1, 3)` is the Lorentz group.

    Args:
        positive: p.
        negative: q.
        special: only the component of the identity: `pseudo_orthogonal(2, special=True)` is SO(2).
    """
    n = positive + negative
    form = torch.diag(torch.tensor([1.0] * positive + [-1.0] * negative, dtype=torch.float64))
    algebra = []
    for i in range(n):
        for j in range(i):
            matrix = torch.zeros(n, n, dtype=torch.float64)
            matrix[i, j], matrix[j, i] = 1.0, -1.0
            algebra.append(form @ matrix)
    turns = [torch.ones(n, dtype=torch.float64)]
    if not special:
        for first in {0, positive} if positive and negative else {0}:
            turns += [torch.where(torch.arange(n) == first, -turn, turn) for turn in turns]
    return MatrixGroup(torch.stack(algebra), torch.stack([torch.diag(turn) for turn in turns]), form)


def _newton(u: Tensor, z: Tensor, algebra: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and Hessian at a = 0 of ‖exp(Σ a_i A_i) u z - 1‖² / 2, batched."""
    y = u @ z
    residual = y - torch.eye(z.shape[-1]).to(z)
    moved = torch.einsum("aij,bjk->baik", algebra, y)
    gradient = torch.einsum("baik,bik->ba", moved, residual)
    twice = torch.einsum("aij,bcjk->backi", algebra, moved)
    curvature = torch.einsum("backi,bik->bac", twice, residual)
    hessian = torch.einsum("baik,bcik->bac", moved, moved) + (curvature + curvature.mT) / 2
    return residual.square().sum((1, 2)) / 2, gradient, hessian


def _exponential(steps: Tensor, algebra: Tensor) -> Tensor:
    return torch.linalg.matrix_exp(torch.einsum("ba,aij->bij", steps, algebra))


def nearest(z: Tensor, group: MatrixGroup) -> tuple[Tensor, Tensor]:
    """The inverse u = g⁻¹ of the group element nearest to z, and the distance ‖u z - 1‖ from the orbit of z to the identity.

    Damped Newton on the Lie algebra, from every component and once more past each minimum along its softest directions: on
    non-compact groups there can be several minima, and nothing proves that the least was met (see `SOFT_STEP`). One last step carries
    gradients: by the implicit function theorem its derivative is exactly that of the minimum.

    Args:
        z: `[B, n, n]`, invertible.
        group: G.

    Returns:
        u `[B, n, n]` and the distance `[B]`.
    """
    algebra = group.algebra.to(z)
    with torch.no_grad():
        first, value = _descend(torch.eye(group.n).to(z).expand_as(z), z, algebra)
        found, values = [first[None]], [value[None]]
        # from where the first ended: alike for z and g z; all components side by side, then all soft starts
        starts = (group.components.to(z)[:, None] @ first).flatten(0, 1)
        for _ in range(2):
            many = z.repeat(len(starts) // len(z), 1, 1)
            u, value = _descend(starts, many, algebra)
            found.append(u.unflatten(0, (-1, len(z))))
            values.append(value.unflatten(0, (-1, len(z))))
            directions = torch.linalg.eigh(_newton(u, many, algebra)[2])[1]
            lengths = (-SOFT_STEP, SOFT_STEP)
            softest = directions.unbind(2)[:2]
            starts = torch.cat([_exponential(length * each, algebra) @ u for each in softest for length in lengths])
        least = torch.cat(values).argmin(0)
        best = torch.cat(found)[least, torch.arange(len(z), device=z.device)]
    _, gradient, hessian = _newton(best, z, algebra)
    steps = -torch.linalg.solve(hessian, gradient[..., None])[..., 0]
    u = _exponential(steps, algebra) @ best
    return u, (u @ z - torch.eye(z.shape[-1]).to(z)).square().sum((1, 2)).sqrt()


def _descend(u: Tensor, z: Tensor, algebra: Tensor) -> tuple[Tensor, Tensor]:
    """Damped Newton; a sample leaves the loop when the decrease that its next step promises is lost in rounding."""
    u, value = u.clone(), z.new_empty(len(z))
    rows, damping = torch.arange(len(z), device=z.device), z.new_ones(len(z))
    own_u, own_z = u, z
    own_value, gradient, hessian = _newton(u, z, algebra)
    for _ in range(NEWTON_STEPS):
        values, vectors = torch.linalg.eigh(hessian)
        # a step along |curvature| goes down also where the Hessian is indefinite
        curvature = values.abs() + damping[:, None] * values.abs().amax(1, keepdim=True) + 1e-30
        steps = -torch.einsum("bij,bj->bi", vectors, torch.einsum("bji,bj->bi", vectors, gradient) / curvature)
        tried = _exponential(steps, algebra) @ own_u
        new_value, new_gradient, new_hessian = _newton(tried, own_z, algebra)
        better = new_value <= own_value
        promised = (gradient * steps).sum(1).abs()
        left = (promised > 4 * torch.finfo(z.dtype).eps * (1 + own_value)) | (damping > 0.1)
        own_u = torch.where(better[:, None, None], tried, own_u)
        own_value = torch.where(better, new_value, own_value)
        u[rows], value[rows] = own_u, own_value
        if not bool(left.any()):
            break
        gradient = torch.where(better[:, None], new_gradient, gradient)[left]
        hessian = torch.where(better[:, None, None], new_hessian, hessian)[left]
        damping = torch.where(better, damping * 0.1, (damping * 8).clamp(1e-3, 1e6))[left]
        rows, own_u, own_z, own_value = rows[left], own_u[left], own_z[left], own_value[left]
    return u, value


class InvariantMixing(nn.Module):
    """An equivariant matrix feature of points: z_j = Σ_i x_i a_ij(x η xᵀ, ε), with coefficients from invariants and noise.

    Args:
        points: N.
        group: with the form η.
        hidden: width of the network for a.
        noise: number of noise inputs ε.

    Shape:
        input `[B, N, n]`, output `[B, n, n]`.
    """

    form: Tensor

    def __init__(self, points: int, group: MatrixGroup, hidden: int = 32, noise: int = 0) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("form", group.form, persistent=False)
        self.coefficients = nn.Sequential(
            nn.Linear(points * points + noise, hidden),
            nn.Tanh(),
            nn.Linear(hidden, points * group.n),
            nn.Unflatten(1, (points, group.n)),
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.asinh(x @ self.form.to(x) @ x.mT).flatten(1)
        noise = torch.randn(len(x), self.noise, dtype=x.dtype, device=x.device)
        return torch.einsum("bpi,bpj->bij", x, self.coefficients(torch.cat([inner, noise], 1)))


class OrbitSymmetrized(nn.Module):
    """φ(x) = mean over samples of ρ_out(g) p(ρ_in(g)⁻¹ x), g the group element nearest to z(x, ε).

    Args:
        backbone: p, any module.
        features: z, equivariant: `features(g x) = g @ features(x)`; noise makes it a random variable.
        group: G.
        act: ρ_in.
        act_out: ρ_out; None for an invariant output.
        samples: of the noise.
    """

    def __init__(
        self,
        backbone: nn.Module,
        features: Callable[[Tensor], Tensor],
        group: MatrixGroup,
        act: Action,
        act_out: Action | None = None,
        samples: int = 1,
    ) -> None:
        super().__init__()
        self.backbone, self.features, self.group = backbone, features, group
        self.act, self.act_out, self.samples = act, act_out, samples

    def forward(self, x: Tensor) -> Tensor:
        results = []
        for _ in range(self.samples):
            u, _ = nearest(self.features(x), self.group)
            y = self.backbone(self.act(u, x))
            results.append(y if self.act_out is None else self.act_out(torch.linalg.inv(u), y))
        return torch.stack(results).mean(0)
