"""Every operation's Triton path on a GPU, forward and backward: measured time over the roofline's.

    python benchmarks/gpu.py [--json] [--write] [OPERATION ...]

First the operation's examples must agree with its reference on that GPU; then the arguments of its typical size are timed.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from harness import write_results
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils import _pytree as pytree

from modelzoo.kernels.registry import VARIABLE, Op, ops
from modelzoo.kernels.roofline import GPUS, roofline

TOLERANCE = 1e-4  # of the largest entry: sums in another order


def pass_through(op: Op, arguments: tuple[Any, ...]) -> Callable[[], list[Tensor]]:
    """A call: outputs, and gradients of all floating arguments for fixed gradients of the outputs; or what is updated."""
    leaves, spec = pytree.tree_flatten(arguments)
    moving = [leaf for leaf in leaves if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())]
    if op.differentiable:
        moving = [leaf.requires_grad_() for leaf in moving]
    given: list[Tensor] = []

    def call() -> list[Tensor]:
        result = op.function(*pytree.tree_unflatten(leaves, spec))
        outputs = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if not op.differentiable:
            return [*outputs, *moving]
        if not given:
            given.extend(torch.linspace(-1, 1, o.numel(), device=o.device).view(o.shape).to(o.dtype) for o in outputs)
        return [*outputs, *torch.autograd.grad(outputs, moving, given, materialize_grads=True)]

    return call


def agree(op: Op, device: torch.device, backend: str) -> bool:
    """Whether a path agrees with the reference on all examples, float32."""
    sides = []
    for path in ("reference", backend):
        os.environ[VARIABLE] = path
        cases = pytree.tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, op.examples(torch.float32, 0))
        sides.append([result.detach() for case in cases for result in pass_through(op, case)()])
    return all(_close(a, b) for a, b in zip(*sides, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    size = b.abs().max() if b.numel() else 0
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=TOLERANCE * float(size) + 1e-30, equal_nan=True)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median of a call, by the GPU's own clock, with its second-level cache emptied before each."""
    scratch = torch.empty(2**28, dtype=torch.int8, device="cuda")
    call()
    pairs = []
    for _ in range(repeats):
        scratch.zero_()
        pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        pair[0].record()
        call()
        pair[1].record()
        pairs.append(pair)
    torch.cuda.synchronize()
    return sorted(first.elapsed_time(last) for first, last in pairs)[repeats // 2] / 1000


def measure(op: Op, repeats: int) -> dict[str, Any]:
    """The row of one operation."""
    row: dict[str, Any] = {"name": op.name, "size": op.work.size, "agree": agree(op, torch.device("cuda"), "triton")}
    if not row["agree"] or op.work.arguments is None:
        return row
    with torch.device("cuda"):
        took = seconds(pass_through(op, op.work.arguments()), repeats)
    row |= {"milliseconds": 1000 * took, "gigabytes_per_second": op.work.bytes / took / 1e9, "gigaflop_per_second": op.work.flops / took / 1e9}  # fmt: skip
    gpu = next((name for name in GPUS if name in torch.cuda.get_device_name()), None)
    if gpu is not None:
        least, side = roofline(op.work, gpu)
        row |= {"roofline_milliseconds": 1000 * least, "limit": side, "over_roofline": took / least}
    return row


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operation", nargs="*", help="all that have a Triton path by default")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--write", action="store_true", help="keep the numbers in results/gpu.csv")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls (default %(default)s)")
    options = parser.parse_args(arguments)
    known = {name: op for name, op in ops().items() if "triton" in op.backends}
    unknown = sorted(set(options.operation) - set(known))
    if unknown:
        parser.error(f"no operation {unknown[0]!r} has a Triton path; there are {', '.join(known)}")
    if not torch.cuda.is_available():
        print("There is no GPU that torch can use here: run this where torch.cuda.is_available().", file=sys.stderr)
        return 1
    rows = [measure(known[name], options.repeats) for name in options.operation or known]
    if options.write and all(row["agree"] for row in rows):
        write_results("gpu", rows, repeats=options.repeats)
    if options.json:
        for row in rows:
            print(json.dumps(row))
    else:
        _print(rows)
    return 0 if all(row["agree"] for row in rows) else 1


def _print(rows: Sequence[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(*columns, title=torch.cuda.get_device_name(), title_justify="left")
    for row in rows:
        values = (row.get(column, "") for column in columns)
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
