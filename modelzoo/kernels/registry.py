"""The registry of operations and the choice of the path each takes.

An operation is a public function made of *parts* (its forward and backward pass). A part is one `torch.library`
operator with rules for fake tensors and for vmap, so that vmap, autograd, torch.compile and torch.export see one
operation whichever path computes it. Paths are the modules `reference`, `compiled` and `triton` of the operation's
folder; each defines every part under the part's name.
"""

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from modelzoo.errors import UserError
from modelzoo.family import Paper
from modelzoo.kernels import native

VARIABLE = "METAZOO_BACKEND"
BACKENDS = ("reference", "compiled", "triton")
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)
NOT_FLOATING = (torch.bool, torch.int64, torch.int32, torch.uint8)


@dataclass(frozen=True)
class Work:
    """What one call costs at least at a typical size, for the roofline.

    Args:
        size: in words ("B 8, T 4096, C 1024, float32").
        bytes: read once and written once.
        flops: multiplications and additions.
        arguments: `() -> arguments` of that size on torch's default device, for the benchmark on a GPU.
    """

    size: str
    bytes: float
    flops: float
    arguments: Callable[[], tuple[Any, ...]] | None = None


@dataclass(frozen=True)
class Op:
    """One operation.

    Args:
        function: the public function; it is named as its folder.
        equation: what it computes, in one line.
        examples: `(dtype, seed) -> arguments of function`, a few small cases with odd sizes; the sweep of tests runs them.
        work: forward and backward pass (or the one pass there is) at a typical size.
        papers: that it comes from.
        differentiable: whether gradients flow; all floating arguments then have one.
        exact: whether that gradient is the derivative; the sweep then holds it to finite differences.
        vmappable: whether it may be mapped over; in-place updates may not.
        seen: how many operators torch.export sees in one call.
        without_triton: why there is no Triton path, empty where there is one.
    """

    function: Callable[..., Any]
    equation: str
    examples: Callable[[torch.dtype, int], list[tuple[Any, ...]]]
    work: Work
    papers: tuple[Paper, ...] = ()
    differentiable: bool = True
    exact: bool = True
    vmappable: bool = True
    seen: int = 1
    without_triton: str = ""

    @property
    def name(self) -> str:
        """The name of function and folder."""
        return self.function.__name__

    @property
    def package(self) -> str:
        """The folder's import name."""
        return self.function.__module__

    @property
    def backends(self) -> tuple[str, ...]:
        """The paths that are written, the plainest first."""
        return tuple(name for name in BACKENDS if _written(self.package, name))


_REGISTRY: dict[str, Op] = {}


def register(op: Op) -> Op:
    """Add an operation; raises `ValueError` for a taken name, a folder of another name, or a missing reference."""
    if op.name in _REGISTRY:
        raise ValueError(f"operation {op.name!r} is registered twice")
    if op.package.split(".")[-1] != op.name:
        raise ValueError(f"operation {op.name!r} must live in a folder of its own name")
    if "reference" not in op.backends:
        raise ValueError(f"operation {op.name!r} has no reference")
    _REGISTRY[op.name] = op
    return op


@cache
def _discover() -> None:
    for entry in entry_points(group="metazoo.kernels"):
        package = entry.load()
        for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if info.ispkg:
                importlib.import_module(info.name)


def ops() -> dict[str, Op]:
    """Every registered operation by name, sorted."""
    _discover()
    return dict(sorted(_REGISTRY.items()))


@cache
def _written(package: str, backend: str) -> bool:
    return importlib.util.find_spec(f"{package}.{backend}") is not None


