"""REPAIR: activation statistics after merging.

Averaging weights makes activations shrink: neurons of two models that are matched but not equal average to less
variance. "REPAIR: REnormalizing Permuted Activations for Interpolation Repair" (Jordan, Sedghi, Saukh, Entezari and
Neyshabur, 2023) rescales every pre-activation of the merged model to the average of its parents' means and standard
deviations. The layers are found in the program: products and convolutions with a weight that nothing else reads. A
batch norm behind a layer does the same, once its running statistics are measured again.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from analysis.symmetry.merging import average
from graphs.interpreter import interpret, widen
from graphs.program import Op, Program, Reference

MOVES = frozenset({
    "aten.view", "aten._unsafe_view", "aten.reshape", "aten.permute", "aten.transpose", "aten.t", "aten.clone",
    "aten.unsqueeze", "aten.squeeze", "aten.expand", "aten.alias",
})  # fmt: skip
SMALL = 1e-6  # of the largest deviation: a feature that hardly varies is not rescaled


@dataclass(frozen=True)
class Site:
    """A layer whose output is renormalised.

    Args:
        weight: name of the weight.
        bias: name of the bias, None if there is none (then only the deviation is corrected).
        dim: of the weight, over output features.
        value: the pre-activation's value in the program.
        feature: its dimension of output features.
    """

    weight: str
    bias: str | None
    dim: int
    value: int
    feature: int


@dataclass(frozen=True)
class Repaired:
    """A merged model with the activation statistics of its parents.

    Args:
        tensors: parameters and buffers by name.
        layers: the weights that were rescaled, in the order of the program.
        skipped: weights of layers that were left alone, with the reason.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    layers: tuple[str, ...]
    skipped: tuple[str, ...]


def sites(program: Program) -> tuple[list[Site], list[str]]:
    """The layers of a program that can be renormalised, and the others with the reason."""
    names: dict[int, str] = {}
    for name, value in program.parameters.items():
        names.setdefault(value, name)
    users = program.users()
    found, skipped = [], []
    for op in program.ops:
        if op.name not in ("aten.addmm", "aten.mm", "aten.convolution"):
            continue
        if op.name == "aten.convolution":
            root, dim = _parameter(program, op.arguments[1], 0, names)
            bias, feature, transposed = op.arguments[2], 1, bool(op.arguments[6])
            if transposed:
                dim = 1
        else:
            arguments = op.arguments[-2:]
            root, dim = _parameter(program, arguments[1], 1, names)
            bias, feature, transposed = (op.arguments[0] if op.name == "aten.addmm" else None), 1, False
        if root is None:
            continue
        weight = names[root]
        after = _after(program, users, op.output)
        if transposed and op.argument(8, "groups", 1) > 1:
            skipped.append(f"{weight}: a grouped transposed convolution")
        elif _reads(program, users, root) > 1:
            skipped.append(f"{weight}: read more than once")
        elif after is None:
            skipped.append(f"{weight}: its output leaves the module")
        elif "batch_norm" in after:
            skipped.append(f"{weight}: a batch norm stands behind it")
        else:
            own = names.get(bias.value) if isinstance(bias, Reference) else None
            single = own is not None and _reads(program, users, bias.value) == 1
            found.append(Site(weight, own if single else None, dim, op.output, feature))
    return found, skipped


def _parameter(program: Program, argument: object, dim: int, names: Mapping[int, str]) -> tuple[int | None, int]:
    """The parameter that an argument is, perhaps transposed, and its dimension that is the argument's `dim`."""
    while isinstance(argument, Reference):
        if argument.value in names:
            return argument.value, dim
        producer = program.values[argument.value].producer
        op = None if producer is None else program.ops[producer]
        if op is None or op.name not in ("aten.t", "aten.permute", "aten.transpose", "aten.alias"):
            return None, dim
        rank = program.values[argument.value].rank
        if op.name == "aten.permute":
            dim = op.arguments[1][dim] % rank
        elif op.name != "aten.alias":
            dim = rank - 1 - dim if rank == 2 else dim
        argument = op.arguments[0]
    return None, dim


