"""Algebraic laws of group elements, over several groups: axioms, JSON, populations, and the grammar of random nets."""

import json
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphs import GroupElement, SymmetryGroup, infer, trace, verify
from graphs.symmetry import permutation_group
from modelzoo.errors import UserError
from tests.graphs import architectures as a

MODULES = {
    "mlp": (lambda: a.mlp(3, 5, 4, 2), (2, 3)),
    "residual mlp": (a.residual_mlp, (2, 3)),
    "grouped": (lambda: a.grouped_cnn(nn.GroupNorm(4, 8)), (1, 2, 4, 4)),
    "cnn": (a.cnn, (1, 1, 8, 8)),
    "attention": (a.Attention, (1, 3, 8)),
    "lstm": (lambda: a.Readout(nn.LSTM(3, 3), 3), (2, 1, 3)),
    "spectral": (a.FourierOperator, (1, 2, 12)),
    "experts": (a.Experts, (2, 3)),
}
NAMES = st.sampled_from(list(MODULES))
SEEDS = st.integers(0, 10_000)


@cache
def known(name: str, whole: bool = False) -> tuple[SymmetryGroup, dict[str, Tensor]]:
    """The permutation group (or the whole one) of a module, and its tensors in double precision."""
    torch.manual_seed(0)
    make, shape = MODULES[name]
    module = make()
    program = trace(module, (torch.randn(shape),))
    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    state = {key: value.detach().to(wide.get(value.dtype, value.dtype)) for key, value in module.state_dict().items()}
    return (infer if whole else permutation_group)(program), {key: state[key] for key in program.tensors}


def sampled(group: SymmetryGroup, seed: int, models: int | None = None) -> GroupElement:
    return group.sample(torch.Generator().manual_seed(seed), 0.5, models)


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor], exact: bool = True) -> None:
    assert first.keys() == second.keys()
    for name in first:
        if exact:
            assert torch.equal(first[name], second[name]), name
        else:
            torch.testing.assert_close(first[name], second[name], rtol=1e-8, atol=1e-8, msg=name)


@settings(max_examples=60, deadline=None)
@given(NAMES, SEEDS)
def test_group_axioms(name: str, seed: int) -> None:
    group, tensors = known(name)
    f, g, h = (sampled(group, seed + k) for k in range(3))
    one = group.identity()
    assert_same(one.apply(tensors), tensors)
    assert_same((f @ g).apply(tensors), f.apply(g.apply(tensors)))  # composing is applying twice
    assert_same(((f @ g) @ h).apply(tensors), (f @ (g @ h)).apply(tensors))
    assert_same((f @ f.inverse()).apply(tensors), tensors)
    assert_same(f.inverse().apply(f.apply(tensors)), tensors)
    assert_same((f @ g).inverse().apply(tensors), (g.inverse() @ f.inverse()).apply(tensors))
    assert_same((f @ one).apply(tensors), (one @ f).apply(tensors))


@settings(max_examples=40, deadline=None)
@given(NAMES, SEEDS)
def test_a_product_has_one_entry_a_factor(name: str, seed: int) -> None:
    """Wreath products included: blocks and their contents pass each other by conjugation."""
    group, tensors = known(name)
    f, g = sampled(group, seed), sampled(group, seed + 1)
    product = f @ g
    assert [factor.name for factor, _ in product.word] == [factor.name for factor in group.factors]
    again = group.element({factor.name: product[factor.name] for factor in group.factors})
    assert_same(again.apply(tensors), product.apply(tensors))
    assert_same((f @ f.inverse()).apply(tensors), tensors)
    for factor, parameters in (f @ f.inverse()).word:
        assert torch.equal(parameters, factor.identity())


@settings(max_examples=20, deadline=None)
@given(NAMES, SEEDS, st.booleans())
def test_json_round_trip(name: str, seed: int, whole: bool) -> None:
    group, tensors = known(name, whole)
    element = sampled(group, seed)
    again = group.from_json(json.loads(json.dumps(element.to_json())))
    assert_same(again.apply(tensors), element.apply(tensors))


def test_json_of_another_architecture_is_refused() -> None:
    element = sampled(known("mlp")[0], 0).to_json()
    with pytest.raises(UserError, match="factor"):
        known("residual mlp")[0].from_json(element)
    changed = [{**element[0], "group": "S_9"}]
    with pytest.raises(UserError, match=r"S_5 in this group, got 'S_9'"):
        known("mlp")[0].from_json(changed)


@settings(max_examples=30, deadline=None)
@given(NAMES, SEEDS, st.booleans())
def test_a_stacked_population_moves_as_each_of_its_models(name: str, seed: int, whole: bool) -> None:
    group, tensors = known(name, whole)
    generator = torch.Generator().manual_seed(seed)
    # what is added is positive, so that variances stay so
    stacked = {key: value + torch.rand(3, *value.shape, generator=generator) for key, value in tensors.items()}
    one, many = sampled(group, seed), sampled(group, seed, models=3)
    together = many.apply_stacked(stacked)
    for model in range(3):
        own = {key: value[model] for key, value in stacked.items()}
        alone = GroupElement(group, tuple((factor, parameters[model]) for factor, parameters in many.word))
        assert_same({key: value[model] for key, value in together.items()}, alone.apply(own), exact=not whole)
        everyone = one.apply_stacked(stacked)
        assert_same({key: value[model] for key, value in everyone.items()}, one.apply(own), exact=not whole)