def missing(package: str, backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Why a path cannot be taken, empty if it can."""
    if not _written(package, backend):
        return "it is not written"
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed (pip install 'metazoo[gpu]')"
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return f"the tensors are on the {device.type} (move them to a GPU, or set TRITON_INTERPRET=1 to interpret)"
        if dtype not in TRITON_DTYPES:
            return f"it does not compute in {str(dtype).removeprefix('torch.')}"
    if backend == "compiled":
        if device.type != "cpu":
            return f"it is for the CPU and the tensors are on the {device.type}"
        module = importlib.import_module(f"{package}.compiled")
        if getattr(module, "NEEDS_COMPILER", False) and not native.compiler():
            return "there is no C++ compiler (install g++)"
    return ""


def choose(package: str, device: torch.device, dtype: torch.dtype, refused: Callable[[str], str] | None = None) -> str:
    """The path an operation takes for tensors of a device and dtype.

    The environment variable METAZOO_BACKEND forces one. Otherwise it is Triton on a GPU, the compiled path on a CPU,
    and the reference where there is neither.

    Args:
        package: the operation's folder.
        device: of its tensors.
        dtype: of its first floating tensor.
        refused: `backend -> reason` why a path does not take the arguments at hand, empty if it does.

    Raises:
        UserError: the forced path is unknown or cannot be taken.
    """
    forced = os.environ.get(VARIABLE)
    if forced is not None and forced not in BACKENDS:
        raise UserError(f"{VARIABLE} is {forced!r}; it must be one of {', '.join(BACKENDS)}, or unset.")
    order = [forced] if forced else ["triton"] if device.type == "cuda" else ["compiled"]
    reason = ""
    for backend in order:
        reason = missing(package, backend, device, dtype) or (refused(backend) if refused else "")
        if not reason:
            return backend
    if forced:
        name = package.split(".")[-1]
        raise UserError(f"operation {name!r} cannot take its {forced} path: {reason}; unset {VARIABLE} to choose by device.")  # fmt: skip
    return "reference"


def _tensors(arguments: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]


def implementation(package: str, part: str, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """The function that computes a part for these arguments."""
    tensors = _tensors(arguments)
    floating = next((t for t in tensors if t.dtype not in NOT_FLOATING), tensors[0])

    def refused(backend: str) -> str:
        check = getattr(module(package, backend), "refused", None)
        return check(part, *arguments) if check else ""

    return getattr(module(package, choose(package, floating.device, floating.dtype, refused)), part)


@cache
def module(package: str, backend: str) -> ModuleType:
    """The module of a path."""
    return importlib.import_module(f"{package}.{backend}")


def part(package: str, fold: bool = False, mutates: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Declare a part of an operation: a `torch.library` operator from its signature and its rule for fake tensors.

    The decorated function *is* that rule: it returns empty tensors of the right shape. The operator is named
    `metazoo::<operation>_<function>`.

    Args:
        package: `__name__` of the operation's folder.
        fold: every tensor that goes in or out has a batch axis first, so that vmap folds its axis into it; otherwise
            vmap is a loop.
        mutates: names of the arguments that are updated in place.
    """
    name = package.split(".")[-1]

    def declare(fake: Callable[..., Any]) -> Any:
        def run(*arguments: Any, **keywords: Any) -> Any:
            return implementation(package, fake.__name__, arguments)(*arguments, **keywords)

        schema = torch.library.infer_schema(fake, mutates_args=list(mutates))
        operator = torch.library.custom_op(
            f"metazoo::{name}_{fake.__name__}", run, mutates_args=list(mutates), schema=schema
        )
        operator.register_fake(fake)
        if not mutates:
            operator.register_vmap(_folding(operator) if fold else _looping(operator))
        return operator

    return declare


def _folding(operator: Any) -> Callable[..., Any]:
    def rule(info: Any, axes: Any, *arguments: Any) -> Any:
        def into(value: Any, axis: int | None) -> Any:
            if not isinstance(value, Tensor):
                return value
            size = info.batch_size
            value = value.unsqueeze(0).expand(size, *value.shape) if axis is None else value.movedim(axis, 0)
            return value.flatten(0, 1)

        results = operator(*(into(value, axis) for value, axis in zip(arguments, axes, strict=True)))
        results = pytree.tree_map(lambda result: result.unflatten(0, (info.batch_size, -1)), results)
        return results, pytree.tree_map(lambda _: 0, results)

    return rule


def _looping(operator: Any) -> Callable[..., Any]:
    def rule(info: Any, axes: Any, *arguments: Any) -> Any:
        def own(value: Any, axis: Any, index: int) -> Any:
            if isinstance(value, list | tuple):
                return [own(v, a, index) for v, a in zip(value, axis, strict=True)]
            return value.select(axis, index) if isinstance(value, Tensor) and axis is not None else value

        runs = [
            operator(*(own(value, axis, index) for value, axis in zip(arguments, axes, strict=True)))
            for index in range(info.batch_size)
        ]
        results = pytree.tree_map(lambda *parts: torch.stack(parts), *runs)
        return results, pytree.tree_map(lambda _: 0, results)

    return rule


@dataclass(frozen=True)
class Configuration:
    """One kernel with everything fixed that a compiler must know; `triton.CONFIGURATIONS` lists an operation's.

    Args:
        kernel: the `@triton.jit` function.
        pointers: element type of every pointer ("fp32", "bf16", "i32", "i64", "u8", "i1"); None for an absent one.
        constants: every `tl.constexpr`.
        scalars: type of every other argument ("i32", "fp32").
        warps: of one program.
        stages: of software pipelining.
    """

    kernel: Any
    pointers: dict[str, str | None]
    constants: dict[str, Any]
    scalars: dict[str, str] = field(default_factory=dict)
    warps: int = 4
    stages: int = 3

    @classmethod
    def of(
        cls, kernel: Any, dtype: str, exact: Sequence[str], constants: dict[str, Any], warps: int = 4, stages: int = 3
    ) -> "Configuration":
        """With all pointers (`p_…`) to one dtype but the `exact` ones to float32, and whole numbers for what is left."""
        pointers = [name for name in kernel.arg_names if name.startswith("p_")]
        scalars = [name for name in kernel.arg_names if name not in pointers and name not in constants]
        types: dict[str, str | None] = {name: "fp32" if name in exact else dtype for name in pointers}
        return cls(kernel, types, constants, dict.fromkeys(scalars, "i32"), warps, stages)


def configurations() -> Iterator[tuple[Op, Configuration]]:
    """Every configuration of every operation that has a Triton path."""
    for op in ops().values():
        if "triton" in op.backends:
            for configuration in module(op.package, "triton").CONFIGURATIONS:
                yield op, configuration


def paths() -> list[tuple[str, str, str]]:
    """Every operation with the path it takes here for float32, and the paths that are written."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for op in ops().values():
        try:
            chosen = choose(op.package, device, torch.float32)
        except UserError as error:
            chosen = f"none: {error}"
        rows.append((op.name, chosen, ", ".join(op.backends)))
    return rows
