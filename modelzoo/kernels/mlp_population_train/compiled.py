"""On the CPU: all steps of a model in one C++ call, one thread a model; see `compiled.cpp`."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from modelzoo.kernels import native

NEEDS_COMPILER = True
CODES = {"relu": 0, "tanh": 1, "sin": 2, "gelu": 3}
DTYPES = (torch.float32,)  # zoos are not trained in double precision
SOURCE = Path(__file__).with_name("compiled.cpp")


class _Task(ctypes.Structure):
    """The struct of the same name in the source, field by field."""

    _fields_ = (
        [("widths", ctypes.c_void_p)]
        + [(name, ctypes.c_int64) for name in ("layers", "models", "samples", "steps", "start", "batch", "x_stride", "y_stride", "activation")]
        + [(name, ctypes.c_double) for name in ("frequency", "beta1", "beta2", "epsilon")]
        + [(name, ctypes.c_void_p) for name in ("weights", "biases", "first", "second", "x", "y", "labels", "rows", "rate", "decay", "losses")]
    )  # fmt: skip


def refused(part: str, weights: list[Tensor], *rest: object) -> str:
    """Single precision only."""
    return "" if weights[0].dtype in DTYPES else "it is for float32"


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ValueError("mlp_population_train updates in place and needs contiguous tensors")
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def train(
    weights: list[Tensor], biases: list[Tensor], first: list[Tensor], second: list[Tensor], inputs: Tensor, targets: Tensor,
    learning_rate: Tensor, weight_decay: Tensor, rows: Tensor | None, steps: int, activation: str, frequency: float, start: int,
) -> Tensor:  # fmt: skip
    """See `mlp_population_train`."""
    models, samples, labels = len(learning_rate), inputs.shape[1], not targets.is_floating_point()
    widths = [weights[0].shape[2], *(w.shape[1] for w in weights)]
    _check("rows", rows, samples)
    _check("labels", targets if labels else None, widths[-1])
    inputs, targets, learning_rate, weight_decay = (
        x.contiguous() for x in (inputs, targets, learning_rate, weight_decay)
    )
    rows = None if rows is None else rows.contiguous()
    losses = torch.empty(models, steps)
    sizes = (ctypes.c_int64 * len(widths))(*widths)
    lists = [_addresses(tensors) for tensors in (weights, biases, first, second)]
    strides = (0 if len(x) == 1 else x[0].numel() for x in (inputs, targets))
    task = _Task(
        ctypes.addressof(sizes), len(weights), models, samples, steps, start, samples if rows is None else rows.shape[2],
        *strides, CODES[activation], frequency, 0.9, 0.999, 1e-8, *map(ctypes.addressof, lists), inputs.data_ptr(),
        None if labels else targets.data_ptr(), targets.data_ptr() if labels else None,
        None if rows is None else rows.data_ptr(), learning_rate.data_ptr(), weight_decay.data_ptr(), losses.data_ptr(),
    )  # fmt: skip
    native.library(SOURCE).train(ctypes.byref(task), ctypes.c_int64(torch.get_num_threads()))
    return losses


def _check(name: str, indices: Tensor | None, count: int) -> None:
    """C++ would read whatever lies outside."""
    if indices is not None and indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < count:
        raise IndexError(f"{name} of mlp_population_train must lie in 0 … {count - 1}")
