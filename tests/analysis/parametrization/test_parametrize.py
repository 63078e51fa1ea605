"""Roles from the program, base shapes, exactness of folded multipliers, state dicts, depth, and the exact limit."""

import copy
import io
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

from analysis.parametrization.abc_parametrization import Parametrization, parametrize
from analysis.parametrization.branches import residual_branches, scalable_branches
from analysis.parametrization.linear_limit import limit_outputs
from analysis.parametrization.schemes import scheme
from analysis.parametrization.widening import widening
from analysis.parametrization.widths import base_tensors, root_mean_square, widths_of
from graphs.program import Program, trace
from modelzoo.errors import UserError
from modelzoo.families.attention.causal_lm import CausalLM, CausalLMConfig
from modelzoo.family import family
from modelzoo.task import task


def mlp(width: int, seed: int = 0, bias: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, width, bias=bias), nn.Tanh(), nn.Linear(width, width, bias=bias), nn.Tanh(), nn.Linear(width, 3, bias=bias)
    )  # fmt: skip


X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randn(16, 3, generator=torch.Generator().manual_seed(2))


def roles(
    module: nn.Module, *inputs: Tensor, base: nn.Module | None = None, program: Program | None = None
) -> dict[str, str]:
    found = widths_of(program or trace(module, inputs), base and base_tensors(base))
    return {name: tensor.role for tensor in found for name in tensor.names}


def test_roles_from_labels_are_roles_from_two_widths() -> None:
    program = trace(mlp(8), (X,))
    by_labels = roles(mlp(8), X, program=program)
    assert by_labels == roles(mlp(8), X, base=mlp(4), program=program)
    assert by_labels == {
        "0.weight": "input", "0.bias": "input", "2.weight": "hidden", "2.bias": "input", "4.weight": "output",
        "4.bias": "finite",
    }  # fmt: skip
    assert set(roles(mlp(8), X, base=mlp(8), program=program).values()) == {"finite"}, "control: nothing grows"


@pytest.mark.parametrize("name", ["transformer", "depthwise_cnn"])
def test_roles_of_families(name: str) -> None:
    found, chosen = family(name), task(family(name).task)
    wide = {"depthwise_cnn": ["channels"], "transformer": ["width", "heads", "hidden"]}[name]
    fields = found.configure(chosen, found.tiny).model_dump()
    double = {key: [2 * v for v in fields[key]] if isinstance(fields[key], tuple) else 2 * fields[key] for key in wide}
    base = found.build(found.configure(chosen, found.tiny), 0)
    module = found.build(found.configure(chosen, {**found.tiny, **double}), 0)
    inputs = chosen.example_inputs()
    by_labels, by_base = roles(base, *inputs), roles(module, *inputs, base=base)
    assert by_labels == by_base
    assert {"input", "hidden", "output"} <= set(by_base.values())


def test_the_widths_of_a_family_are_found() -> None:
    assert widening("mlp").widths == ("hidden",)
    with pytest.raises(UserError, match="fitted in one shot"):
        widening("dense_hebbian")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [("transformer", {"width", "hidden", "heads"}), ("resnet", {"channels"}), ("lru", {"width", "state"}),
     ("causal_lm", {"width", "hidden", "heads", "key_value_heads"}), ("bilinear_mlp", {"width"})],
)  # fmt: skip
def test_the_widths_of_families_are_found(name: str, fields: set[str]) -> None:
    """Heads are multiplied so that their size stays."""
    assert set(widening(name).widths) == fields


def test_keys_and_values_of_one_head_that_more_queries_share_are_output_tensors() -> None:
    """They sum over all of the stream and produce as many features at every width; grouped ones grow with their groups."""

    def model(width: int, heads: int, groups: int) -> nn.Module:
        sizes = {"vocabulary": 7, "length": 4, "hidden": 8, "layers": 1}
        return CausalLM(CausalLMConfig(width=width, heads=heads, key_value_heads=groups, **sizes))

    tokens = torch.randint(0, 7, (2, 4))
    for groups, expected in (((1, 1), "output"), ((2, 4), "hidden")):
        found = roles(model(16, 4, groups[1]), tokens, base=model(8, 2, groups[0]))
        own = {name.split(".")[-2]: role for name, role in found.items() if "attention." in name}
        assert own == {"query": "hidden", "key": expected, "value": expected, "output": "hidden"}


