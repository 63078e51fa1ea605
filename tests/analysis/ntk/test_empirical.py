"""The empirical kernel against dense Jacobians: on every family, in every form, with every method, tile by tile."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from analysis.ntk.empirical import EmpiricalKernel, empirical_kernel
from analysis.ntk.operator import TangentKernelOperator
from analysis.ntk.remainder import complex_names, restored, without_complex
from graphs.verify import double_precision
from modelzoo.errors import UserError
from modelzoo.family import families, family
from modelzoo.task import task, tasks

EXACT = 1e-10


def dense_jacobian(module: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[int] | None = None) -> Tensor:
    """`[N, O, P]` by differentiating everything at once."""
    given = {name: p.detach() for name, p in module.named_parameters()}
    complexes = complex_names(given)

    def function(parameters: dict[str, Tensor]) -> Tensor:
        result = functional_call(module, restored(parameters, complexes), tuple(inputs)).flatten(1)
        return result if outputs is None else result[:, list(outputs)]

    found = jacrev(function)(without_complex(given))
    return torch.cat([part.flatten(2) for part in found.values()], 2)


def dense_kernel(left: Tensor, right: Tensor | None = None) -> Tensor:
    return torch.einsum("nop,mqp->nmoq", left, left if right is None else right)


def in_form(full: Tensor, form: str) -> Tensor:
    diagonal = full.diagonal(dim1=2, dim2=3)
    return {"full": full, "diagonal": diagonal, "trace": diagonal.sum(-1), "pseudo": full.sum((2, 3))}[form]


def error(ours: Tensor, truth: Tensor) -> float:
    assert ours.shape == truth.shape
    return float((ours - truth).abs().max() / truth.abs().max())


def real(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [x.double() if x.is_floating_point() else x for x in inputs]


@pytest.fixture(scope="module", autouse=True)
def _tasks_are_loaded_in_single_precision() -> None:
    for found in families().values():
        task(found.task).data()
    assert tasks()


@pytest.mark.parametrize("name", list(families()))
def test_every_family_equals_its_dense_jacobian(name: str) -> None:
    found = family(name)
    chosen = task(found.task)
    config = found.configure(chosen, found.tiny)
    if hasattr(config, "temperature"):  # at its own, outputs are saturated and their gradients exactly zero
        config = config.model_copy(update={"temperature": 0.3, "interaction": 2})
    built = found.build(config, seed=0)
    if found.fit:
        found.fit(built, chosen.data(), 0)
    with double_precision(built) as module, torch.enable_grad():
        inputs = real(chosen.example_inputs(3))
        count = module(*inputs)[0].numel()
        outputs = None if count <= 12 else [0, count // 3, count - 1]
        truth = dense_kernel(dense_jacobian(module, inputs, outputs))
        assert truth.abs().max() > 0
        ours = empirical_kernel(module, inputs, outputs=outputs)
        assert error(ours.values, truth) < EXACT
        assert not ours.one_by_one
        pseudo = empirical_kernel(module, inputs, form="pseudo", outputs=outputs)
        assert error(pseudo.values, in_form(truth, "pseudo")) < EXACT
        part = [share for share in ours.shares if share.method != "vjp"][:1]
        if part:  # control: without one layer it is another kernel
            rest = [n for n, _ in module.named_parameters() if n not in part[0].layer.parameters]
            if rest:
                less = empirical_kernel(module, inputs, outputs=outputs, parameters=rest)
                assert error(less.values, truth) > 1e-6


class Everything(nn.Module):
    """Grouped, strided and one-dimensional convolutions, norms, a padded embedding, tied and repeated weights, other axes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6, padding_idx=2)
        self.conv = nn.Conv1d(6, 8, 3, stride=2, padding=1, dilation=2, groups=2)
        self.norm = nn.GroupNorm(2, 8)
        self.plain = nn.Conv2d(1, 2, (2, 3), padding=(1, 0), padding_mode="circular")
        self.batch = nn.BatchNorm1d(8)
        self.shared = nn.Linear(8, 8)
        self.layer = nn.LayerNorm(8)
        self.relu = nn.ReLU(inplace=True)
        self.mixer = nn.Linear(8, 6, bias=False)
        self.shift = nn.Parameter(torch.randn(8))
        with torch.no_grad():
            self.batch.running_mean.normal_()  # type: ignore[union-attr]
            self.batch.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]

    def forward(self, words: Tensor) -> Tensor:
        h = self.embed(words).mT  # [B, 6, T]
        h = self.batch(self.norm(self.conv(h)))  # [B, 8, T']
        h = h + self.plain(h[:, None]).mean((1, 3))[:, :8, None]
        h = h.permute(2, 0, 1)  # time before samples
        for _ in range(3):
            h = self.layer(h + self.relu(self.shared(h)))
        flat = self.shared((h * self.shift).flatten(0, 1)).unflatten(0, h.shape[:2])  # samples inside a merged axis
        return nn.functional.linear(self.mixer(flat.mean(0)), self.embed.weight)


