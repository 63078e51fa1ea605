"""Every operation of the registry: its paths agree, its derivatives are right, and the tools of torch see one operation."""

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from modelzoo.errors import UserError
from modelzoo.kernels.registry import (
    BACKENDS,
    VARIABLE,
    Op,
    choose,
    implementation,
    missing,
    module,
    ops,
    paths,
    register,
)
from tests.modelzoo.kernels.checks import INTERPRETED, TOLERANCE, difference, doubled, floating, results

OPS = list(ops().values())
CASES = [pytest.param(op, i, id=f"{op.name}-{i}") for op in OPS for i in range(len(op.examples(torch.float32, 0)))]
CPU = torch.device("cpu")


@pytest.fixture
def _filled_with_nan() -> Iterator[None]:
    """Memory that a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("op", "example"), CASES)
@pytest.mark.usefixtures("_filled_with_nan")
def test_the_compiled_path_agrees(op: Op, example: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if "compiled" not in op.backends:
        pytest.skip("no compiled path")
    for dtype in (torch.float32, torch.float64):
        arguments = op.examples(dtype, 0)[example]
        if dtype not in getattr(module(op.package, "compiled"), "DTYPES", (torch.float32, torch.float64)):
            with pytest.raises(UserError, match="cannot take its compiled path: it is for float32;"):
                results(op, arguments, "compiled", monkeypatch)
            continue
        wanted, got = (results(op, arguments, backend, monkeypatch) for backend in ("reference", "compiled"))
        assert difference(got, wanted) < TOLERANCE[dtype]


@pytest.fixture
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps then fill several chunks and segments, and are interpreted sooner."""
    for op in OPS:
        for name, size in {"CHUNK": 4, "SEGMENT": 8}.items():
            if "triton" in op.backends and hasattr(module(op.package, "triton"), name):
                monkeypatch.setattr(module(op.package, "triton"), name, size)