def _reads(program: Program, users: Sequence[Sequence[int]], value: int) -> int:
    """How many operators read a value, looking through changes of shape."""
    return sum(
        _reads(program, users, program.ops[index].output) if program.ops[index].name in MOVES else 1
        for index in users[value]
    )


def _after(program: Program, users: Sequence[Sequence[int]], value: int) -> str | None:
    """Name of the first operator behind a value, looking through changes of shape; None if the value is an output."""
    if value in program.outputs:
        return None
    for index in users[value]:
        op: Op = program.ops[index]
        if op.name not in MOVES:
            return op.name
        return _after(program, users, op.output)
    return None


def repair(
    module: nn.Module, program: Program, parents: Sequence[Mapping[str, Tensor]], merged: Mapping[str, Tensor],
    batches: Sequence[Sequence[Tensor]], weights: Sequence[float] | None = None,
) -> Repaired:  # fmt: skip
    """Give a merged model the activation statistics of its parents, layer by layer from the input.

    Args:
        module: the architecture, for batch norms; it is left as it is.
        program: its program, from `graphs.trace` (`group.program`).
        parents: parameters and buffers of the aligned models that were merged.
        merged: those of the merged model.
        batches: inputs of the traced shapes.
        weights: of the parents, None for equal ones.
    """
    shares = [1 / len(parents)] * len(parents) if weights is None else list(weights)
    tensors = {name: tensor.clone() for name, tensor in merged.items()}
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        tensors = reset_batch_norm(module, tensors, batches)
    found, skipped = sites(program)
    wanted = [_statistics(program, parent, found, batches) for parent in parents]
    for number, site in enumerate(found):
        (mean, spread) = _statistics(program, tensors, [site], batches)[0]
        goal = [sum(share * own[number][part] for share, own in zip(shares, wanted, strict=True)) for part in range(2)]
        fixed = spread <= SMALL * spread.max()
        ratio = torch.where(fixed, 1.0, goal[1] / spread.masked_fill(fixed, 1.0))
        weight = tensors[site.weight]
        shape = [-1 if d == site.dim else 1 for d in range(weight.ndim)]
        tensors[site.weight] = weight * ratio.reshape(shape).to(weight.dtype)
        if site.bias is not None:
            bias = tensors[site.bias]
            tensors[site.bias] = ((bias - mean) * ratio + goal[0]).to(bias.dtype)
    return Repaired(tensors, tuple(site.weight for site in found), tuple(skipped))


def _statistics(
    program: Program, tensors: Mapping[str, Tensor], found: Sequence[Site], batches: Sequence[Sequence[Tensor]]
) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every site's features over batches and all other dimensions."""
    rows: list[list[Tensor]] = [[] for _ in found]
    with torch.no_grad():
        for batch in batches:
            values = interpret(program, tensors, [widen(x) for x in batch])
            for row, site in zip(rows, found, strict=True):
                row.append(values[site.value].movedim(site.feature, 0).flatten(1))
    joined = [torch.cat(row, 1) for row in rows]
    return [(row.mean(1), row.std(1, correction=0)) for row in joined]


def reset_batch_norm(
    module: nn.Module, tensors: Mapping[str, Tensor], batches: Sequence[Sequence[Tensor]]
) -> dict[str, Tensor]:  # fmt: skip
    """Measure the running statistics of all batch norms again, on given inputs taken together.

    Args:
        module: the architecture; it is left as it is.
        tensors: parameters and buffers by name.
        batches: inputs; they are joined to one batch, so that statistics are those of all samples.
    """
    copied = copy.deepcopy(module)
    copied.load_state_dict(dict(tensors), strict=False)
    copied.eval()
    for part in copied.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
            part.reset_running_stats()
            part.momentum = None  # a plain average
            part.train()
    with torch.no_grad():
        copied(*(torch.cat(column) for column in zip(*batches, strict=True)))
    buffers = dict(copied.named_buffers())
    return {name: buffers[name].clone() if name in buffers else tensor for name, tensor in tensors.items()}


def merge(
    module: nn.Module, program: Program, models: Sequence[Mapping[str, Tensor]], batches: Sequence[Sequence[Tensor]] = (),
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Average aligned models, and repair the average where inputs are given; see `repair` for the arguments."""
    merged = average(models, weights)
    return repair(module, program, models, merged, batches, weights).tensors if batches else merged