def everything() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Everything().double().eval(), torch.randint(0, 7, (5, 9))


@pytest.mark.parametrize("form", ["full", "diagonal", "trace", "pseudo"])
@pytest.mark.parametrize("method", [None, "jacobian", "ghost", "hadamard"])
def test_forms_methods_and_two_sets(form: Any, method: str | None) -> None:
    module, words = everything()
    left, right = dense_jacobian(module, [words]), dense_jacobian(module, [words[:2].flip(1)])
    ours = empirical_kernel(module, words, form=form, method=method)
    assert error(ours.values, in_form(dense_kernel(left), form)) < EXACT
    ours = empirical_kernel(module, words, words[:2].flip(1), form=form, method=method)
    assert error(ours.values, in_form(dense_kernel(left, right), form)) < EXACT
    some = empirical_kernel(module, words, form=form, method=method, outputs=[4, 1])
    assert error(some.values, in_form(dense_kernel(left[:, [4, 1]]), form)) < EXACT


def test_layers_are_found_wherever_their_samples_are() -> None:
    module, words = everything()
    found = empirical_kernel(module, words)
    methods = {name: share.method for share in found.shares for name in share.layer.parameters}
    assert set(methods) == set(dict(module.named_parameters()))
    assert methods["shift"] == "vjp", "a bare product has no rule"
    # used time first and, merged, last: the second has its samples inside an axis and is left to differentiation
    assert methods["shared.weight"] == "vjp"
    assert methods["embed.weight"] == "jacobian", "an embedding that is also the head"
    assert found.shares[0].costs.work


def perceptron() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)).double(), torch.randn(9, 5, dtype=torch.float64)  # fmt: skip


@pytest.mark.parametrize("form", ["full", "diagonal", "trace", "pseudo"])
@pytest.mark.parametrize("method", ["jacobian", "ghost"])
def test_many_samples_are_multiplied_in_blocks(form: Any, method: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 2)).double()  # fmt: skip
    x = torch.randn(71, 1, 4, 4, dtype=torch.float64)
    ours = empirical_kernel(module, x, form=form, method=method)
    assert error(ours.values, in_form(dense_kernel(dense_jacobian(module, [x])), form)) < EXACT


@pytest.mark.parametrize("form", ["full", "diagonal", "trace", "pseudo"])
def test_tiles_under_a_cap_change_nothing(form: Any) -> None:
    module, x = perceptron()
    whole = empirical_kernel(module, x, form=form)
    assert whole.tile == 9
    for others in (None, x[:4]):
        whole = empirical_kernel(module, x, others, form=form)
        tiled = empirical_kernel(module, x, others, form=form, max_memory=4000)
        assert tiled.tile < 4
        assert error(tiled.values, whole.values) < 1e-14
    with pytest.raises(UserError, match=r"two samples need about .* raise it"):
        empirical_kernel(module, x, form=form, max_memory=100)


def test_coupled_samples_are_tiled_by_outputs() -> None:
    found = family("gcn")
    chosen = task(found.task)
    module = found.build(found.configure(chosen, found.tiny), seed=0)
    inputs = chosen.example_inputs()
    whole = empirical_kernel(module, inputs)
    assert not whole.samplewise
    assert len(whole.values) == len(inputs[0]), "nodes are the samples"
    tiled = empirical_kernel(module, inputs, max_memory=300_000)
    assert tiled.tile < len(inputs[0])
    torch.testing.assert_close(tiled.values, whole.values)
    assert empirical_kernel(module, inputs, inputs, form="trace").values.shape == (len(inputs[0]),) * 2


