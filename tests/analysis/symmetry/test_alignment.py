"""Alignment over inferred groups: planted elements are found, functions stay, brute force is met, barriers fall.

Nothing in the alignment names an architecture, so neither do the checks: they run over families of the registry and over
the wirings on which published packages silently break the function.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from analysis.symmetry.activation_matching import match_activations
from analysis.symmetry.occurrences import matrices_of
from analysis.symmetry.orbit_distances import distances
from analysis.symmetry.plan import Plan
from analysis.symmetry.sinkhorn_matching import match_by_sinkhorn, sinkhorn
from analysis.symmetry.universe import match_population
from analysis.symmetry.weight_matching import match_weights
from graphs import SymmetryGroup, symmetry
from graphs.factors import PermutationFactor
from graphs.interpreter import widen
from graphs.verify import double_precision, outputs
from metanets.alignment import assignment
from modelzoo.errors import UserError
from modelzoo.families.attention.causal_lm import CausalLM, CausalLMConfig
from modelzoo.family import families, family
from modelzoo.task import task

EXACT = 1e-7  # of the norm, in double precision: balancing is iterative
NAMES = list(families())
FAST = ("mlp", "siren", "small_cnn")

Tensors = dict[str, Tensor]


class Concatenated(nn.Module):
    """A skip by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.tanh(self.first(x))
        return self.last(torch.cat([a, torch.tanh(self.second(a))], -1))


class Tied(nn.Module):
    """An embedding that is read out by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up, self.down = nn.Embedding(7, 4), nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens)
        return F.linear(h + self.down(torch.relu(self.up(h))), self.embedding.weight)


class GroupedQuery(nn.Module):
    """Grouped-query attention: four query heads of two features share two key and value heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(5, 8), nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, 2, 2, 2)
        k, v = (part(x).view(b, t, 2, 2) for part in (self.k, self.v))
        attention = torch.einsum("bigrd,bjgd->bgrij", q, k).softmax(-1)
        return self.out(torch.einsum("bgrij,bjgd->bigrd", attention, v).reshape(b, t, 8))