@pytest.mark.parametrize(("op", "example"), CASES)
@pytest.mark.usefixtures("_filled_with_nan", "_small_tiles")
def test_triton_agrees_in_the_interpreter(op: Op, example: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if op.without_triton:
        pytest.skip(op.without_triton)
    assert os.environ["TRITON_INTERPRET"] == "1"
    for dtype in INTERPRETED:
        cases = op.examples(dtype, 0)
        if example < len(cases):
            wanted = results(op, doubled(cases[example]), "reference", monkeypatch)
            got = results(op, cases[example], "triton", monkeypatch)
            assert difference(got, wanted) < TOLERANCE[dtype]


@pytest.mark.parametrize(("op", "example"), CASES)
def test_derivatives_of_the_reference(op: Op, example: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (op.differentiable and op.exact):
        pytest.skip("not differentiable, or not meant to be exact")
    monkeypatch.setenv(VARIABLE, "reference")
    arguments = op.examples(torch.float64, 0)[example]
    leaves, spec = pytree.tree_flatten(arguments)
    moving = [leaf.clone().requires_grad_() for leaf in leaves if floating(leaf)]

    def function(*values: Tensor) -> Any:
        rest = iter(values)
        return op.function(*pytree.tree_unflatten([next(rest) if floating(leaf) else leaf for leaf in leaves], spec))

    assert torch.autograd.gradcheck(function, moving, fast_mode=True)


@pytest.mark.parametrize("op", [op for op in OPS if op.vmappable], ids=lambda op: op.name)
def test_vmap_is_a_loop(op: Op) -> None:
    batches = [op.examples(torch.float64, seed) for seed in range(3)]
    for cases in zip(*batches, strict=True):
        flat = [pytree.tree_flatten(case) for case in cases]
        leaves, spec = flat[0]
        stacked = [torch.stack([f[0][i] for f in flat]) if floating(x) else x for i, x in enumerate(leaves)]
        for shared in (None, next(i for i, leaf in enumerate(leaves) if floating(leaf))):
            values = [leaves[i] if i == shared else value for i, value in enumerate(stacked)]
            mapped = [i for i, leaf in enumerate(leaves) if floating(leaf) and i != shared]
            if not mapped:
                continue

            def call(*own: Tensor, values: Any = values, mapped: Any = mapped, spec: Any = spec) -> Any:
                filled = list(values)
                for i, value in zip(mapped, own, strict=True):
                    filled[i] = value
                return op.function(*pytree.tree_unflatten(filled, spec))

            got = torch.func.vmap(call)(*(values[i] for i in mapped))
            wanted = [call(*(values[i][m] for i in mapped)) for m in range(3)]
            wanted = pytree.tree_map(lambda *parts: torch.stack(parts), *wanted)
            pairs = zip(pytree.tree_leaves(got), pytree.tree_leaves(wanted), strict=True)
            assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in pairs)


class Wrapped(nn.Module):
    def __init__(self, op: Op, spec: Any, leaves: list[Any]) -> None:
        super().__init__()
        self.op, self.spec, self.leaves = op, spec, leaves

    def forward(self, *tensors: Tensor) -> Any:
        rest = iter(tensors)
        filled = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        return self.op.function(*pytree.tree_unflatten(filled, self.spec))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_export_sees_one_operation(op: Op) -> None:
    leaves, spec = pytree.tree_flatten(op.examples(torch.float32, 0)[0])
    tensors = tuple(leaf.clone() for leaf in leaves if isinstance(leaf, Tensor))
    program = torch.export.export(Wrapped(op, spec, leaves), tensors)
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert len([name for name in names if name.startswith("metazoo.")]) == op.seen
    assert any(name.startswith(f"metazoo.{op.name}_") for name in names)


def test_compile_sees_one_operation() -> None:
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    op = ops()["linear_scan"]
    decay, inputs, *_ = op.examples(torch.float64, 0)[0]
    compiled = torch.compile(op.function, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(decay, inputs), op.function(decay, inputs))
    assert len([name for name in seen if name.startswith("metazoo.linear_scan_")]) == 1


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_a_forced_path_is_the_one_that_runs(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable decides for every operation, or says that the path is not there."""

    class Found(Exception):
        """What would have run."""

    def found(*arguments: Any) -> Any:
        raise Found(implementation(*arguments).__module__)

    monkeypatch.setattr("modelzoo.kernels.registry.implementation", found)
    for backend in BACKENDS:
        monkeypatch.setenv(VARIABLE, backend)
        arguments = op.examples(torch.float32, 0)[0]
        if backend in op.backends:
            with pytest.raises(Found, match=re.escape(f"{op.package}.{backend}")):
                op.function(*arguments)
        else:
            with pytest.raises(UserError, match=f"'{op.name}' cannot take its {backend} path: it is not written"):
                op.function(*arguments)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_torch_finds_no_fault_in_the_operators(op: Op) -> None:
    """opcheck: schema, fake tensors, and autograd under tracing, for every part that one example calls."""
    arguments = op.examples(torch.float32, 0)[0]
    with Recorder() as recorder:
        own = pytree.tree_map(lambda leaf: leaf.clone().requires_grad_(op.differentiable) if floating(leaf) else leaf, arguments)  # fmt: skip
        outputs = [leaf for leaf in pytree.tree_leaves(op.function(*own)) if floating(leaf)]
        if op.differentiable:
            sum(output.sum() for output in outputs if output.requires_grad).backward()
    assert recorder.calls
    for call, (operator, given) in enumerate(recorder.calls.values()):
        if call == 0 and op.differentiable:
            given = pytree.tree_map(lambda leaf: leaf.requires_grad_() if floating(leaf) else leaf, given)
        torch.library.opcheck(operator, given)


class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """The first call of every operator of ours, with detached copies of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "metazoo":
            copies = pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, args)
            self.calls.setdefault(str(func), (func, copies))
        return func(*args, **(kwargs or {}))


def test_every_operation_documents_itself() -> None:
    assert OPS
    for op in OPS:
        assert "reference" in op.backends
        assert ("triton" in op.backends) != bool(op.without_triton)
        assert op.function.__doc__
        assert op.equation
        assert op.work.bytes > 0
        assert op.work.flops > 0


def test_the_choice_of_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "modelzoo.kernels.linear_scan"
    monkeypatch.delenv(VARIABLE, raising=False)
    assert choose(package, CPU, torch.float32) == "compiled"
    assert choose(package, torch.device("cuda"), torch.float32) == "triton"
    assert choose(package, torch.device("cuda"), torch.float64) == "reference", (
        "Triton is for half and single precision"
    )
    monkeypatch.setenv(VARIABLE, "reference")
    assert choose(package, torch.device("cuda"), torch.float32) == "reference"
    monkeypatch.setenv(VARIABLE, "fastest")
    with pytest.raises(UserError, match="METAZOO_BACKEND is 'fastest'; it must be one of reference, compiled, triton"):
        choose(package, CPU, torch.float32)


def test_a_forced_path_that_is_missing_raises_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "modelzoo.kernels.linear_scan"
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(UserError, match="'linear_scan' cannot take its triton path: the tensors are on the cpu"):
        ops()["linear_scan"].function(torch.ones(1), torch.ones(3, 1))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "triton" else object())
    assert "metazoo\\[gpu\\]".replace("\\", "") in missing(package, "triton", torch.device("cuda"), torch.float32)
    monkeypatch.setenv(VARIABLE, "compiled")
    with pytest.raises(UserError, match="it is for the CPU and the tensors are on the cuda"):
        choose(package, torch.device("cuda"), torch.float32)


def test_doctor_knows_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    rows = {name: chosen for name, chosen, _ in paths()}
    assert set(rows) == set(ops())
    assert set(rows.values()) <= set(BACKENDS)
    monkeypatch.setenv(VARIABLE, "triton")
    monkeypatch.delenv("TRITON_INTERPRET")
    if not torch.cuda.is_available():
        assert all(chosen.startswith("none: ") for _, chosen, _ in paths())


def test_registration_refuses_what_is_wrong() -> None:
    op = ops()["linear_scan"]
    with pytest.raises(ValueError, match="registered twice"):
        register(op)

    def elsewhere() -> None: ...

    with pytest.raises(ValueError, match="folder of its own name"):
        register(Op(elsewhere, "", op.examples, op.work))


def test_the_comparison_sees_differences() -> None:
    one, nan = torch.ones(3), torch.tensor([1.0, float("nan"), 1.0])
    assert difference([one], [one]) == 0
    assert difference([nan], [nan]) == 0
    assert difference([nan], [one]) == float("inf")
    assert difference([one], [torch.ones(4)]) == float("inf")
    for size in (1.0, 1e-18):
        assert difference([one * 1.01 * size], [one * size]) == pytest.approx(0.01, rel=1e-3)