class ConvolutionOutput(nn.Module):
    """A network whose output layer is a convolution: a tensor that the `mup` package has no class for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, width, 3), nn.Conv2d(width, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu()).mean((2, 3))


def test_a_convolution_may_be_the_output() -> None:
    x = torch.randn(2, 1, 6, 6)
    made = parametrize(ConvolutionOutput(32), (x,), scheme("mup"), ConvolutionOutput(8))
    assert {rule.tensor.names[0]: (rule.tensor.role, rule.rate) for rule in made.rules}["head.weight"] == (
        "output",
        0.25,
    )
    assert torch.allclose(
        made.module.head.weight.square().mean().sqrt(), ConvolutionOutput(8).head.weight.square().mean().sqrt() / 4, rtol=0.1
    )  # type: ignore[union-attr]  # fmt: skip


def test_at_the_width_of_the_base_nothing_changes() -> None:
    torch.manual_seed(0)
    module = mlp(8)
    made = parametrize(module, (X,), scheme("mup"), module)
    for name, tensor in module.named_parameters():
        torch.testing.assert_close(made.module.get_parameter(name), tensor)
    assert [group["lr"] for group in made.groups(0.1)] == [0.1]


def run(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> Tensor:
    for _ in range(steps):
        optimizer.zero_grad()
        (module(X) - Y).square().mean().backward()
        optimizer.step()
    return module(X).detach()


class Multiplied(nn.Module):
    """W = n^{-a} w, written out."""

    def __init__(self, module: nn.Module, factors: dict[str, float]) -> None:
        super().__init__()
        self.inner, self.factors = module, factors

    def forward(self, x: Tensor) -> Tensor:
        scaled = {name: tensor * self.factors[name] for name, tensor in self.inner.named_parameters()}
        return torch.func.functional_call(self.inner, scaled, (x,))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["standard", "ntp", "mup"])
def test_folding_the_multiplier_is_exact(name: str, optimizer: str) -> None:
    """Training W with folded exponents is training w with multiplier, initialisation and rate as in the definition."""
    chosen = scheme(name, optimizer).shift(0.5)
    module = mlp(12).double()
    data = globals()["X"].double(), globals()["Y"].double()
    made = parametrize(module, data[:1], chosen, mlp(4).double())
    plain = copy.deepcopy(made.module)
    factors, groups = {}, []
    for rule in made.rules:
        (tensor,), e = rule.tensor.names, chosen[rule.tensor.role]
        factors[tensor] = rule.tensor.n**-e.a
        with torch.no_grad():
            plain.get_parameter(tensor).div_(factors[tensor])
        groups.append({"params": [plain.get_parameter(tensor)], "lr": 0.05 * rule.tensor.n**-e.c})
    written = Multiplied(plain, factors)
    if optimizer == "sgd":
        both = made.optimizer(0.05, momentum=0.9), torch.optim.SGD(groups, momentum=0.9)
    else:
        both = torch.optim.AdamW(made.groups(0.05, epsilon=0)), torch.optim.AdamW(groups, eps=0, weight_decay=0)
    before = made.module(data[0]).detach()
    for model, opt in zip((made.module, written), both, strict=True):
        for _ in range(5):
            opt.zero_grad()
            (model(data[0]) - data[1]).square().mean().backward()
            opt.step()
    torch.testing.assert_close(made.module(data[0]), written(data[0]), rtol=1e-8, atol=1e-8)
    assert (made.module(data[0]) - before).abs().max() > 1e-3, "control: it has moved"


def test_training_goes_on_from_a_saved_state_dict() -> None:
    """Everything that a run needs is in plain state dicts; the parametrization is derived from the module again."""

    def make(seed: int) -> tuple[Parametrization, torch.optim.Optimizer]:
        made = parametrize(mlp(16, seed), (X,), scheme("mup"), base_tensors(mlp(4)))
        return made, made.optimizer(0.02, weight_decay=0.01)

    first, optimizer = make(0)
    run(first.module, optimizer)
    file = io.BytesIO()
    torch.save({"module": first.module.state_dict(), "optimizer": optimizer.state_dict()}, file)
    through = run(first.module, optimizer)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second, other = make(7)
    assert saved["module"].keys() == mlp(16).state_dict().keys()
    second.module.load_state_dict(saved["module"])
    other.load_state_dict(saved["optimizer"])
    assert torch.equal(run(second.module, other), through)


def test_epsilon_means_the_same_at_every_width() -> None:
    """Adam's ε goes with the gradient: relative to it, hidden layers see the same ε at widths 8 and 512."""
    ratios = {}
    for width in (8, 512):
        made = parametrize(mlp(width), (X,), scheme("mup"), base_tensors(mlp(8)))
        (made.module(X) - Y).square().mean().backward()
        for group in made.groups(0.1, epsilon=1.0):
            for name, parameter in zip(group["names"], group["params"], strict=True):
                ratios[width, name] = float(parameter.grad.abs().mean()) / group["eps"]
    for name in ("0.weight", "2.weight", "4.weight"):
        assert 0.5 < ratios[8, name] / ratios[512, name] < 2


