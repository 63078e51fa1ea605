"""Where parameters enter a module: every operation that multiplies or adds one, with its input and its pre-activation.

A `TorchFunctionMode` sees every call that a parameter takes part in, whether a module made it or a bare function, and
however often one parameter is used. Operations with a rule (linear maps, convolutions, embeddings, affine parameters of
normalizations) are recorded, opaque calls that consist of them are written out (`analysis.ntk.unpacked`); a parameter
that enters any other operation is left to automatic differentiation.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from analysis.ntk.unpacked import UNPACKED


@dataclass
class Use:
    """One call of an operation with parameters.

    Args:
        kind: `linear`, `convolution`, `transposed` (convolution), `embedding` or `affine` (the scale and shift of a normalization).
        weight: name of its weight, None where that is no parameter.
        bias: likewise.
        input: what the weight multiplies: activations, indices, or normalized activations.
        feature_axes: how many last axes of the pre-activation the parameter indexes; -1: axis 1 alone (channels).
        settings: of a convolution (`kernel stride padding dilation groups`), of an embedding (`rows padding_index`).
        output: the pre-activation, in the graph of the module's output.
        returned: the copy of it that the module went on with.
        source: the first argument of the call, in the graph of the module's output.
    """

    kind: str
    weight: str | None
    bias: str | None
    input: Tensor
    feature_axes: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    output: Tensor = field(default_factory=lambda: torch.empty(0))
    returned: Tensor = field(default_factory=lambda: torch.empty(0))
    source: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass
class Call:
    """The arguments of an operation by their roles; `use` is None where the operation has no rule for its settings."""

    weight: Tensor | None
    bias: Tensor | None
    others: tuple[Any, ...]
    use: Callable[[], tuple[str, Tensor, int, Mapping[str, Any]]] | None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call:
    ruled = weight.ndim == 2
    return Call(weight, bias, (input,), (lambda: ("linear", input, 1, {})) if ruled else None)


def _convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Call:  # fmt: skip
    space = weight.ndim - 2

    def wide(value: Any) -> tuple[int, ...]:
        return (value,) * space if isinstance(value, int) else tuple(value) * (space // len(value))

    def use() -> tuple[str, Tensor, int, Mapping[str, Any]]:
        settings = {
            "kernel": tuple(weight.shape[2:]), "stride": wide(stride), "padding": wide(padding),
            "dilation": wide(dilation), "groups": groups,
        }  # fmt: skip
        return "convolution", input, -1, settings

    ruled = space in (1, 2, 3) and input.ndim == weight.ndim and not isinstance(padding, str)
    return Call(weight, bias, (input,), use if ruled else None)


def _transposed(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Call:  # fmt: skip
    """As a convolution of the input with zeros between its entries; the order of taps does not matter for a kernel."""
    space = weight.ndim - 2

    def wide(value: Any) -> tuple[int, ...]:
        return (value,) * space if isinstance(value, int) else tuple(value) * (space // len(value))

    def use() -> tuple[str, Tensor, int, Mapping[str, Any]]:
        kernel, steps, gaps = tuple(weight.shape[2:]), wide(stride), wide(dilation)
        sizes = [(n - 1) * s + 1 for n, s in zip(input.shape[2:], steps, strict=True)]
        spread = input.new_zeros(*input.shape[:2], *sizes)
        places: tuple[Any, ...] = (..., *(slice(None, None, s) for s in steps))
        spread[places] = input
        margins: list[int] = []
        for k, gap, cut, more in reversed(list(zip(kernel, gaps, wide(padding), wide(output_padding), strict=True))):
            margins += [gap * (k - 1) - cut, gap * (k - 1) - cut + more]
        settings = {
            "kernel": kernel,
            "stride": (1,) * space,
            "padding": (0,) * space,
            "dilation": gaps,
            "groups": groups,
        }
        return "transposed", F.pad(spread, margins), -1, settings

    return Call(weight, bias, (input,), use if space in (1, 2, 3) and input.ndim == weight.ndim else None)


def _embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Call:  # fmt: skip
    def use() -> tuple[str, Tensor, int, Mapping[str, Any]]:
        missing = None if padding_idx is None else padding_idx % len(weight)
        return "embedding", input, 1, {"rows": len(weight), "padding_index": missing}

    return Call(weight, None, (input,), use if max_norm is None and not scale_grad_by_freq and not sparse else None)


def _layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Call:  # fmt: skip
    axes = len(normalized_shape)
    return Call(
        weight, bias, (input,), lambda: ("affine", F.layer_norm(input, tuple(normalized_shape), eps=eps), axes, {})
    )


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Call:
    axes = len(normalized_shape)
    return Call(
        weight, None, (input,), lambda: ("affine", F.rms_norm(input, list(normalized_shape), eps=eps), axes, {})
    )


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Call:
    return Call(weight, bias, (input,), lambda: ("affine", F.group_norm(input, num_groups, eps=eps), -1, {}))


def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Call:  # fmt: skip
    def use() -> tuple[str, Tensor, int, Mapping[str, Any]]:
        return "affine", F.batch_norm(input, running_mean, running_var, eps=eps), -1, {}

    return Call(weight, bias, (input, running_mean, running_var), None if training else use)


RULES: dict[Any, Callable[..., Call]] = {
    F.linear: _linear, F.conv1d: _convolution, F.conv2d: _convolution, F.conv3d: _convolution,
    F.conv_transpose1d: _transposed, F.conv_transpose2d: _transposed, F.conv_transpose3d: _transposed, F.embedding: _embedding,
    F.layer_norm: _layer_norm, F.rms_norm: _rms_norm, F.group_norm: _group_norm, F.batch_norm: _batch_norm,
}  # fmt: skip


class Recorder(TorchFunctionMode):
    """Records the uses of parameters while a module runs.

    Args:
        names: `id(parameter) → name` of the parameters to watch.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.uses: list[Use] = []
        self.others: set[str] = set()  # parameters that enter an operation without a rule

    def _name(self, value: Any) -> str | None:
        return self.names.get(id(value)) if isinstance(value, Tensor) else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in UNPACKED and (written_out := UNPACKED[func](*args, **kwargs)) is not None:
            with self:
                return written_out()
        rule = RULES.get(func)
        if rule is not None:
            call = rule(*args, **kwargs)
            weight, bias = self._name(call.weight), self._name(call.bias)
            if call.use is not None and (weight or bias) and not any(map(self._name, call.others)):
                return self._record(func, args, kwargs, call, weight, bias)
        result = func(*args, **kwargs)
        used = [name for leaf in pytree.tree_leaves((args, kwargs)) if (name := self._name(leaf))]
        if used and any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            self.others.update(used)  # a call that returns no tensor only asked for a shape or a type
        return result

    def _record(self, func: Any, args: Any, kwargs: Any, call: Call, weight: str | None, bias: str | None) -> Tensor:
        assert call.use is not None

        def detached(value: Any) -> Any:  # nothing flows to parameters, only to pre-activations
            return value.detach() if self._name(value) else value

        output = func(*map(detached, args), **{key: detached(value) for key, value in kwargs.items()})
        if not output.requires_grad:
            output.requires_grad_()
        with torch.no_grad():
            kind, entering, axes, settings = call.use()
        returned = output.clone()  # so that what is computed in place leaves the pre-activation alone
        self.uses.append(Use(kind, weight, bias, entering.detach(), axes, settings, output, returned, call.others[0]))
        return returned


def record(module: nn.Module, inputs: Sequence[Any], names: Iterable[str]) -> tuple[Tensor, Recorder]:
    """Run a module and record where the named parameters enter; its output is one tensor or the first of several."""
    wanted = set(names)
    own = {id(value): name for name, value in module.named_parameters() if name in wanted}
    with torch.enable_grad(), Recorder(own) as recorder:
        result = module(*inputs)
    return pytree.tree_leaves(result)[0], recorder