def test_reductions_state_what_they_are() -> None:
    module, x = perceptron()
    for form in ("trace", "pseudo"):
        total, mean = (empirical_kernel(module, x, form=form, reduction=r) for r in ("sum", "mean"))  # type: ignore[arg-type]
        torch.testing.assert_close(total.values, 3 * mean.values)
    full = empirical_kernel(module, x)
    assert full.matrix().shape == (27, 27)
    assert torch.equal(full.matrix()[3:6, 6:9], full.values[1, 2])
    values = torch.linalg.eigvalsh(full.matrix())
    assert values[0] > -1e-10, "positive semi-definite"


def test_modules_that_cannot_be_mapped_go_sample_by_sample_and_say_so() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.randn(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([row * self.scale if row.sum().item() > 0 else row + self.scale for row in x])

    torch.manual_seed(0)
    module, x = Branch(), torch.randn(4, 3, dtype=torch.float64)
    found = empirical_kernel(module, x)
    assert "item" in found.one_by_one
    assert error(found.values, dense_kernel(dense_jacobian(module, [x]))) < EXACT


def test_training_mode_and_gradients_are_left_alone() -> None:
    module, words = everything()
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    evaluated = empirical_kernel(module, words).values
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert not evaluated.requires_grad
    with torch.no_grad():
        assert torch.equal(empirical_kernel(module, words).values, evaluated), "under no_grad too"


@pytest.mark.parametrize("name", ["everything", "lru"])
def test_the_operator_equals_the_matrix(name: str) -> None:
    if name == "everything":
        module, words = everything()
        left, right = (words,), (words[:2].flip(1),)
    else:
        found = family(name)
        chosen = task(found.task)
        with double_precision(found.build(found.configure(chosen, found.tiny), seed=0)) as copied:
            module = copied
        left = tuple(real(chosen.example_inputs(4)))
        right = tuple(x[2:] for x in left)
    matrix = empirical_kernel(module, left, right).matrix().numpy()
    generator = np.random.default_rng(0)
    for batch in (None, 2):
        operator = TangentKernelOperator(module, left, right, batch=batch)
        assert operator.shape == matrix.shape
        v, u = (generator.normal(size=size) for size in reversed(matrix.shape))
        np.testing.assert_allclose(operator @ v, matrix @ v, rtol=1e-9, atol=1e-9 * np.abs(matrix).max())
        np.testing.assert_allclose(operator.T @ u, matrix.T @ u, rtol=1e-9, atol=1e-9 * np.abs(matrix).max())
    own = TangentKernelOperator(module, left)
    top = eigsh(own, k=1, return_eigenvectors=False, v0=np.ones(own.shape[0]))[0]
    values = torch.linalg.eigvalsh(empirical_kernel(module, left).matrix())
    assert top == pytest.approx(float(values[-1]), rel=1e-9)


def test_refusals() -> None:
    module, x = perceptron()
    with pytest.raises(UserError, match=r"unknown parameter '0\.weigth'; did you mean '0\.weight'"):
        empirical_kernel(module, x, parameters=["0.weigth"])
    with pytest.raises(UserError, match="output 3 is not there; a sample has outputs 0 to 2"):
        empirical_kernel(module, x, outputs=[3])
    with pytest.raises(UserError, match="no parameter that requires a gradient"):
        empirical_kernel(nn.Identity(), x)
    with pytest.raises(UserError, match=r"output is torch\.complex128"):
        empirical_kernel(nn.Linear(5, 2, dtype=torch.complex128), x.to(torch.complex128))
    diagonal: EmpiricalKernel = empirical_kernel(module, x, form="diagonal")
    with pytest.raises(UserError, match="a matrix for every output"):
        diagonal.matrix()


PACKED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "LSTM": ((4, 3), {"num_layers": 2, "bidirectional": True}),
    "GRU": ((4, 4), {"bias": False}),
    "RNN": ((4, 4), {}),
    "MultiheadAttention": ((4, 2), {}),
    "TransformerEncoderLayer": ((4, 2, 8, 0.0), {}),
}