class Recurrent(nn.Module):
    """An LSTM and a linear map of its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.lstm(x)[0][:, -1])


def convolutions(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3), *middle, nn.Flatten(), nn.Linear(8 * 4, 3))


SMALL = CausalLMConfig(vocabulary=7, length=4, width=8, heads=2, key_value_heads=1, hidden=5, layers=1)

WIRINGS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch norm": (lambda: convolutions(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()), (2, 1, 6, 6)),
    "grouped": (lambda: convolutions(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU()), (2, 1, 6, 6)),
    "depthwise": (lambda: convolutions(nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()), (2, 1, 6, 6)),
    "concatenation": (Concatenated, (4, 3)),
    "tied embedding": (Tied, (2, 3)),
    "grouped query": (GroupedQuery, (2, 3, 5)),
    "lstm": (Recurrent, (2, 3, 3)),
    "language model": (lambda: CausalLM(SMALL), (2, 4)),
    "wide linear": (lambda: nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 6, bias=False)), (4, 2)),
    "deep linear": (lambda: nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 4, bias=False)), (4, 5)),
}  # fmt: skip


class Subject:
    """An architecture with its group and random models of it, in double precision."""

    def __init__(self, build: Callable[[int], nn.Module], inputs: tuple[Tensor, ...]) -> None:
        self.build, self.inputs = build, inputs
        self.module = build(0).eval()
        self.group: SymmetryGroup = symmetry(self.module, inputs, verify=False)

    def model(self, seed: int) -> Tensors:
        """Weights of that seed, off zero biases and unit scales, which are ties of their own."""
        generator = torch.Generator().manual_seed(seed)
        module, found = self.build(seed), {}
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            value = widen(tensor.detach())
            if name in self.group.program.tensors and (value.is_floating_point() or value.is_complex()):
                noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
                value = value * (1 + 0.1 * noise) + 0.02 * noise
            found[name] = value
        return found

    def moved(self, tensors: Tensors, seed: int) -> Tensors:
        """The model at a random point of its orbit, scales spread by 0.3."""
        return self.group.sample(torch.Generator().manual_seed(seed), scale=0.3).apply(tensors)

    def change(self, before: Tensors, after: Tensors) -> float:
        """Relative change of the function."""
        with double_precision(self.module) as double:
            inputs = tuple(widen(x) for x in self.inputs)
            a, b = (outputs(functional_call(double, t, inputs)) for t in (before, after))
        return max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(a, b, strict=True))


@cache
def of_family(name: str) -> Subject:
    found = family(name)
    chosen = task(found.task)
    config = found.configure(chosen, found.tiny)

    def build(seed: int) -> nn.Module:
        module = found.build(config, seed)
        if found.fit is not None:  # from random weights as they come an associative memory forgets everything
            for parameter in module.parameters():
                parameter.data *= 3
        return module

    return Subject(build, chosen.example_inputs())


@cache
def of_wiring(name: str) -> Subject:
    build, shape = WIRINGS[name]

    def seeded(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build()

    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randint(0, 7, shape)
        if name in ("tied embedding", "language model")
        else torch.randn(shape, generator=generator)
    )
    return Subject(seeded, (x,))


def norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([t.abs().square().sum() for t in tensors.values()]).sum().sqrt())


def check_planted_permutations(subject: Subject, seed: int = 4) -> None:
    """All permutation factors at once are found again exactly, in the weights as they were given."""
    factors = [factor for factor in subject.group.factors if isinstance(factor, PermutationFactor)]
    model, generator = subject.model(0), torch.Generator().manual_seed(seed)
    planted = model
    for factor in factors:
        planted = {**planted, **factor.apply(factor.sample(generator), planted)}
    if not factors:
        pytest.skip("no neurons are interchangeable")
    assert apart(model, planted) > 1e-3
    found = match_weights(subject.group, model, planted)
    assert found.distance < EXACT * np.linalg.norm(found.norms)
    assert apart(model, found.tensors) < EXACT


def apart(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """The distance of two models as they are, relative to the norm of the first."""
    return norm({name: right[name] - left[name] for name in left}) / norm(left)


def check_planted(subject: Subject, seed: int = 3) -> None:
    """A model and a random point of its orbit meet; an independent model keeps its function and does not."""
    model, other = subject.model(0), subject.model(1)
    planted = subject.moved(model, seed)
    found = match_weights(subject.group, model, planted)
    assert np.linalg.norm(found.before) > 1e-2 * np.linalg.norm(found.norms), "the element moved the model"
    assert found.distance < EXACT * np.linalg.norm(found.norms)
    assert apart(model, found.tensors) < 1e-5
    aligned = match_weights(subject.group, model, other)
    assert subject.change(other, aligned.tensors) < 1e-8, "the aligned model has exactly the same function"
    assert subject.change(other, model) > 1e-3
    assert aligned.distance < np.linalg.norm(aligned.before)
    assert aligned.distance > 1e-2 * np.linalg.norm(aligned.norms), "models of two orbits stay apart"
    applied = aligned.element.apply(other)
    for name, tensor in aligned.tensors.items():
        torch.testing.assert_close(applied[name], tensor, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", FAST)
def test_a_planted_element_is_found_in_families(name: str) -> None:
    check_planted(of_family(name))


APART = {  # families where two points of one orbit do not meet
    "hyperlstm": "GL(2) and scales of the twelve embeddings generate GL(2)^12, of which the factors hold a part only",
}
SLOW: list[Any] = [name for name in NAMES if name not in (*FAST, *APART)]
for name, why in APART.items():
    SLOW.append(pytest.param(name, marks=pytest.mark.xfail(reason=why, raises=AssertionError, strict=True)))


def swept(name: str) -> Subject:
    """A family with a symmetry group; the test is skipped where the family says that there is none."""
    if reason := family(name).limits.get("symmetry"):
        pytest.skip(f"{name}: {reason}")
    return of_family(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_planted_element_is_found_in_every_family(name: str) -> None:
    check_planted(swept(name))


@pytest.mark.parametrize("name", FAST)
def test_planted_permutations_are_found_in_families(name: str) -> None:
    check_planted_permutations(of_family(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in FAST])
def test_planted_permutations_are_found_in_every_family(name: str) -> None:
    check_planted_permutations(swept(name))


@pytest.mark.parametrize("name", WIRINGS)
def test_a_planted_element_is_found_where_packages_break_the_function(name: str) -> None:
    check_planted(of_wiring(name))


def test_the_function_check_can_fail() -> None:
    """Control: a permutation outside the group, as a specification by hand would give it, changes the function."""
    subject = of_wiring("grouped")
    model = subject.model(0)
    order = torch.tensor([4, 1, 2, 3, 0, 5, 6, 7])  # across the two groups
    wrong = {**model, "2.weight": model["2.weight"][order], "2.bias": model["2.bias"][order]}
    wrong["5.weight"] = model["5.weight"].unflatten(1, (8, 4))[:, order].flatten(1)
    assert subject.change(model, wrong) > 1e-3


@pytest.mark.parametrize("name", ["grouped", "lstm", "concatenation"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_soft_permutations_at_permutation_matrices_are_the_group_s(name: str, seed: int) -> None:
    subject = of_wiring(name)
    plan, model = Plan(subject.group), subject.model(0)
    generator = torch.Generator().manual_seed(seed)
    factors = [f for f in subject.group.factors if isinstance(f, PermutationFactor)]
    assert factors
    for factor in factors:
        parameters = factor.sample(generator)
        hard, soft = factor.apply(parameters, model), plan.blocks[factor.name].mix(matrices_of(parameters), model)
        for key, tensor in soft.items():
            assert torch.equal(hard[key], tensor)


def permutations_of(subject: Subject) -> list[list[Tensor]]:
    factors = [f for f in subject.group.factors if isinstance(f, PermutationFactor)]
    counts = [f.identity().shape[-1] for f in factors]
    return [
        [torch.tensor([order]) for order in orders]
        for orders in itertools.product(*(itertools.permutations(range(m)) for m in counts))
    ]


def test_brute_force_over_all_permutations_is_met() -> None:
    """Two hidden layers of 4 and 3 GELU units: 144 permutations. Descent is never better, and mostly as good."""
    subject = Subject(lambda seed: seeded_mlp(seed, nn.GELU), (torch.randn(3, 2),))
    factors = [f for f in subject.group.factors if isinstance(f, PermutationFactor)]
    assert sum(f.log_order for f in factors) == pytest.approx(np.log(144))
    ratios = []
    for seed in range(6):
        model, other = subject.model(2 * seed), subject.model(2 * seed + 1)
        best = np.inf
        for orders in permutations_of(subject):
            moved = other
            for factor, order in zip(factors, orders, strict=True):
                moved = {**moved, **factor.apply(order, moved)}
            best = min(best, norm({name: model[name] - moved[name] for name in model}))
        ratios.append(match_weights(subject.group, model, other).distance / best)
    assert min(ratios) > 1 - 1e-12, "nothing is nearer than the best of all"
    assert np.mean(np.array(ratios) < 1 + 1e-9) >= 0.5
    assert max(ratios) < 1.1


def seeded_mlp(seed: int, activation: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 4), activation(), nn.Linear(4, 3), activation(), nn.Linear(3, 1))


def test_sinkhorn_is_doubly_stochastic_and_its_implicit_gradient_is_the_unrolled_one() -> None:
    logits = torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    soft = sinkhorn(logits, 0.5)
    torch.testing.assert_close(soft.sum(-1), torch.ones(2, 5, dtype=torch.float64))
    torch.testing.assert_close(soft.sum(-2), torch.ones(2, 5, dtype=torch.float64))
    (implicit,) = torch.autograd.grad((soft * weight).sum(), logits)
    log = logits / 0.5
    for _ in range(300):
        log = log - log.logsumexp(-1, keepdim=True)
        log = log - log.logsumexp(-2, keepdim=True)
    (unrolled,) = torch.autograd.grad((log.exp() * weight).sum(), logits)
    torch.testing.assert_close(implicit, unrolled, rtol=1e-7, atol=1e-10)
    assert unrolled.abs().max() > 1e-2
    sharp = sinkhorn(logits.detach(), 0.01)
    assert torch.equal(assignment(sharp), assignment(logits.detach())), "a small temperature gives the assignment"


@pytest.mark.parametrize("method", ["sinkhorn", "activations"])
def test_other_methods_find_a_planted_permutation(method: str) -> None:
    subject = of_family("small_cnn")
    model, other = subject.model(0), subject.model(1)
    permutations = {f.name for f in subject.group.factors if isinstance(f, PermutationFactor)}
    element = subject.group.sample(torch.Generator().manual_seed(0), scale=0.3)
    planted = element.apply(model)
    assert permutations
    for tensors, same in ((planted, True), (other, False)):
        if method == "sinkhorn":
            found = match_by_sinkhorn(subject.group, model, tensors, steps=30)
        else:
            data = task("digits").data().train.inputs[0].double()
            found = match_activations(subject.group, model, tensors, [(data[k : k + 2],) for k in range(0, 60, 2)])
        assert subject.change(tensors, found.tensors) < 1e-8
        assert (found.distance < EXACT * np.linalg.norm(found.norms)) == same


def test_activations_need_batches_of_the_traced_shape() -> None:
    subject = of_family("small_cnn")
    model = subject.model(0)
    with pytest.raises(UserError, match="two or more batches of the traced shapes"):
        match_activations(subject.group, model, model, [(torch.zeros(5, 1, 8, 8),)] * 3)


def test_a_universe_closes_cycles_and_unites_an_orbit() -> None:
    subject = of_family("mlp")
    model = subject.model(0)
    orbit = [model, *(subject.moved(model, seed) for seed in range(2))]
    found = match_population(subject.group, orbit)
    assert found.before[0, 1] > 0.1 * norm(model)
    assert found.after.max() < EXACT * norm(model)
    models = [subject.model(seed) for seed in range(3)]
    found = match_population(subject.group, models)
    assert found.after[np.triu_indices(3, 1)].mean() < found.before[np.triu_indices(3, 1)].mean()
    for before, after in zip(models, found.tensors, strict=True):
        assert subject.change(before, after) < 1e-8
    into = found.elements
    around = into[0].inverse() @ into[2] @ into[2].inverse() @ into[1] @ into[1].inverse() @ into[0]
    back = around.apply(models[0])
    for name, tensor in models[0].items():
        torch.testing.assert_close(back[name], tensor)
    pairwise = [match_weights(subject.group, models[p], models[q]).element for p, q in ((1, 0), (2, 1), (0, 2))]
    around = pairwise[2] @ pairwise[1] @ pairwise[0]
    assert norm({n: around.apply(models[0])[n] - t for n, t in models[0].items()}) > 0.1, "control: pairs do not close"


def test_duplicates_up_to_symmetry() -> None:
    subject = of_family("mlp")
    models = [subject.model(0), subject.model(1), subject.moved(subject.model(0), 5)]
    found = distances(subject.group, models, ("a", "b", "c"))
    assert found.duplicates == (("a", "c"),)
    assert "a = c" in found.sentence
    assert (found.modulo <= found.plain + 1e-9).all()
    assert distances(subject.group, models[:2]).duplicates == ()