def test_a_module_is_changed_in_place_and_keeps_its_function() -> None:
    torch.manual_seed(0)
    module, x = a.cnn().double().eval(), torch.randn(2, 1, 8, 8).double()
    group = permutation_group(trace(module, (x,)))
    before, weight = module(x), module[0].weight.detach().clone()
    assert sampled(group, 1).apply_module(module) is module
    torch.testing.assert_close(module(x), before)
    assert not torch.equal(module[0].weight, weight)


def test_a_module_with_two_names_for_a_tensor_is_called_with_both_moved() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(3, 4), shared_branches(), nn.Linear(4, 2)).double().eval(), torch.randn(5, 3)
    x = x.double()
    group = permutation_group(trace(module, (x,)))
    tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    element = sampled(group, 1)
    assert not torch.equal(element.apply(tensors)["0.weight"], tensors["0.weight"])
    torch.testing.assert_close(element.call(module, tensors, x), module(x))


def test_pooling_axes_name_orbits_and_blocks() -> None:
    group, _ = known("mlp")
    rows, columns = group.pooling_axes("2.weight")
    assert rows is not None
    assert columns is not None
    assert rows.factors == ("2.weight[0]",)
    assert columns.factors == ("0.weight[0]",)
    assert rows.slot.tolist() == [0] * 4
    assert sorted(rows.block[:, 0].tolist()) == [0, 1, 2, 3]
    assert group.pooling_axes("0.weight")[1] is None
    heads, _ = known("attention")
    (packed,) = (heads.pooling_axes("attention.in_proj_bias")[0],)
    assert packed is not None
    assert packed.slot.tolist() == [*[0] * 8, *[1] * 8, *[2] * 8]
    with pytest.raises(UserError, match="parameter"):
        group.pooling_axes("nothing")


# -- random nets of a small grammar ---------------------------------------------------------------------------------------


class Branches(nn.Module):
    """A sum, product or concatenation of two nets of one shape."""

    def __init__(self, kind: str, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.kind, self.left, self.right = kind, left, right

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        return {"sum": left + right, "product": left * right, "cat": torch.cat([left, right], -1)}[self.kind]


class Reshaped(nn.Module):
    """Features seen as heads that mix with each other (a softmax over heads), or as two halves."""

    def __init__(self, kind: str, parts: int) -> None:
        super().__init__()
        self.kind, self.parts = kind, parts

    def forward(self, x: Tensor) -> Tensor:
        heads = x.view(x.shape[0], self.parts, -1)
        if self.kind == "softmax":
            return (heads.softmax(1) * heads).flatten(1)
        if self.kind == "gram":
            return (heads @ heads.transpose(1, 2) @ heads).flatten(1)
        if self.kind == "transposed":
            return heads.transpose(1, 2).reshape(x.shape)
        if self.kind == "cumulative":
            return heads.cumsum(2).flatten(1)
        return torch.cat([heads[:, 1:], heads[:, :1] * heads.mean(1, keepdim=True)], 1).flatten(1)


POINTWISE = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "softmax": lambda: nn.Softmax(-1)}


@st.composite
def nets(draw: st.DrawFn, width: int = 4, depth: int = 0) -> nn.Module:
    """A net from `width` features to `width` features."""
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["linear", "wide", "pointwise", "norm", "branches", "residual", "heads"]))
        if kind == "linear":
            layers.append(nn.Linear(width, width, bias=draw(st.booleans())))
        elif kind == "wide":
            hidden = draw(st.sampled_from([4, 6]))
            layers += [nn.Linear(width, hidden), POINTWISE[draw(st.sampled_from(list(POINTWISE)))]()]
            if draw(st.booleans()):
                layers.append(Reshaped(draw(st.sampled_from(["softmax", "gram", "transposed", "halves"])), 2))
            layers.append(nn.Linear(hidden, width))
        elif kind == "pointwise":
            layers.append(POINTWISE[draw(st.sampled_from(list(POINTWISE)))]())
        elif kind == "norm":
            layers.append(draw(st.sampled_from([nn.LayerNorm(width), nn.RMSNorm(width, 1e-5), nn.BatchNorm1d(width),
                                                nn.GroupNorm(2, width)])))  # fmt: skip
        elif kind == "heads":
            layers.append(Reshaped(draw(st.sampled_from(["softmax", "gram", "transposed", "cumulative", "halves"])), 2))
        elif depth < 2:
            inner = draw(nets(width, depth + 1))
            if kind == "residual":
                layers.append(a.Sum(inner))
                continue
            other = draw(st.sampled_from([inner, draw(nets(width, depth + 1))]))  # sometimes the same net twice
            how = draw(st.sampled_from(["sum", "product", "cat"]))
            layers.append(Branches(how, inner, other))
            if how == "cat":
                layers.append(nn.Linear(2 * width, width))
    return nn.Sequential(*layers)


def shared_branches() -> nn.Module:
    """One net as both branches: its tensors have two names each."""
    inner = nn.Sequential(nn.LayerNorm(4), Reshaped("gram", 2))
    return nn.Sequential(nn.BatchNorm1d(4), Branches("sum", inner, inner))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(nets(), SEEDS)
@example(shared_branches(), 150)
def test_the_group_of_any_net_of_the_grammar_is_sound(body: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), body, nn.Linear(4, 2))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    inputs = (torch.randn(3, 3),)
    verdict = verify(permutation_group(trace(module, inputs)), module, inputs)
    assert verdict.passed, f"{verdict.sentence} in {module}"


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(nets(), SEEDS)
def test_the_group_of_many_nets_of_the_grammar_is_sound(body: nn.Module, seed: int) -> None:
    test_the_group_of_any_net_of_the_grammar_is_sound.hypothesis.inner_test(body, seed)  # type: ignore[attr-defined]
