"""Sinkhorn matching: permutations learned by gradient descent through doubly stochastic matrices.

"Re-basin via implicit Sinkhorn differentiation" (Peña, Medeiros, Dubail, Aminbeidokhti, Granger and Pedersoli, 2023).
P = diag(u) exp(X / τ) diag(v) is brought to row and column sums one by Sinkhorn's iteration. Its derivative is not
unrolled: with G the gradient at P, the implicit function theorem gives

    ∂/∂X = P ∘ (G − α 1ᵀ − 1 βᵀ) / τ,    α + P β = (P ∘ G) 1,    Pᵀ α + β = (P ∘ G)ᵀ 1.

The objective is the distance to the reference, or any loss of the weights in the middle.
"""

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor

from analysis.analysis import analysis
from analysis.symmetry.plan import Plan
from analysis.symmetry.weight_matching import Alignment, Matching, PairOptions, pair, state
from graphs.elements import GroupElement
from graphs.factors import PermutationFactor
from graphs.group import SymmetryGroup
from graphs.symmetry import symmetry
from metanets.alignment import assignment
from modelzoo.store import Population

ITERATIONS = 2000
CLOSE = 1e-9  # of row and column sums to one
EVERY = 10  # iterations between looks at the sums


class Sinkhorn(torch.autograd.Function):
    """The doubly stochastic matrix of `X / τ`, `[..., m, m]`, differentiated implicitly."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, logits: Tensor, temperature: float) -> Tensor:
        log = logits / temperature
        for number in range(ITERATIONS):
            log = log - log.logsumexp(-1, keepdim=True)
            log = log - log.logsumexp(-2, keepdim=True)
            if number % EVERY == 0 and float((log.exp().sum(-1) - 1).abs().max()) < CLOSE:
                break
        result = log.exp()
        ctx.save_for_backward(result)
        ctx.temperature = temperature  # type: ignore[attr-defined]
        return result

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors  # type: ignore[attr-defined]
        weighted = p * gradients[0]
        rows, columns = weighted.sum(-1), weighted.sum(-2)
        m = p.shape[-1]
        # β solves (1 − PᵀP) β = columns − Pᵀ rows; constants are its kernel (α and β may trade one), so they are added
        matrix = torch.eye(m, dtype=p.dtype) - p.mT @ p + torch.full((m, m), 1 / m, dtype=p.dtype)
        beta = torch.linalg.solve(matrix, (columns - (p.mT @ rows[..., None])[..., 0])[..., None])[..., 0]
        alpha = rows - (p @ beta[..., None])[..., 0]
        slope = weighted - p * (alpha[..., :, None] + beta[..., None, :])
        return slope / ctx.temperature, None  # type: ignore[attr-defined]


def sinkhorn(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The doubly stochastic matrix nearest (in entropy) to exp(X / τ), differentiable; `[..., m, m]`."""
    return Sinkhorn.apply(logits, temperature)


def match_by_sinkhorn(
    group: SymmetryGroup, reference: Mapping[str, Tensor], tensors: Mapping[str, Tensor],
    loss: Callable[[dict[str, Tensor]], Tensor] | None = None, steps: int = 100, rate: float = 0.1,
    temperature: float = 0.1, seed: int = 0,
) -> Alignment:  # fmt: skip
    """Align one model with another by learned permutations.

    Args:
        group: the symmetry group, from `graphs.symmetry`.
        reference: parameters and state buffers of the model that stays, by name.
        tensors: those of the model that moves.
        loss: of weights in the middle of the reference and the moved model (double precision); None for their distance.
        steps: of Adam.
        rate: of Adam.
        temperature: τ; the smaller, the nearer to permutations.
        seed: of the first logits (identity and a little noise).

    Returns:
        The alignment by the nearest permutations; signs, rotations and the like are chosen by the weights thereafter.
    """
    matching = Matching(group, reference, canonical_start=False)
    plan: Plan = matching.plan
    factors = [factor for factor in group.factors if isinstance(factor, PermutationFactor)]
    own = matching.settled(tensors).tensors
    generator = torch.Generator().manual_seed(seed)
    logits = [
        (torch.eye(plan.blocks[f.name].count).double() + 0.01 * torch.randn(
            plan.blocks[f.name].copies, plan.blocks[f.name].count, plan.blocks[f.name].count,
            generator=generator, dtype=torch.float64)).requires_grad_()
        for f in factors
    ]  # fmt: skip
    optimizer = torch.optim.Adam(logits, lr=rate)
    given = matching.given.tensors
    names = plan.parameters
    scale = sum(given[name].abs().square().sum() for name in names)
    for _ in range(steps if logits else 0):
        moved = {name: own[name] for name in names}
        for factor, table in zip(factors, logits, strict=True):
            moved.update(plan.blocks[factor.name].mix(sinkhorn(table, temperature), moved))
        if loss is None:
            objective = torch.stack([(given[name] - moved[name]).abs().square().sum() for name in names]).sum() / scale
        else:
            objective = loss({**given, **{name: (given[name] + moved[name]) / 2 for name in names}})
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
    word = tuple(
        (factor, assignment(sinkhorn(table.detach(), temperature)).argsort(-1))
        for factor, table in zip(factors, logits, strict=True)
    )
    return matching.align(
        tensors, seed, starts=[("learned permutations", GroupElement(group, word))], given_start=False,
        held=tuple(factor.name for factor in factors),
    )  # fmt: skip


class SinkhornMatchingOptions(PairOptions):
    """Two models by id, and how the permutations are learned."""

    steps: int = Field(100, ge=1)
    rate: float = Field(0.1, gt=0)
    temperature: float = Field(0.1, gt=0)


@analysis("sinkhorn_matching", of="population", options=SinkhornMatchingOptions, tiny={"steps": 5})
def sinkhorn_matching(population: Population, options: SinkhornMatchingOptions) -> Alignment:
    """Align one model with another by permutations learned through doubly stochastic matrices."""
    first, second = pair(population, options)
    group = symmetry(population.template(), population.example_inputs(), verify=False)
    return match_by_sinkhorn(
        group, state(population, first), state(population, second), None, options.steps, options.rate,
        options.temperature, options.seed,
    )  # fmt: skip
