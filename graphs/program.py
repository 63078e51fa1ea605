"""The Program: any torch module as a flat list of core ATen ops with its parameters and buffers as named inputs.

`trace` runs `torch.export` (non-strict) and the core-ATen decompositions in evaluation mode; everything in `graphs`
works on the resulting `Program` and never looks at the module's classes.
"""

import logging
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind

from modelzoo.errors import UserError


@dataclass(frozen=True)
class Reference:
    """Stands in an op's arguments for the tensor value with that id."""

    value: int

    def __repr__(self) -> str:
        return f"%{self.value}"


@dataclass(frozen=True)
class Value:
    """One tensor of the program.

    Args:
        id: position in `Program.values`.
        name: unique, as `torch.export` calls it.
        shape: its sizes (static: those of the example inputs).
        dtype: its element type.
        producer: index of the op that makes it, None for parameters, buffers, constants and user inputs.
    """

    id: int
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    producer: int | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


@dataclass(frozen=True)
class Op:
    """One call of an ATen operator.

    Args:
        index: position in `Program.ops`; execution order.
        target: the operator's full name (`aten.addmm.default`).
        overload: the operator itself.
        arguments: positional arguments; tensors are `Reference`s, lists are tuples.
        keywords: keyword arguments, likewise.
        outputs: value id of every output, None where an output is not a tensor or is never used.
        module: path of the module that called it (`layers.0`; "" is the root).
        module_type: class name of that module.
        line: the user's source line (`file:line: code`), "" where it is not known.
    """

    index: int
    target: str
    overload: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: tuple[int | None, ...]
    module: str = ""
    module_type: str = ""
    line: str = ""

    @property
    def name(self) -> str:
        """The operator without its overload (`aten.addmm`)."""
        return self.target.rsplit(".", 1)[0]

    @property
    def output(self) -> int:
        """The value id of the first output, for ops with one."""
        first = self.outputs[0]
        assert first is not None
        return first

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by keyword."""
        if position < len(self.arguments):
            return self.arguments[position]
        return self.keywords.get(name, default)

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Value ids of all tensor arguments, in order, repeats kept."""
        return tuple(references((self.arguments, tuple(self.keywords.values()))))


def references(argument: Any) -> Iterator[int]:
    """The value ids in a (nested) argument."""
    if isinstance(argument, Reference):
        yield argument.value
    elif isinstance(argument, tuple):
        for entry in argument:
            yield from references(entry)


@dataclass(frozen=True)
class Program:
    """A module as a flat list of ops.

    Args:
        values: every tensor, by id.
        ops: every operator call, in execution order.
        parameters: parameter name → value id; tied names share one id.
        buffers: name → value id of the buffers that are *state* (they move with the neurons, like running statistics).
        constants: value id → tensor, for every other buffer, lifted constant, and value computed from constants alone.
        inputs: value ids of the user's tensors, in the order of the flattened example inputs.
        outputs: value ids of what the module returns, flattened.
        mutated: buffer name → value id of what the program writes into it.
        module_name: class name of the root module.
    """

    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    parameters: Mapping[str, int]
    buffers: Mapping[str, int]
    constants: Mapping[int, Tensor]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    mutated: Mapping[str, int] = field(default_factory=dict)
    module_name: str = ""

    @property
    def tensors(self) -> dict[str, int]:
        """Parameters and state buffers by name: everything a group element acts on."""
        return {**self.parameters, **self.buffers}

    def users(self) -> tuple[tuple[int, ...], ...]:
        """For every value the indices of the ops that read it."""
        found: list[list[int]] = [[] for _ in self.values]
        for op in self.ops:
            for value in dict.fromkeys(op.inputs):
                found[value].append(op.index)
        return tuple(map(tuple, found))

    def depends_on_parameters(self) -> tuple[bool, ...]:
        """For every value whether it is computed from a parameter or state buffer."""
        return self._computed_from(self.tensors.values())

    def depends_on_inputs(self) -> tuple[bool, ...]:
        """For every value whether it is computed from an input."""
        return self._computed_from(self.inputs)

    def _computed_from(self, values: Iterable[int]) -> tuple[bool, ...]:
        found = [False] * len(self.values)
        for value in values:
            found[value] = True
        for op in self.ops:
            if any(found[value] for value in op.inputs):
                for output in op.outputs:
                    if output is not None:
                        found[output] = True
        return tuple(found)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode and give every submodule its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's loggers: what they would print ends up in the one sentence of the `UserError`."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def export(module: nn.Module, example_inputs: Sequence[Any]) -> torch.export.ExportedProgram:
    """The module as `torch.export` sees it in evaluation mode, decomposed into core ATen ops.

    Raises:
        UserError: `torch.export` refuses the module; the sentence names the line and the reason.
    """
    with evaluation_mode(module), warnings.catch_warnings(), torch.no_grad(), _quiet():
        warnings.simplefilter("ignore")
        try:
            exported = torch.export.export(module, tuple(example_inputs), strict=False)
            return exported.run_decompositions()
        except Exception as error:
            raise UserError(_refusal(module, error)) from error


