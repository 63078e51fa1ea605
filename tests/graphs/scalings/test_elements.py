"""Group axioms on groups that mix permutations with scales, signs, phases, matrices and translations."""

import functools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import graphs
from graphs.elements import GroupElement
from graphs.group import SymmetryGroup
from graphs.scalings.translations import TranslationFactor
from tests.graphs.scalings.subjects import SUBJECTS

MIXED = ("mlp relu", "mlp tanh", "transformer", "deep linear", "bilinear", "recurrent unit", "lstm", "siren")
SEEDS = st.integers(0, 2**31 - 1)


@functools.cache
def subject(name: str) -> tuple[SymmetryGroup, dict[str, Tensor]]:
    torch.manual_seed(0)
    module, inputs = SUBJECTS[name]()
    group = graphs.symmetry(module, inputs, verify=False)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    wide = {n: t.detach().to(torch.complex128 if t.is_complex() else torch.float64) for n, t in tensors.items()}
    return group, wide


def element(group: SymmetryGroup, seed: int, models: int | None = None) -> GroupElement:
    return group.sample(torch.Generator().manual_seed(seed), 0.5, models)


def close(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.allclose(first[name], second[name], rtol=1e-8, atol=1e-9) for name in first)


@pytest.mark.parametrize("name", MIXED)
@settings(max_examples=5, deadline=None)
@given(first=SEEDS, second=SEEDS)
def test_composing_is_applying_one_after_the_other(name: str, first: int, second: int) -> None:
    group, tensors = subject(name)
    g, h = element(group, first), element(group, second)
    assert close((g @ h).apply(tensors), g.apply(h.apply(tensors)))
    assert close((g @ g.inverse()).apply(tensors), tensors)
    assert close(g.inverse().apply(g.apply(tensors)), tensors)


@pytest.mark.parametrize("name", MIXED)
def test_words_come_to_one_entry_a_factor(name: str) -> None:
    group, _ = subject(name)
    g, h = element(group, 1), element(group, 2)
    word = [factor for factor, _ in (g @ h).word]
    if name == "transformer":  # W_o → W_o + 1 uᵀ and b_v → b_v + t with b_o → b_o − W_o t do not commute
        word = [factor for factor in word if not isinstance(factor, TranslationFactor)]
    order = [group.position(factor) for factor in word]
    assert order == sorted(set(order)), f"{name}: a factor cannot pass another"


@pytest.mark.parametrize("name", MIXED)
def test_json_is_exact(name: str) -> None:
    group, tensors = subject(name)
    g = element(group, 3)
    back = group.from_json(json.loads(json.dumps(g.to_json())))
    assert all(torch.equal(a, b) for a, b in zip(back.apply(tensors).values(), g.apply(tensors).values(), strict=True))


@pytest.mark.parametrize("name", MIXED)
def test_a_population_in_one_pass_equals_model_by_model(name: str) -> None:
    group, tensors = subject(name)
    g = element(group, 4, models=3)
    stacked = {n: torch.stack([t * (1 + k) for k in range(3)]) for n, t in tensors.items()}
    together = g.apply_stacked(stacked)
    for k in range(3):
        single = GroupElement(group, tuple((factor, parameters[k]) for factor, parameters in g.word))
        alone = single.apply({n: t[k] for n, t in stacked.items()})
        assert close({n: t[k] for n, t in together.items()}, alone)
    again = (g @ g.inverse()).apply_stacked(stacked)
    assert close(again, stacked)


@pytest.mark.parametrize("name", MIXED)
def test_one_model_under_many_elements(name: str) -> None:
    group, tensors = subject(name)
    g = element(group, 5, models=2)
    moved = g.apply(tensors)
    for k in range(2):
        single = GroupElement(group, tuple((factor, parameters[k]) for factor, parameters in g.word))
        alone = single.apply(tensors)
        assert all(torch.allclose(t if t.shape == tensors[n].shape else t[k], alone[n]) for n, t in moved.items())


def test_the_comparison_notices_a_wrong_order() -> None:
    group, tensors = subject("mlp relu")
    g, h = element(group, 1), element(group, 2)
    assert not close((g @ h).apply(tensors), h.apply(g.apply(tensors)))


def test_a_module_is_transformed_in_place() -> None:
    torch.manual_seed(0)
    module, inputs = SUBJECTS["transformer"]()
    module = module.double()
    group = graphs.symmetry(module, tuple(x.double() for x in inputs), verify=False)
    before = module(*(x.double() for x in inputs))
    weight = module.self_attn.in_proj_weight.detach().clone()
    element(group, 6).apply_module(module)
    assert torch.allclose(module(*(x.double() for x in inputs)), before, rtol=1e-6)
    assert not torch.allclose(module.self_attn.in_proj_weight, weight, rtol=0.1)