def test_base_shapes_that_do_not_fit_are_named() -> None:
    base = base_tensors(mlp(4))
    with pytest.raises(UserError, match=r"no tensor '2.weight'.*same depth"):
        parametrize(mlp(8), (X,), scheme("mup"), {name: base[name] for name in base if name != "2.weight"})
    flat = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UserError, match="has shape"):
        parametrize(flat, (X,), scheme("mup"), base_tensors(nn.Sequential(nn.Flatten(), nn.Conv1d(6, 4, 1), nn.ReLU(), nn.Linear(4, 3))))  # fmt: skip


class Tied(nn.Module):
    """A language model whose embedding is its output layer, with or without a normalization in front of it."""

    def __init__(self, width: int, normalize: bool = True) -> None:
        super().__init__()
        self.embed, self.hidden = nn.Embedding(7, width), nn.Linear(width, width)
        self.norm = nn.RMSNorm(width) if normalize else nn.Tanh()

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.linear(self.norm(self.hidden(self.embed(tokens))), self.embed.weight)


TOKENS = torch.zeros(1, 4, dtype=torch.long)


def test_tied_embeddings_carry_their_multiplier_in_the_gain() -> None:
    """The embedding trains as an input tensor; at four times the width the gain in front of the output is a quarter."""
    for optimizer, rates in (("adam", {"embed.weight": 1, "norm.weight": 1 / 4}), ("sgd", {"embed.weight": 4, "norm.weight": 4 / 16})):  # fmt: skip
        made = parametrize(Tied(32), (TOKENS,), scheme("mup", optimizer), Tied(8))
        found = {rule.tensor.names[0]: rule for rule in made.rules}
        assert found["embed.weight"].tensor.role == "input"
        assert {name: found[name].rate for name in rates} == pytest.approx(rates)
        torch.testing.assert_close(made.module.get_parameter("norm.weight"), torch.full((32,), 0.25))
        untouched = parametrize(Tied(8), (TOKENS,), scheme("mup", optimizer), Tied(8))
        assert {rule.rate for rule in untouched.rules} == {1}, "control: at base width nothing changes"


def test_what_a_scheme_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"'embed\.weight' is tied"):
        parametrize(Tied(8, False), (TOKENS,), scheme("mup"), Tied(4, False))
    with pytest.raises(UserError, match="one hidden layer"):
        parametrize(mlp(8), (X,), scheme("mean_field"))
    tokens = torch.randn(2, 3, 6)
    with pytest.raises(UserError, match="sum over 8 entries in the base and 16 here"):
        parametrize(Scores(16), (tokens,), scheme("mup"), Scores(8))
    parametrize(Scores(16), (tokens,), scheme("ntp"), Scores(8))  # makes no claim on trained scores


class Scores(nn.Module):
    """One head of attention, whose size grows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.head = nn.Linear(6, width), nn.Linear(6, width), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / self.query.out_features**0.5
        return self.head(scores.softmax(-1) @ x)


class Residual(nn.Module):
    """x ← x + MS(relu(W x)), read out linearly (S071); or with tanh, whose scale no weight sets."""

    def __init__(self, depth: int, width: int, homogeneous: bool = True) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, width), nn.Linear(width, 3)
        self.blocks = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.activation = torch.relu if homogeneous else torch.tanh

    def states(self, x: Tensor) -> list[Tensor]:
        found = [self.embed(x)]
        for block in self.blocks:
            moved = self.activation(block(found[-1]))
            found.append(found[-1] + moved - moved.mean(-1, keepdim=True))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.states(x)[-1])


def test_residual_branches_are_found() -> None:
    found = residual_branches(trace(Residual(3, 8), (X,)))
    assert [sorted(branch.last or ()) for branch in found] == [[f"blocks.{k}.weight"] for k in range(3)]
    encoder = family("transformer")
    module = encoder.build(encoder.configure(task("digits_sequence"), encoder.tiny), 0)
    branches = residual_branches(trace(module, task("digits_sequence").example_inputs()))
    assert [sorted(branch.last or ()) for branch in branches] == [
        [f"layers.{k}.{part}.bias", f"layers.{k}.{part}.weight"] for k in (0,) for part in ("attention.output", "feedforward.2")
    ]  # fmt: skip
    assert "layers.0.attention_norm.weight" in branches[0].inner
    assert residual_branches(trace(mlp(8), (X,))) == ()
    with pytest.raises(UserError, match=r"ends in 'aten\.\w+', whose result no tensor scales"):
        scalable_branches(trace(Residual(2, 8, homogeneous=False), (X,)))


DEPTHS = (4, 24)
programs = cache(lambda depth: trace(Residual(depth, 64), (X,)))


def slopes_in_depth(name: str) -> tuple[float, float]:
    """Slopes in depth of |x_L| at initialisation, and of the first Adam step's change of x_L (mean of three seeds)."""
    sizes = []
    for depth in DEPTHS:
        pairs = []
        for seed in range(3):
            torch.manual_seed(seed)
            made = parametrize(Residual(depth, 64), (X,), scheme(name), program=programs(depth))
            start = made.module.states(X)[-1].detach()  # type: ignore[operator]
            run(made.module, made.optimizer(1e-3), steps=1)
            pairs.append((root_mean_square(start), root_mean_square(made.module.states(X)[-1] - start)))  # type: ignore[operator]
        sizes.append(torch.tensor(pairs).mean(0))
    logs, xs = torch.stack(sizes).log(), torch.tensor(DEPTHS).log()
    xs = xs - xs.mean()
    start, change = ((xs @ (logs - logs.mean(0))) / xs.square().sum()).tolist()
    return start, change