def _refusal(module: nn.Module, error: Exception) -> str:
    """One sentence on why `torch.export` refuses a module."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if "/torch/" not in frame.filename and frame.filename not in (__file__, "<string>")
    ]
    reason = (
        str(error).strip().splitlines()[0].split(" (unhinted")[0].rstrip(".") if str(error).strip() else "no reason"
    )
    where = f" at {own[-1].filename}:{own[-1].lineno} `{own[-1].line}`" if own else ""
    data_dependent = "data-dependent" in reason.lower()
    remedy = (
        "make that line independent of the values in its tensors (torch.where instead of if, a constant number of steps)"
        if data_dependent
        else "check that the example inputs fit the module's forward and that it uses only tensor operations"
    )
    return f"torch.export refuses {type(module).__name__!r}{where}: {type(error).__name__}: {reason}; {remedy}."


def trace(module: nn.Module, example_inputs: Sequence[Any]) -> Program:
    """The program of a module.

    Args:
        module: any module that `torch.export` takes; its mode and parameters are left alone.
        example_inputs: the positional arguments of one call; their sizes become static.

    Returns:
        The flat program, in evaluation mode (dropout is the identity, batch norm uses its running statistics).

    Raises:
        UserError: `torch.export` refuses the module; the sentence names the line and the reason.
    """
    return _Reader(module, export(module, example_inputs)).program()


class _Reader:
    """Turns an exported program into a `Program`."""

    def __init__(self, module: nn.Module, exported: torch.export.ExportedProgram) -> None:
        self.module = module
        self.exported = exported
        self.values: list[Value] = []
        self.of_node: dict[torch.fx.Node, int] = {}
        self.constants: dict[int, Tensor] = {}
        self.multiple: dict[torch.fx.Node, int] = {}  # op index of every node with several outputs

    def add(self, node: torch.fx.Node, tensor: Tensor, producer: int | None = None, name: str | None = None) -> int:
        shape = tuple(int(size) for size in tensor.shape)
        self.values.append(Value(len(self.values), name or node.name, shape, tensor.dtype, producer))
        return len(self.values) - 1

    def argument(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return Reference(self.of_node[argument])
        if isinstance(argument, list | tuple):
            return tuple(self.argument(entry) for entry in argument)
        return argument

    def program(self) -> Program:
        exported, signature = self.exported, self.exported.graph_signature
        identity = {
            name: id(tensor)
            for named in (self.module.named_parameters, self.module.named_buffers)
            for name, tensor in named(remove_duplicate=False)
        }
        kinds = {spec.arg.name: spec for spec in signature.input_specs if hasattr(spec.arg, "name")}
        first_with: dict[int, int] = {}
        named: dict[str, int] = {}
        buffers: dict[str, tuple[int, bool]] = {}
        inputs: list[int] = []
        ops: list[Op] = []
        output_node: torch.fx.Node | None = None
        for node in exported.graph.nodes:
            if node.op == "placeholder":
                spec, tensor = kinds.get(node.name), node.meta.get("val")
                if not isinstance(tensor, Tensor) or spec is None:
                    continue
                target = spec.target or node.name
                known = first_with.get(identity.get(target, -1))
                value = known if known is not None else self.add(node, tensor)
                self.of_node[node] = value
                if target in identity:
                    first_with[identity[target]] = value
                if spec.kind is InputKind.PARAMETER:
                    named[target] = value
                elif spec.kind is InputKind.BUFFER:
                    buffers[target] = (value, bool(spec.persistent))
                elif spec.kind is InputKind.USER_INPUT:
                    inputs.append(value)
                elif spec.kind is InputKind.TOKEN:
                    raise UserError(
                        f"{type(self.module).__name__!r} uses an operator with side effects (such as the error check of "
                        f"torch.linalg.solve), expected pure tensor operators; use its _ex variant or another operator."
                    )
                else:
                    self.constants[value] = exported.constants[target]
            elif node.op == "call_function":
                self.call(node, ops)
            elif node.op == "output":
                output_node = node
        for name, key in identity.items():  # names that are tied to a traced one
            if name not in named and name not in buffers and key in first_with:
                named[name] = first_with[key]
        state = self.state(buffers, ops, signature)
        for name, (value, persistent) in buffers.items():
            if name not in state:
                source = exported.state_dict if persistent else exported.constants
                self.constants[value] = source[name] if name in source else self.module.get_buffer(name)
        self.fold(ops)
        outputs, mutated = [], {}
        assert output_node is not None
        returned: Any = output_node.args[0]
        for spec, node in zip(signature.output_specs, returned, strict=True):
            if not isinstance(node, torch.fx.Node) or node not in self.of_node:
                continue
            if spec.kind is OutputKind.USER_OUTPUT:
                outputs.append(self.of_node[node])
            elif spec.kind is OutputKind.BUFFER_MUTATION and spec.target is not None:
                mutated[spec.target] = self.of_node[node]
        return Program(
            values=tuple(self.values),
            ops=tuple(ops),
            parameters=MappingProxyType(named),
            buffers=MappingProxyType({name: buffers[name][0] for name in buffers if name in state}),
            constants=MappingProxyType(self.constants),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            mutated=MappingProxyType({name: value for name, value in mutated.items() if name in state}),
            module_name=type(self.module).__name__,
        )

    def call(self, node: torch.fx.Node, ops: list[Op]) -> None:
        if str(node.target) == "<built-in function getitem>":
            source, position = node.args
            assert isinstance(source, torch.fx.Node)
            assert isinstance(position, int)
            op = ops[self.multiple[source]]
            value = op.outputs[position]
            assert value is not None
            self.of_node[node] = value
            return
        result = node.meta.get("val")
        index = len(ops)
        if isinstance(result, Tensor):
            value = self.add(node, result, index)
            self.of_node[node] = value
            outputs: tuple[int | None, ...] = (value,)
        elif isinstance(result, list | tuple):
            taken = {user.args[1] for user in node.users if str(user.target) == "<built-in function getitem>"}
            outputs = tuple(
                self.add(node, entry, index, f"{node.name}.{position}")
                if isinstance(entry, Tensor) and position in taken
                else None
                for position, entry in enumerate(result)
            )
            self.multiple[node] = index
        else:
            outputs = ()
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path, kind = stack[-1] if stack else ("", "")
        ops.append(
            Op(
                index=index,
                target=str(node.target),
                overload=node.target,
                arguments=tuple(self.argument(entry) for entry in node.args),
                keywords=MappingProxyType({key: self.argument(entry) for key, entry in node.kwargs.items()}),
                outputs=outputs,
                module=str(path),
                module_type=(kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1],
                line=_source_line(node.meta.get("stack_trace")),
            )
        )

    def state(self, buffers: Mapping[str, tuple[int, bool]], ops: Sequence[Op], signature: Any) -> set[str]:
        """Names of the buffers that belong to the neurons: what batch norm normalises by, and what the program writes.

        All other buffers (masks, frequencies, position codes, edge indices) are constants of the architecture.
        """
        statistics = {
            argument.value
            for op in ops
            if "batch_norm" in op.target
            for argument in op.arguments[3:5]
            if isinstance(argument, Reference)
        }
        written = {spec.target for spec in signature.output_specs if spec.kind is OutputKind.BUFFER_MUTATION}
        return {
            name
            for name, (value, _) in buffers.items()
            if (value in statistics or name in written) and self.values[value].dtype.is_floating_point
        }

    def fold(self, ops: Sequence[Op]) -> None:
        """Evaluate the ops that depend on constants alone (masks, position codes, index arithmetic)."""
        limit = 10_000_000
        for op in ops:
            known = all(value in self.constants for value in op.inputs)
            sizes = [torch.Size(self.values[value].shape).numel() for value in op.outputs if value is not None]
            if not known or not sizes or max(sizes) > limit or torch.Tag.nondeterministic_seeded in op.overload.tags:
                continue
            keywords = {key: self.filled(entry) for key, entry in op.keywords.items()}
            result = op.overload(*(self.filled(entry) for entry in op.arguments), **keywords)
            for value, tensor in zip(
                op.outputs, result if isinstance(result, list | tuple) else [result], strict=False
            ):
                if value is not None:
                    self.constants[value] = tensor.detach()

    def filled(self, argument: Any) -> Any:
        if isinstance(argument, Reference):
            return self.constants[argument.value]
        if isinstance(argument, tuple):
            return [self.filled(entry) for entry in argument]
        return argument


def _source_line(stack: str | None) -> str:
    """`file:line: code` of the innermost user frame of a recorded stack trace."""
    lines = (stack or "").strip().splitlines()
    if len(lines) < 2 or not lines[-2].strip().startswith("File"):
        return ""
    place = lines[-2].strip().split(", in ")[0].removeprefix("File ").replace('", line ', ":").strip('"')
    return f"{place}: {lines[-1].strip()}"