class Packed(nn.Module):
    """A module that torch computes in one opaque call, and a head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        sizes, options = PACKED[kind]
        self.inner = getattr(nn, kind)(*sizes, batch_first=True, **options)
        self.head = nn.LazyLinear(2)
        self.attends = kind == "MultiheadAttention"

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        h = self.inner(x, x, x, attn_mask=mask) if self.attends else self.inner(x)
        return self.head((h[0] if isinstance(h, tuple) else h).mean(1))


@pytest.mark.parametrize("kind", PACKED)
def test_the_packed_modules_of_torch(kind: str) -> None:
    """What torch computes in one opaque call is written out, and every matrix gets its product."""
    torch.manual_seed(0)
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    module = Packed(kind).double().eval()
    module(x)
    found = empirical_kernel(module, x)
    assert error(found.values, dense_kernel(dense_jacobian(module, [x]))) < EXACT
    assert "vjp" not in {share.method for share in found.shares}
    v = np.ones(10)
    np.testing.assert_allclose(TangentKernelOperator(module, x) @ v, found.matrix().numpy() @ v, rtol=1e-9)


class Cross(nn.Module):
    """Attention of four vectors to three of another size, which are themselves keys or keys and values."""

    def __init__(self, sizes: dict[str, int], bias: bool) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, bias=bias, batch_first=True, **sizes)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return self.head(self.inner(x, keys, values)[0].mean(1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", ["memory", "three inputs", "other sizes"])
def test_attention_between_two_inputs(case: str, bias: bool) -> None:
    """Packed projections of two or three inputs, and separate ones: no matrix and no bias is left to differentiation."""
    torch.manual_seed(0)
    sizes = {"kdim": 5, "vdim": 3} if case == "other sizes" else {}
    module = Cross(sizes, bias).double().eval()
    for parameter in module.parameters():
        parameter.data.normal_()
    x, keys = torch.randn(5, 4, 4), torch.randn(5, 3, sizes.get("kdim", 4))
    x, keys = x.double(), keys.double()
    inputs = [x, keys, keys if case == "memory" else torch.randn(5, 3, sizes.get("vdim", 4)).double()]
    found = empirical_kernel(module, inputs)
    assert error(found.values, dense_kernel(dense_jacobian(module, inputs))) < EXACT
    assert "vjp" not in {share.method for share in found.shares}
    assert {name for share in found.shares for name in share.layer.parameters} == set(dict(module.named_parameters()))


def test_attention_with_a_mask_by_sample_is_differentiated() -> None:
    class Masked(Cross):
        def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return self.head(self.inner(x, keys, values, key_padding_mask=keys[..., 0] > 0.5)[0].mean(1))

    torch.manual_seed(0)
    module, inputs = Masked({}, True).double().eval(), [torch.randn(4, 3, 4, dtype=torch.float64) for _ in range(3)]
    found = empirical_kernel(module, inputs)
    assert error(found.values, dense_kernel(dense_jacobian(module, inputs))) < EXACT
    assert {share.method for share in found.shares} >= {"vjp", "hadamard"}


@pytest.mark.parametrize("method", ["ghost", "jacobian"])
@pytest.mark.parametrize("space", [1, 2, 3])
def test_convolutions_of_every_kind(space: int, method: str) -> None:
    """Plain and transposed, with strides, gaps, margins and groups."""
    torch.manual_seed(space)
    plain, back = getattr(nn, f"Conv{space}d"), getattr(nn, f"ConvTranspose{space}d")
    module = nn.Sequential(
        plain(2, 4, 3, stride=2, padding=1), nn.Tanh(), back(4, 2, 2, stride=2, output_padding=1), nn.Tanh(),
        back(2, 4, 3, padding=2, dilation=1, groups=2), nn.Tanh(), back(4, 1, 1, padding=1), nn.Flatten(),
    ).double()  # fmt: skip
    x = torch.randn(3, 2, *(5, 4, 4)[:space], dtype=torch.float64)
    found = empirical_kernel(module, x, method=method)
    assert error(found.values, dense_kernel(dense_jacobian(module, [x]))) < EXACT
    assert {share.method for share in found.shares} <= {"ghost", "jacobian", "hadamard"}