def test_depth_mup_is_flat_in_depth() -> None:
    start, change = slopes_in_depth("depth_mup")
    plain = slopes_in_depth("mup")
    print("depth_mup", start, change, "mup", plain)
    assert abs(start) < 0.15
    assert abs(change) < 0.2
    assert min(plain) > 0.3, "control: without depth scaling both grow"


def test_wide_linear_networks_follow_the_exact_limit() -> None:
    """SGD in mean field = μP of a network with one hidden layer; the distance to the limit falls like n^{-1/2}."""
    targets = Y[:, :1].double()
    x = X.double() / 2
    limit = limit_outputs(x, targets[:, 0], 8, 0.3)
    distances = []
    for width in (128, 2048):
        program, gaps = trace(nn.Sequential(nn.Linear(6, width, bias=False), nn.Linear(width, 1, bias=False)), (X,)), []
        for seed in range(4):
            torch.manual_seed(seed)
            module = nn.Sequential(nn.Linear(6, width, bias=False), nn.Linear(width, 1, bias=False)).double()
            for parameter in module.parameters():
                nn.init.normal_(parameter)
            made = parametrize(module, (x,), scheme("mean_field", "sgd"), gain=6**0.5, program=program)
            with torch.no_grad():
                made.module[1].weight.mul_(6**-0.5)  # type: ignore[index]  # N(0, 1) in both layers at n = 1
            optimizer = made.optimizer(0.3)
            outputs = [made.module(x)[:, 0].detach()]
            for _ in range(8):
                optimizer.zero_grad()
                ((made.module(x) - targets).square().mean() / 2).backward()
                optimizer.step()
                outputs.append(made.module(x)[:, 0].detach())
            gaps.append(float((torch.stack(outputs) - limit).square().mean().sqrt()))
        distances.append(sum(gaps) / len(gaps))
    print("distances to the limit", distances)
    assert limit[-1].square().mean() > 0.01, "control: the limit learns"
    assert distances[1] < 0.4 * distances[0]
    wrong = limit_outputs(x, targets[:, 0], 8, 0.6)
    assert (wrong - limit).square().mean().sqrt() > 3 * distances[1], "control: another rate is another limit"


make_mlp = partial(mlp, bias=False)


def test_absolute_widths_are_the_theorists_definition() -> None:
    """Without a base n is the width: entries of standard deviation n^{-(a+b)} / √(finite fan-in)."""
    made = parametrize(make_mlp(64), (X,), scheme("mup"))
    scales = {rule.tensor.names[0]: (rule.tensor.n, rule.deviation, rule.rate) for rule in made.rules}
    assert scales == {
        "0.weight": (64, pytest.approx(6**-0.5), 1), "2.weight": (64, pytest.approx(1 / 8), 1 / 64),
        "4.weight": (64, pytest.approx(1 / 64), 1 / 64),
    }  # fmt: skip
    measured = float(made.module.get_parameter("2.weight").detach().square().mean().sqrt())
    assert measured == pytest.approx(1 / 8)
    frame = made.to_frame()
    assert list(frame["role"]) == ["input", "hidden", "output"]
    assert "learns features" in made.sentence
